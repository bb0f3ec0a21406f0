//! The worlds of the tracked layer replay, as the others do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod tracked_world;

use std::sync::Arc;

use queue_testkit::simulation::{World, simulate};
use tracked_world::TrackedWorld;

#[test]
fn a_seed_of_a_tracked_world_replays_exactly() {
    for world in TrackedWorld::all() {
        let world: Arc<dyn World> = Arc::new(world);
        for seed in [3, 11, 17, 40] {
            let (first, again) = (simulate(&world, seed, true), simulate(&world, seed, true));
            assert!(first.trace.len() > 10, "there is nothing to compare");
            for (number, (one, other)) in first.trace.iter().zip(&again.trace).enumerate() {
                assert_eq!(one, other, "seed {seed} in {}: line {number}", world.name());
            }
            assert_eq!((first.digest, first.wrongs), (again.digest, again.wrongs));
        }
    }
}
