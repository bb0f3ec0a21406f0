//! Order with a bound: nothing that is ready waits longer than that behind higher priorities.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod rig;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use queue_core::{
    Env, Failure, Job, JobScheduler, Priority,
    job::Envelope,
    provider::{Disposition, ReleaseReason, Settlement},
    queue_spec::Order,
};
use queue_memory::MemoryProvider;
use rig::{START, done, job, numbers, queue, rig, seconds, settle};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use validator::Validate;

const BOUND: Duration = Duration::from_secs(10);
const AGED: Order = Order::Aged { bound: BOUND };

#[derive(Serialize, Deserialize, Validate)]
struct Work {
    number: usize,
}

impl Job for Work {
    const KIND: &'static str = "work";
    const QUEUE: &'static str = "q";
    type Output = ();
}

/// One stream of jobs: its priority, and how many come in a second.
#[derive(Clone, Copy)]
struct Stream(Priority, u32);

/// Four slots and 100 ms a job: forty jobs a second.
const SLOTS: usize = 4;
const RUN: Duration = Duration::from_millis(100);

/// The longest wait by priority level, of a minute of these streams through a worker; who still waits counts as well.
async fn flood(order: Order, streams: &[Stream]) -> BTreeMap<u8, Duration> {
    let env = Env::seeded(START, 1);
    let queues = JobScheduler::with_env(Arc::new(MemoryProvider::with_env(env.clone())), env);
    let mut spec = queue_core::QueueSpec::new(queue());
    spec.order = order;
    queues.declare(spec).await.unwrap();
    type Waits = Vec<(u8, Instant, Option<Duration>)>;
    let waits: Arc<Mutex<Waits>> = Arc::default();
    let started = Arc::clone(&waits);
    let running = queues
        .worker()
        .queue("q", SLOTS)
        .heartbeat_on_runtime()
        .register(move |work: Work| {
            let wait = &mut started.lock().unwrap()[work.number];
            wait.2 = Some(wait.1.elapsed());
            async {
                sleep(RUN).await;
                Ok::<_, Failure>(())
            }
        })
        .start()
        .await
        .unwrap();
    let begin = Instant::now();
    let publishers = streams.iter().map(|Stream(priority, rate)| {
        let (queues, waits, priority, rate) = (queues.clone(), Arc::clone(&waits), *priority, *rate);
        tokio::spawn(async move {
            for n in 0..60 * rate {
                tokio::time::sleep_until(begin + Duration::from_secs(1) * n / rate).await;
                let number = {
                    let mut waits = waits.lock().unwrap();
                    waits.push((priority.level(), Instant::now(), None));
                    waits.len() - 1
                };
                queues.enqueue(Work { number }).priority(priority).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    running.stop().await;
    let mut longest = BTreeMap::new();
    for (level, submitted, waited) in &*waits.lock().unwrap() {
        let longest: &mut Duration = longest.entry(*level).or_default();
        *longest = (*longest).max(waited.unwrap_or_else(|| submitted.elapsed()));
    }
    longest
}

#[tokio::test(start_paused = true)]
async fn under_a_flood_of_high_at_150_percent_low_waits_less_than_the_bound() {
    let streams = [Stream(Priority::HIGH, 60), Stream(Priority::LOW, 4)];
    let waits = flood(AGED, &streams).await;
    let low = waits[&Priority::LOW.level()];
    assert!(low < BOUND, "{waits:?}");
    assert!(low > BOUND / 4, "it gave way to the higher ones at first: {waits:?}");

    let strict = flood(Order::Strict, &streams).await;
    assert!(strict[&Priority::LOW.level()] > 4 * BOUND, "in strict order it starves: {strict:?}");
}

#[tokio::test(start_paused = true)]
async fn several_lower_streams_keep_to_the_bound_together() {
    let level = |level| Priority::new(level).unwrap();
    let streams = [Stream(Priority::HIGH, 60), Stream(Priority::NORMAL, 8), Stream(level(3), 4), Stream(level(1), 6)];
    let waits = flood(AGED, &streams).await;
    for lower in [Priority::NORMAL.level(), 3, 1] {
        assert!(waits[&lower] < BOUND, "level {lower}: {waits:?}");
    }
    let strict = flood(Order::Strict, &streams).await;
    assert!(strict[&1] > 4 * BOUND, "{strict:?}");
}

#[tokio::test(start_paused = true)]
async fn one_flooding_lower_stream_does_not_take_the_bound_from_another() {
    let streams = [Stream(Priority::HIGH, 60), Stream(Priority::NORMAL, 60), Stream(Priority::LOW, 4)];
    let waits = flood(AGED, &streams).await;
    assert!(waits[&Priority::LOW.level()] < BOUND, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_low_holds_nothing_higher_back() {
    let streams = [Stream(Priority::LOW, 60), Stream(Priority::NORMAL, 4), Stream(Priority::HIGH, 15)];
    let waits = flood(AGED, &streams).await;
    // What was fetched before it, and what runs.
    let short = Duration::from_secs(1);
    assert!(waits[&Priority::HIGH.level()] < short, "{waits:?}");
    assert!(waits[&Priority::NORMAL.level()] < BOUND, "{waits:?}");
}

fn ranked(n: u64, level: u8) -> Envelope {
    job(n).edit(|parts| parts.priority = Priority::new(level).unwrap())
}

#[tokio::test(start_paused = true)]
async fn age_counts_from_when_a_job_is_ready() {
    let rig = rig(|spec| spec.order = AGED).await;
    // Submitted first, ready after an hour.
    rig.publish([ranked(1, 1).edit(|parts| parts.not_before = Some(START + seconds(3_600)))]).await;
    sleep(seconds(3_600)).await;
    let consumer = rig.consumer(1).await;
    rig.publish([ranked(2, 9), ranked(3, 9), ranked(4, 9), ranked(5, 9)]).await;
    for (after, expected) in [(0, 2), (4, 3), (1, 1), (0, 4), (0, 5)] {
        sleep(seconds(after)).await;
        let taken = consumer.fetch(1, Duration::ZERO).await.unwrap();
        assert_eq!(numbers(&taken), [expected]);
        settle(&*consumer, &taken[0], done()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_returns_to_the_head_keeps_its_age_and_a_retried_one_begins_anew() {
    for retried in [false, true] {
        let rig = rig(|spec| spec.order = AGED).await;
        let consumer = rig.consumer(10).await;
        rig.publish([ranked(1, 1)]).await;
        sleep(seconds(4)).await;
        let taken = consumer.fetch(1, Duration::ZERO).await.unwrap();
        let disposition = match retried {
            true => Disposition::Retry { after: Duration::ZERO, error: queue_core::JobError::custom("TEMP", "again") },
            false => Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown },
        };
        consumer.settle(&[Settlement::new(taken[0].receipt, disposition)]).await;
        rig.publish([ranked(2, 9), ranked(3, 9)]).await;
        sleep(seconds(1)).await;
        let next = consumer.fetch(3, Duration::ZERO).await.unwrap();
        assert_eq!(numbers(&next), if retried { [2, 3, 1] } else { [1, 2, 3] }, "retried: {retried}");
    }
}

#[tokio::test(start_paused = true)]
async fn within_a_priority_it_stays_first_in_first_out() {
    let rig = rig(|spec| spec.order = AGED).await;
    rig.publish((1..=3).map(|n| ranked(n, 1))).await;
    sleep(seconds(6)).await;
    rig.publish((4..=6).map(|n| ranked(n, 9)).chain([ranked(7, 1)])).await;
    let consumer = rig.consumer(10).await;
    assert_eq!(numbers(&consumer.fetch(10, Duration::ZERO).await.unwrap()), [1, 4, 2, 5, 3, 6, 7]);
}
