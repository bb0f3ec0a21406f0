//! The simulator on every world: `cargo xtask simulate`, and CI.

mod journal_world;
mod tracked_world;

use std::{process::ExitCode, sync::Arc};

use journal_world::JournalWorld;
use queue_testkit::simulation::{World, perform, worlds};
use tracked_world::TrackedWorld;

/// What CI runs: some minute and a half of both cores, unoptimized. Building with optimizations would cost more than it saves.
const SEEDS: u64 = 10_000;
/// A seed of the journal takes five times as long as one without. It has the last turn of so many rounds of the others, which
/// keep the seeds that they had.
const ROUNDS: usize = 5;

fn rotation() -> Vec<Arc<dyn World>> {
    let mut rounds = worlds().repeat(ROUNDS);
    rounds.pop();
    rounds.push(Arc::new(JournalWorld::default()));
    rounds
}

fn main() -> ExitCode {
    // Entered by name until what they find is mended; see docs/book/simulation.md.
    let tracked: Vec<Arc<dyn World>> = TrackedWorld::all().into_iter().map(|world| Arc::new(world) as _).collect();
    perform(&rotation(), &tracked, SEEDS)
}
