//! The simulator, simulated: it replays, and it finds what was planted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::sync::Arc;

use queue_testkit::{
    saboteur::Defect,
    simulation::{Campaign, MemoryWorld, ModelWorld, Plant, Soil, Weed, World, simulate, worlds},
};

/// A seed is a run: the same calls at the same times with the same answers, to the last letter.
#[test]
fn a_seed_replays_exactly() {
    for world in worlds() {
        for seed in [3, 6, 9, 11, 17] {
            let first = simulate(&world, seed, true);
            let again = simulate(&world, seed, true);
            assert!(first.is_clean(), "{first}");
            assert!(first.trace.len() > 10, "there is nothing to compare");
            for (number, (one, other)) in first.trace.iter().zip(&again.trace).enumerate() {
                assert_eq!(one, other, "seed {seed} in {}: line {number}", world.name());
            }
            assert_eq!(first.trace.len(), again.trace.len());
            let silent = simulate(&world, seed, false);
            assert_eq!((first.digest, silent.trace.len()), (silent.digest, 0), "tracing changes nothing");
        }
    }
}

#[test]
fn seeds_differ() {
    let world: Arc<dyn World> = Arc::new(MemoryWorld::new());
    assert_ne!(simulate(&world, 1, false).digest, simulate(&world, 2, false).digest);
}

/// Within so many seeds: a small part of what CI runs of each world.
const WITHIN: u64 = 400;

fn memory(soil: Soil, plant: impl Plant) -> Arc<dyn World> {
    Arc::new(MemoryWorld::planted(soil, Arc::new(plant)))
}

fn push(plant: impl Plant) -> Arc<dyn World> {
    Arc::new(ModelWorld::push().planted(Soil::Broker, Arc::new(plant)))
}

/// What is planted, where, and under which name.
fn planted() -> Vec<(&'static str, Arc<dyn World>)> {
    use Soil::{Broker, Process};
    vec![
        ("active without a lease", memory(Broker, Weed::ActiveWithoutLease)),
        ("attempt counted twice", memory(Broker, Weed::AttemptCountedTwice)),
        ("double promotion", memory(Broker, Weed::PromotedTwice)),
        ("acknowledged before its successor", push(Weed::AcknowledgedBeforeSuccessor)),
        ("settled although the successor failed", push(Weed::SettledDespiteSuccessor)),
        ("settlement forgotten now and then", memory(Broker, Weed::SettlementForgotten)),
        ("lease renewed for too short", memory(Process, Weed::RenewedTooLate)),
        ("stale settlement accepted", memory(Broker, Defect::StaleAccepted)),
        ("settlement settles twice", memory(Broker, Defect::ReplayIsSettled)),
        ("settlement dropped", memory(Broker, Defect::SettleDropped)),
        ("settlement of a batch lost", memory(Broker, Defect::BatchSettleLost)),
        ("lost wake-up", memory(Broker, Defect::WakeUpLost)),
        ("event fired twice", memory(Broker, Defect::EventsDoubled)),
        ("lost batch item", memory(Broker, Defect::BatchItemLost)),
        ("job doubled", memory(Broker, Defect::PublishDoubled)),
        ("delay ends early", memory(Broker, Defect::DelayCutShort)),
        ("retry at once", memory(Broker, Defect::RetryDelayIgnored)),
        ("retry without an attempt", memory(Broker, Defect::RetryKeepsAttempt)),
        ("release spends an attempt", memory(Broker, Defect::ReleaseRaisesAttempt)),
        ("cancel lost", memory(Broker, Defect::CancelDoesNothing)),
        ("cancel never told to who runs it", memory(Broker, Defect::CancelNotDelivered)),
        ("unique key never freed", memory(Broker, Defect::UniqueNeverFreed)),
        ("unique key ignored", memory(Broker, Defect::UniqueIgnored)),
        ("forgotten expired lease", memory(Broker, Defect::LeaseNeverEnds)),
        ("heartbeat that does not extend", memory(Broker, Defect::NeverExtended)),
        ("worker that never renews", memory(Process, Defect::NeverExtended)),
        ("worker that marks no start", memory(Process, Defect::StartedNotCounted)),
        ("worker that settles nothing", memory(Process, Defect::SettleDropped)),
        ("redelivery not flagged", memory(Broker, Defect::RedeliveredNeverSet)),
        ("starts not counted", memory(Broker, Defect::StartedNotCounted)),
        ("given out twice", memory(Broker, Defect::DeliveredTwice)),
        ("pause ignored", memory(Broker, Defect::PauseIgnored)),
        ("priority ignored", memory(Broker, Defect::PriorityIgnored)),
        ("order reversed", memory(Broker, Defect::OrderReversed)),
        ("follow-up dropped", memory(Broker, Defect::FollowUpsDropped)),
        ("expired job delivered", memory(Broker, Defect::ExpiredDelivered)),
        ("redriven job lost", memory(Broker, Defect::RedriveLoses)),
        ("two leaders", memory(Broker, Defect::TwoLeaders)),
        ("demand exceeded", memory(Broker, Defect::DemandIgnored)),
    ]
}

/// Each planted bug is found, within a fraction of what CI runs; how soon is printed.
#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    let all = planted();
    assert!(all.len() >= 15);
    for (name, world) in all {
        let mut campaign = Campaign::new(vec![world], 0, WITHIN);
        campaign.stop_at_first = true;
        let tally = campaign.run();
        match tally.failures.first() {
            Some(found) => println!("{name:<40} after {:>3} seeds: {}", tally.seeds, found.wrongs[0]),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found within {WITHIN} seeds: {missed:?}");
}

/// What is planted changes nothing by itself.
#[test]
fn without_a_plant_the_same_seeds_are_clean() {
    let tally = Campaign::new(vec![Arc::new(MemoryWorld::new()), Arc::new(ModelWorld::push())], 0, 100).run();
    assert!(tally.failures.is_empty(), "{tally}\n{}", tally.failures[0]);
}
