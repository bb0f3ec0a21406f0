//! `cargo xtask`: what developers and CI run.
#![allow(clippy::disallowed_methods, reason = "a developer's tool: it waits for real processes in real time")]

mod bench;
mod brokers;
mod check;
mod coverage;
mod examples;
mod failures;
mod integration;
mod interrupt;
mod run;
mod simulate;
mod soak;
mod steps;
mod test;
mod tool;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What developers and CI run: checks, tests with real brokers, benchmarks, soaks, coverage.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Check(check::Args),
    Test(test::Args),
    Integration(integration::Args),
    #[command(subcommand)]
    Brokers(brokers::Command),
    Bench(bench::Args),
    Soak(soak::Args),
    Simulate(simulate::Args),
    Coverage(coverage::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match interrupt::listen().and_then(|()| perform(cli.task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            eprintln!("\nxtask: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Check(args) => check::perform(&args),
        Task::Test(args) => test::perform(&args),
        Task::Integration(args) => integration::perform(&args),
        Task::Brokers(command) => brokers::perform(command),
        Task::Bench(args) => bench::perform(&args),
        Task::Soak(args) => soak::perform(&args),
        Task::Simulate(args) => simulate::perform(&args),
        Task::Coverage(args) => coverage::perform(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
