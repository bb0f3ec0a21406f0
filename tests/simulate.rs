//! The simulator on every world: `cargo xtask simulate`, and CI.

mod journal_world;
mod tracked_world;

use std::{process::ExitCode, sync::Arc};

use journal_world::JournalWorld;
use queue_testkit::simulation::{World, perform, worlds};
use tracked_world::TrackedWorld;

/// What CI runs: about a minute of both cores, unoptimized. Building with optimizations would cost more than it saves.
const SEEDS: u64 = 10_000;

fn main() -> ExitCode {
    // Entered by name until what they find is mended; see docs/book/simulation.md.
    let tracked: Vec<Arc<dyn World>> = TrackedWorld::all().into_iter().map(|world| Arc::new(world) as _).collect();
    let by_name: Vec<Arc<dyn World>> = [Arc::new(JournalWorld::default()) as _].into_iter().chain(tracked).collect();
    perform(&worlds(), &by_name, SEEDS)
}
