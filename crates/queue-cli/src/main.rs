//! The `queue` command.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use queue_cli::{
    args::{Cli, Command},
    doctor, inspect, run,
};

/// What one thread allocates another frees here, and the system's allocator makes these wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(*args).into(),
        Command::Doctor(args) => doctor::doctor(&args).into(),
        Command::Inspect(args) => inspect::inspect(&args).into(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            Cli::completions(shell, &mut script);
            // A reader that has seen enough is no failure.
            let _ = io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
    }
}
