//! The `queue` command.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use queue_cli::{
    args::{Cli, Command},
    exit,
    plan::Plan,
};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => match Plan::new(*args) {
            Ok(_) => refuse("this build cannot run jobs yet"),
            Err(error) => refuse(error),
        },
        Command::Doctor(_) => refuse("this build knows no providers yet"),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            Cli::completions(shell, &mut script);
            // A reader that has seen enough is no failure.
            let _ = io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
    }
}

fn refuse(reason: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::from(exit::UNUSABLE)
}
