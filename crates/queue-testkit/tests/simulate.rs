//! The simulator on the worlds of this crate: `cargo xtask simulate`, and CI.

use std::process::ExitCode;

use queue_testkit::simulation::{perform, worlds};

/// What CI runs: about a minute of both cores, unoptimized. Building with optimizations would cost more than it saves.
const SEEDS: u64 = 10_000;

fn main() -> ExitCode {
    perform(&worlds(), SEEDS)
}
