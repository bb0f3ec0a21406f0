//! Limits, end to end on the memory provider: who waits, how long, and what it costs the others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod limited;

use std::{collections::BTreeMap, time::Duration};

use limited::{Rig, Work, keys, limit, millis, seconds};
use queue_core::{
    Failure, RetryPolicy,
    event::{BreakerState, JobEventKind},
    lifecycle::JobState,
    limit::{BreakerPolicy, Limit},
};

const TEN_A_SECOND: Limit = Limit::SlidingWindow { max: 10, per: Duration::from_secs(1) };
const TWO: Limit = Limit::Concurrency { max: 2 };

/// The most starts in any stretch of `per`.
fn most_in(starts: &[Duration], per: Duration) -> usize {
    let in_stretch = |from: &Duration| starts.iter().filter(|at| **at >= *from && **at < *from + per).count();
    starts.iter().map(in_stretch).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_sliding_window_holds_in_every_stretch_and_is_used_up() {
    let rig = Rig::new(&[("rate:api", TEN_A_SECOND)]);
    rig.submit(200, keys(|keys| keys.rate = Some("api".into()))).await;
    let worker = rig.worker(8).await;
    let took = rig.until_done(200).await;
    let starts = rig.starts(|_| true);
    assert_eq!(most_in(&starts, seconds(1)), 10);
    assert!(took >= seconds(19) && took < millis(19_500), "{took:?}: nothing of the rate is left unused");
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_bucket_begins_with_its_burst_and_goes_on_at_its_rate() {
    let bucket = Limit::TokenBucket { rate: 5, per: seconds(1), burst: 20 };
    let rig = Rig::new(&[("kind:work", bucket)]);
    rig.submit(70, keys(|_| {})).await;
    let worker = rig.worker(8).await;
    let took = rig.until_done(70).await;
    let starts = rig.starts(|_| true);
    assert_eq!(starts.iter().filter(|at| **at < millis(100)).count(), 20);
    for (index, at) in starts.iter().enumerate().skip(20) {
        let due = millis(200) * u32::try_from(index - 19).unwrap();
        assert!(*at >= due && *at <= due + millis(20), "start {index} at {at:?} instead of {due:?}");
    }
    assert!(took < millis(10_100), "{took:?}");
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_never_exceeded_and_never_left_unused() {
    let rig = Rig::new(&[("concurrency:*", TWO)]);
    rig.work(|_| Work::Takes(millis(100)));
    for name in ["a", "b"] {
        rig.submit(100, keys(|keys| keys.concurrency = Some(name.into()))).await;
    }
    let worker = rig.worker(8).await;
    let took = rig.until_done(200).await;
    assert_eq!(rig.most_at_once(|run| run.key == "a"), 2);
    assert_eq!(rig.most_at_once(|run| run.key == "b"), 2);
    assert_eq!(rig.most_at_once(|_| true), 4);
    assert!(took < seconds(6), "{took:?} instead of 5 s");
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_keeps_to_all_its_limits_at_once() {
    let rig = Rig::new(&[("tenant:*", Limit::Concurrency { max: 1 }), ("rate:api", TEN_A_SECOND), ("queue:jobs", TWO)]);
    rig.work(|_| Work::Takes(millis(50)));
    for tenant in ["a", "b", "c"] {
        let both = keys(|keys| (keys.tenant, keys.rate) = (Some(tenant.into()), Some("api".into())));
        rig.submit(40, both).await;
    }
    let worker = rig.worker(8).await;
    let took = rig.until_done(120).await;
    for tenant in ["a", "b", "c"] {
        assert_eq!(rig.most_at_once(|run| run.key == tenant), 1);
    }
    assert!(rig.most_at_once(|_| true) <= 2);
    assert!(most_in(&rig.starts(|_| true), seconds(1)) <= 10);
    assert!(took < seconds(14), "{took:?} instead of 11 s and a little");
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_of_two_crowded_keys_get_through_between_those_of_one() {
    let rig = Rig::new(&[("tenant:*", TWO), ("concurrency:*", TWO)]);
    rig.work(|_| Work::Takes(millis(100)));
    for _ in 0..10 {
        rig.submit(10, keys(|keys| keys.tenant = Some("a".into()))).await;
        rig.submit(10, keys(|keys| keys.concurrency = Some("b".into()))).await;
        rig.submit(10, keys(|keys| (keys.tenant, keys.concurrency) = (Some("a".into()), Some("b".into())))).await;
    }
    let worker = rig.worker(8).await;
    let took = rig.until_done(300).await;
    let both: Vec<Duration> = rig.starts(|run| run.number % 30 >= 20);
    assert!(took < seconds(13), "{took:?} instead of 10 s");
    assert_eq!(rig.most_at_once(|run| run.key == "a"), 2);
    assert!(rig.most_at_once(|run| run.number % 30 >= 10) <= 2);
    assert!(both[both.len() / 2] < seconds(9), "{both:?}");
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn under_steady_overload_nobody_waits_longer_than_its_turn() {
    let rig = Rig::new(&[("rate:api", TEN_A_SECOND)]);
    let worker = rig.worker(8).await;
    // 15 a second for 40 s: the last must wait 20 s.
    for _ in 0..600 {
        rig.submit(1, keys(|keys| keys.rate = Some("api".into()))).await;
        tokio::time::sleep(Duration::from_nanos(1_000_000_000 / 15)).await;
    }
    rig.until_done(600).await;
    let runs = rig.runs();
    let mut order: Vec<u32> = runs.iter().map(|run| run.number).collect();
    let late = runs.iter().enumerate().map(|(place, run)| place.abs_diff(run.number as usize)).max().unwrap();
    assert!(late <= 20, "a job ran {late} places from its turn");
    order.sort_unstable();
    assert!(order.iter().copied().eq(0..600));
    let longest = runs.iter().map(|run| run.begun - run.submitted).max().unwrap();
    assert!(longest < seconds(22), "{longest:?} instead of 20 s");
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_runs_in_its_order_while_more_keep_coming() {
    let rig = Rig::new(&[("concurrency:db", TWO)]);
    rig.work(|_| Work::Takes(millis(100)));
    let db = || keys(|keys| keys.concurrency = Some("db".into()));
    rig.submit(400, db()).await;
    let worker = rig.worker(8).await;
    for _ in 0..100 {
        tokio::time::sleep(millis(50)).await;
        rig.submit(1, db()).await;
    }
    rig.until_done(500).await;
    let late = rig.runs().iter().enumerate().map(|(place, run)| place.abs_diff(run.number as usize)).max().unwrap();
    // What a worker has in hand already (8 slots, 4 in the buffer) may overtake.
    assert!(late <= 24, "a job ran {late} places from its turn");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn queues_that_share_a_key_take_turns() {
    let rig = Rig::new(&[("concurrency:db", Limit::Concurrency { max: 3 })]);
    rig.work(|_| Work::Takes(millis(100)));
    let db = || keys(|keys| keys.concurrency = Some("db".into()));
    rig.submit_to("jobs", 100, db()).await;
    rig.submit_to("other", 100, db()).await;
    let worker = rig.worker_on(&[("jobs", 4), ("other", 4)]).await;
    rig.until_done(100).await;
    let runs = rig.runs();
    let of = |queue: &str| runs.iter().filter(|run| run.queue == queue).count();
    assert!(of("jobs").abs_diff(of("other")) <= 12, "{} to {}", of("jobs"), of("other"));
    rig.until_done(200).await;
    assert_eq!(rig.most_at_once(|_| true), 3);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_parks_probes_and_lets_all_go() {
    let policy = BreakerPolicy { failures: 5, within: seconds(60), share: 0.5, open_for: seconds(30), probes: 2 };
    let rig = Rig::new(&[("breaker:api", Limit::Breaker(policy))]);
    let broken_until = seconds(75);
    rig.work(move |run| match run.begun < broken_until {
        true => Work::Fails(Failure::retry("the api is away")),
        false => Work::Takes(millis(10)),
    });
    let changes = rig.breaker_events().await;
    rig.submit_retrying(500, keys(|keys| keys.breaker = Some("api".into())), RetryPolicy::fixed(3, seconds(1))).await;
    let worker = rig.worker(8).await;
    let took = rig.until_done(500).await;

    let tried = rig.attempts();
    let failed = tried.into_iter().filter(|at| *at < broken_until);
    let (before, probes): (Vec<Duration>, Vec<Duration>) = failed.partition(|at| *at < seconds(1));
    assert!((5..=12).contains(&before.len()), "{} ran until it opened", before.len());
    assert_eq!(probes.len(), 4, "two probes at 30 s, two at 60 s: {probes:?}");
    assert!(took >= seconds(90) && took < seconds(92), "{took:?}: all go when it closes at 90 s");
    use BreakerState::{Closed, HalfOpen, Open};
    let expected = [
        (Closed, Open, 0),
        (Open, HalfOpen, 30),
        (HalfOpen, Open, 30),
        (Open, HalfOpen, 60),
        (HalfOpen, Open, 60),
        (Open, HalfOpen, 90),
        (HalfOpen, Closed, 90),
    ];
    assert_eq!(rig.seconds_of(&changes), expected);
    // Attempts were spent by those that ran and failed, and by nobody who waited.
    let records = rig.records().await;
    assert!(records.iter().all(|record| record.state == JobState::Completed));
    let spent: u32 = records.iter().map(|record| record.attempt - 1).sum();
    assert_eq!(spent as usize, before.len() + probes.len());
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_limit_or_a_breaker_holds_slows_nobody_else_down() {
    let free_alone = {
        let rig = Rig::new(&[]);
        rig.work(|_| Work::Takes(millis(20)));
        rig.submit(2_000, keys(|_| {})).await;
        let worker = rig.worker(8).await;
        let took = rig.until_done(2_000).await;
        worker.stop().await;
        took
    };
    let policy = BreakerPolicy { failures: 3, open_for: seconds(3_600), ..BreakerPolicy::default() };
    let rig = Rig::new(&[
        ("breaker:api", Limit::Breaker(policy)),
        ("rate:mail", Limit::SlidingWindow { max: 1, per: seconds(3_600) }),
        ("concurrency:db", Limit::Concurrency { max: 1 }),
    ]);
    rig.work(|run| match run.key.as_str() {
        "api" => Work::Fails(Failure::retry("away")),
        // It takes one of the slots for good.
        "db" => Work::Takes(seconds(50)),
        _ => Work::Takes(millis(20)),
    });
    // All that waits stands before all that does not.
    for _ in 0..10 {
        rig.submit(100, keys(|keys| keys.breaker = Some("api".into()))).await;
        rig.submit(100, keys(|keys| keys.rate = Some("mail".into()))).await;
        rig.submit(100, keys(|keys| keys.concurrency = Some("db".into()))).await;
    }
    rig.submit(2_000, keys(|_| {})).await;
    let worker = rig.worker(9).await;
    let took =
        rig.until(|runs| runs.iter().filter(|run| run.key.is_empty() && run.ended.is_some()).count() == 2_000).await;
    assert!(took <= free_alone + free_alone / 20, "{took:?} beside held jobs, {free_alone:?} alone");
    let ran: BTreeMap<String, usize> = rig.runs().into_iter().fold(BTreeMap::new(), |mut ran, run| {
        *ran.entry(run.key).or_default() += 1;
        ran
    });
    assert_eq!((ran["mail"], ran["db"]), (1, 1));
    drop(worker);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_holds_what_was_unparked_and_nobody_else() {
    let rig = Rig::new(&[("concurrency:db", TWO)]);
    rig.work(|_| Work::Takes(millis(100)));
    let db = || keys(|keys| keys.concurrency = Some("db".into()));
    rig.submit_to("jobs", 50, db()).await;
    rig.submit_to("other", 50, db()).await;
    let worker = rig.worker_on(&[("jobs", 4), ("other", 4)]).await;
    tokio::time::sleep(millis(550)).await;
    rig.pause("jobs", true).await;
    // Its share is lost until those that were unparked are given up; then the other queue gets all of it.
    tokio::time::sleep(seconds(10)).await;
    let others = rig.runs().iter().filter(|run| run.queue == "other").count();
    assert_eq!(others, 50, "the other queue went on");
    rig.pause("jobs", false).await;
    rig.until_done(100).await;
    assert_eq!(rig.most_at_once(|_| true), 2);
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_parked_job_leaves_its_line() {
    let rig = Rig::new(&[("concurrency:db", Limit::Concurrency { max: 1 })]);
    rig.work(|_| Work::Takes(seconds(1)));
    rig.submit(10, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(8).await;
    tokio::time::sleep(millis(500)).await;
    for number in [2, 3, 5] {
        rig.cancel(number).await;
    }
    let took = rig.until_done(7).await;
    assert!(took < millis(7_200), "{took:?}: no turn is lost to those that were cancelled");
    let ran: Vec<u32> = rig.runs().iter().map(|run| run.number).collect();
    assert!([2, 3, 5].iter().all(|number| !ran.contains(number)), "{ran:?}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_parked_jobs_parked_and_the_next_worker_runs_them() {
    let rig = Rig::new(&[("concurrency:db", TWO)]);
    rig.work(|_| Work::Takes(seconds(1)));
    rig.submit(20, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(8).await;
    tokio::time::sleep(millis(1_500)).await;
    assert_eq!(rig.parked().await, 16);
    let before = tokio::time::Instant::now();
    let report = worker.stop().await;
    assert_eq!((report.done, report.aborted), (2, 0));
    assert!(before.elapsed() < seconds(1), "{:?}", before.elapsed());
    assert_eq!(rig.parked().await, 16, "nobody lets them go while nobody works");
    tokio::time::sleep(seconds(60)).await;
    let worker = rig.worker(8).await;
    rig.until_done(20).await;
    assert_eq!(rig.most_at_once(|_| true), 2);
    rig.all_completed_at_the_first_attempt().await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_leaves_its_line_and_what_it_held_to_another() {
    let rig = Rig::new(&[("concurrency:db", TWO)]);
    rig.work(|_| Work::Takes(seconds(1)));
    rig.submit(20, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let dies = rig.worker(8).await;
    let lives = rig.worker_on(&[("idle", 1)]).await;
    tokio::time::sleep(millis(1_500)).await;
    drop(dies);
    let next = rig.worker(8).await;
    let took = rig.until_done(20).await;
    // The lost runs come back when their leases end, 30 s later; nothing else waits for that.
    assert!(took < seconds(45), "{took:?}");
    assert!(rig.most_at_once(|run| run.ended.is_some()) <= 2);
    lives.stop().await;
    next.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_rule_holds_at_once_for_those_that_wait() {
    let rig = Rig::new(&[("concurrency:db", Limit::Concurrency { max: 1 })]);
    rig.work(|_| Work::Takes(seconds(10)));
    rig.submit(5, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(8).await;
    tokio::time::sleep(seconds(1)).await;
    rig.queues.limit(limit("concurrency:db", Limit::Concurrency { max: 5 })).unwrap();
    let took = rig.until_done(5).await;
    assert!(took < seconds(12), "{took:?}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn parking_is_told_and_recorded() {
    let rig = Rig::new(&[("concurrency:db", Limit::Concurrency { max: 1 })]);
    rig.work(|_| Work::Takes(seconds(1)));
    let events = rig.job_events().await;
    rig.submit(2, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(8).await;
    tokio::time::sleep(millis(500)).await;
    let parked: Vec<_> = rig.records().await.into_iter().filter_map(|record| record.parked).collect();
    assert_eq!(parked.iter().map(|key| &*key.0).collect::<Vec<_>>(), ["concurrency:db"]);
    rig.until_done(2).await;
    let parks = events.lock().unwrap().iter().filter(|event| event.what == JobEventKind::Parked).count();
    assert_eq!(parks, 1, "once, not again and again");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_does_not_count_what_says_nothing_of_its_dependency() {
    let policy = BreakerPolicy { failures: 2, share: 0.0, within: seconds(120), ..BreakerPolicy::default() };
    let rig = Rig::new(&[("breaker:api", Limit::Breaker(policy))]);
    rig.work(|run| match run.number {
        0 | 1 => Work::Fails(Failure::never("no such user")),
        2 | 3 => Work::Fails(Failure::Cancel),
        4 | 5 => Work::Fails(Failure::Snooze(seconds(3_600))),
        6 | 7 => Work::Fails(Failure::RetryAfter(
            seconds(3_600),
            queue_core::job::JobError::new(queue_core::ErrorCode::RateLimited, "429"),
        )),
        8 => Work::Panics,
        _ => Work::Hangs,
    });
    let changes = rig.breaker_events().await;
    rig.submit_retrying(12, keys(|keys| keys.breaker = Some("api".into())), RetryPolicy::never()).await;
    let worker = rig.worker(8).await;
    tokio::time::sleep(seconds(1)).await;
    // Dropped after their grace.
    rig.cancel(10).await;
    rig.cancel(11).await;
    tokio::time::sleep(seconds(29)).await;
    assert!(changes.lock().unwrap().is_empty(), "one failure so far: the panic");
    // The one that hangs times out at 60 s, and is the second.
    tokio::time::sleep(seconds(31)).await;
    assert_eq!(rig.seconds_of(&changes), [(BreakerState::Closed, BreakerState::Open, 60)]);
    worker.stop().await;
}
