//! The world of the journal: it replays, is clean, and finds what was planted in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod journal_world;

use std::sync::Arc;

use journal_world::JournalWorld;
use queue_memory::Amnesia;
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

fn name_of(what: Amnesia) -> &'static str {
    match what {
        Amnesia::Ends => "settled jobs come back",
        Amnesia::Attempts => "attempts lost at a restart",
        Amnesia::Delays => "delays lost at a restart",
        Amnesia::Windows => "unique keys lost at a restart",
        Amnesia::Switches => "pauses lost at a restart",
        Amnesia::Claims => "claims lost at a restart",
        Amnesia::Openings => "epochs given out again",
    }
}

/// Each within a fraction of what CI runs.
#[test]
fn planted_bugs_are_found() {
    let planted = [
        ("commit not awaited", JournalWorld::relaxed()),
        ("stale settlement accepted", JournalWorld::planted(Defect::StaleAccepted)),
        ("settlement dropped", JournalWorld::planted(Defect::SettleDropped)),
        ("last commits lost", JournalWorld::stale()),
    ];
    let forgets = Amnesia::ALL.map(|what| (name_of(what), JournalWorld::forgetting(what)));
    for (name, world) in planted.into_iter().chain(forgets) {
        let mut campaign = Campaign::new(vec![Arc::new(world)], 0, 400);
        campaign.stop_at_first = true;
        let tally = campaign.run();
        let found = tally.failures.first().unwrap_or_else(|| panic!("not found: {name}"));
        println!("{name:<40} after {:>3} seeds: {}", tally.seeds, found.wrongs[0]);
    }
}
