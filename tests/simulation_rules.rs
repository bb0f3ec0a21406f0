//! Each rule of the tracked layer, taken away: the simulator objects.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod tracked_world;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use queue_layers::tracked::Rule;
use queue_testkit::simulation::{World, simulate};
use tracked_world::{Scene, TrackedWorld};

fn candidates(rule: Rule) -> Vec<Scene> {
    use Scene::*;
    match rule {
        Rule::ConfirmNamesTheCopy | Rule::SweptIsAccepted => vec![Overtaken],
        Rule::RefusedIsUnstaged => vec![Overtaken, Blind],
        Rule::SweepTriesAgain | Rule::UnansweredIsNotConfirmed | Rule::BusyIsKept => vec![Blind, Overtaken],
        Rule::UnstagedIsNotPublished => vec![Blind, Overtaken],
        Rule::RefusedForGoodIsDead => vec![Cut],
        Rule::FollowUpsAreCheckedFirst => vec![Oversized],
        Rule::StoreIsStamped | Rule::ForeignIsLeftAlone => vec![Strangers],
        Rule::AwayStopsFetching
        | Rule::NothingIsAcknowledgedWhileAway
        | Rule::SettlementsWait
        | Rule::WaitingLeasesAreExtended
        | Rule::PublishingGoesOn
        | Rule::DeadLeasesWait => vec![StoreAway],
        Rule::FullBufferStopsFetching | Rule::StoreSettlesFirst | Rule::LostCopyIsKept => vec![Full],
        Rule::LostCopyGoesBack | Rule::LeaseCountsFromTheAsking => vec![Lapsing],
        Rule::BusyIsShort => vec![Parks],
        Rule::SilentOnlyWhenEmpty => vec![Backlog],
        Rule::SilentIsRepublished => vec![Losses],
        Rule::LongDelaysAreHeld => vec![ShortDelays],
        Rule::PromisesFindRoom => vec![NoRoom],
        _ => vec![Any],
    }
}

#[test]
#[ignore = "searches"]
fn search() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or);
    let (seeds, most) = (number("SEEDS", 40), number("MOST", 2));
    let only = std::env::var("RULES").unwrap_or_default();
    let only_world = std::env::var("WORLD").unwrap_or_default();
    let chosen = |r: &Rule| only.is_empty() || only.split(',').any(|o| format!("{r:?}") == o);
    let mut tasks = Vec::new();
    for rule in Rule::ALL.iter().copied().filter(chosen) {
        for scene in candidates(rule) {
            for world in TrackedWorld::all() {
                tasks.push((rule, scene, world));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let out = Mutex::new(());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some((rule, scene, world)) = tasks.get(n).cloned() else { break };
                    if !world.name().contains(&only_world) {
                        continue;
                    }
                    let plain: Arc<dyn World> = Arc::new(world.clone().scene(scene));
                    let broken: Arc<dyn World> = Arc::new(world.scene(scene).without(rule));
                    let (mut found, mut dirty, mut first, mut why) = (Vec::new(), Vec::new(), String::new(), String::new());
                    for seed in 0..seeds {
                        let o = simulate(&broken, seed, false);
                        if o.is_clean() {
                            continue;
                        }
                        let p = simulate(&plain, seed, false);
                        if !p.is_clean() {
                            why = p.wrongs[0].clone();
                            dirty.push(seed);
                            if dirty.len() >= 5 { break; }
                            continue;
                        }
                        if first.is_empty() {
                            first = o.wrongs[0].clone();
                        }
                        found.push(seed);
                        if found.len() as u64 >= most {
                            break;
                        }
                    }
                    let _g = out.lock();
                    println!("{:<30} {scene:?} {} {found:?} {first} DIRTY {dirty:?} {why}", format!("{rule:?}"), &plain.name()[8..]);
                }
            });
        }
    });
}
