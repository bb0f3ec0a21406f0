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
/// A seed of the journal takes several times as long as one without. It has the last turn of so many rounds of the others,
/// which keep the seeds that they have.
const ROUNDS: usize = 3;

fn rotation() -> Vec<Arc<dyn World>> {
    let tracked = TrackedWorld::all().into_iter().map(|world| Arc::new(world) as Arc<dyn World>);
    let round: Vec<Arc<dyn World>> = worlds().into_iter().chain(tracked).collect();
    let turns = round.len() * ROUNDS;
    let mut rotation: Vec<Arc<dyn World>> = round.into_iter().cycle().take(turns).collect();
    if let Some(last) = rotation.last_mut() {
        *last = Arc::new(JournalWorld::default());
    }
    rotation
}

fn main() -> ExitCode {
    perform(&rotation(), &[], SEEDS)
}
