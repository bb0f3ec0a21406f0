//! The simulator on every world: `cargo xtask simulate`, and CI.

mod journal_world;
mod tracked_world;

use std::{process::ExitCode, sync::Arc};

use journal_world::JournalWorld;
use queue_testkit::simulation::{World, perform, worlds};
use tracked_world::TrackedWorld;

/// What CI runs, unoptimized: docs/book/simulation.md says what a seed of each world costs. Building with optimizations would
/// cost more than it saves.
const SEEDS: u64 = 10_000;
/// A seed of the journal costs three to six of the others. It has the last turn of so many rounds of them.
const ROUNDS: usize = 3;

fn rotation() -> Vec<Arc<dyn World>> {
    let tracked = TrackedWorld::all().into_iter().map(|world| Arc::new(world) as Arc<dyn World>);
    let round: Vec<Arc<dyn World>> = worlds().into_iter().chain(tracked).collect();
    let mut rounds: Vec<_> = std::iter::repeat_n(round, ROUNDS).flatten().collect();
    rounds.pop();
    rounds.push(Arc::new(JournalWorld::default()));
    rounds
}

fn main() -> ExitCode {
    perform(&rotation(), &[], SEEDS)
}
