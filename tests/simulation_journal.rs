//! The world of the journal: it replays, is clean, and finds what was planted in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod journal_world;

use std::sync::Arc;

use journal_world::JournalWorld;
use queue_testkit::{
    saboteur::Defect,
    simulation::{Campaign, World, simulate},
};

#[test]
fn a_seed_replays_exactly() {
    let world: Arc<dyn World> = Arc::new(JournalWorld::default());
    for seed in [3, 6, 9, 11, 17] {
        let (first, again) = (simulate(&world, seed, true), simulate(&world, seed, true));
        assert!(first.is_clean(), "{first}");
        assert!(first.trace.len() > 10, "there is nothing to compare");
        assert_eq!(first.trace, again.trace, "seed {seed}");
        assert_eq!(first.digest, again.digest);
    }
}

/// Each within a fraction of what CI runs.
#[test]
fn planted_bugs_are_found() {
    let planted = [
        ("commit not awaited", JournalWorld::relaxed()),
        ("stale settlement accepted", JournalWorld::planted(Defect::StaleAccepted)),
        ("settlement dropped", JournalWorld::planted(Defect::SettleDropped)),
    ];
    for (name, world) in planted {
        let mut campaign = Campaign::new(vec![Arc::new(world)], 0, 400);
        campaign.stop_at_first = true;
        let tally = campaign.run();
        let found = tally.failures.first().unwrap_or_else(|| panic!("not found: {name}"));
        println!("{name:<40} after {:>3} seeds: {}", tally.seeds, found.wrongs[0]);
    }
}
