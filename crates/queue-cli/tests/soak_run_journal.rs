//! `queue run --journal`, killed with -9 at random moments and resumed until it is done, and on a disk that is full at times.
//!
//! Scale 1 is 1,000 kills of runs of 3,000 jobs. Run it with `cargo xtask soak run-journal`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;
mod killed;

use std::{
    process,
    sync::{Once, atomic::Ordering},
    time::Duration,
};

use bench::Bench;
use killed::{Campaign, Dice, STOPPED, SmallDisk, Tally};

const JOBS: u64 = 3_000;
const KILLS: f64 = 1_000.0;
/// In one campaign.
const AT_ONCE: usize = 25;

fn kills() -> usize {
    let scale: f64 = std::env::var("QUEUE_SOAK_SCALE").map_or(1.0, |scale| scale.parse().unwrap());
    (KILLS * scale).ceil() as usize
}

/// The first Ctrl-C has what is known so far told, the second ends it.
fn heed_ctrl_c() {
    static ONCE: Once = Once::new();
    let stop = || {
        if STOPPED.swap(true, Ordering::Relaxed) {
            process::exit(130);
        }
    };
    ONCE.call_once(|| ctrlc::set_handler(stop).unwrap());
}

/// Campaign after campaign, of one-shot programs and of a pool in turn, until so many kills were survived.
fn war(kills: usize, disk: bool) -> Option<Tally> {
    heed_ctrl_c();
    assert!(!STOPPED.load(Ordering::Relaxed), "stopped before it began");
    let mut dice = Dice::new();
    let mut all = Tally::default();
    for campaign in 0.. {
        let small = if disk { Some(SmallDisk::new(48)?) } else { None };
        let pool = campaign % 2 == 1;
        let longest = Duration::from_millis(if pool { 1_500 } else { 1_000 });
        let left = (kills - all.kills).min(AT_ONCE);
        let place = small.as_ref().map(|disk| disk.path().to_owned());
        let campaign = Campaign { jobs: JOBS, concurrency: 4, pool, longest, kills: left, disk: place, look: !disk };
        let tally = campaign.fight(&Bench::new(), &mut dice);
        if STOPPED.load(Ordering::Relaxed) {
            println!("not ended, and not judged: {tally:?}");
            println!("stopped; all that was judged: {all:?}");
            panic!("stopped after {} of {kills} kills", all.kills);
        }
        println!("{} {tally:?}", if pool { "pool:    " } else { "one-shot:" });
        all += tally;
        println!("so far:    {all:?}");
        if all.kills >= kills {
            break;
        }
    }
    Some(all)
}

#[test]
#[ignore = "a soak: run it with `cargo xtask soak run-journal`"]
fn killed_at_random_moments() {
    let all = war(kills(), false).unwrap();
    println!("killed: {all:?}");
}

#[test]
#[ignore = "a soak: run it with `cargo xtask soak run-journal`"]
fn killed_while_the_disk_is_full_part_of_the_way() {
    if let Some(all) = war(kills().div_ceil(4), true) {
        println!("with a full disk: {all:?}");
        assert!(all.full > 0);
    }
}
