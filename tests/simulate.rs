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

fn main() -> ExitCode {
    let tracked = TrackedWorld::all().into_iter().map(|world| Arc::new(world) as Arc<dyn World>);
    let rotation: Vec<Arc<dyn World>> = worlds().into_iter().chain(tracked).collect();
    // A seed of it costs many of the others.
    let by_name: [Arc<dyn World>; 1] = [Arc::new(JournalWorld::default())];
    perform(&rotation, &by_name, SEEDS)
}
