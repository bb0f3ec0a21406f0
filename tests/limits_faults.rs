//! Limits where something is missing: the limiter, the worker that parked, a broker that can park, or only the time to rest.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "limited/front.rs"]
mod front;
mod limited;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use front::{Calls, Front, Mood, Moody};
use limited::{Rig, Work, env, keys, millis, seconds};
use queue_core::{
    Failure, Job, JobScheduler, QueueName,
    limit::{BreakerPolicy, Limit, LimitRule},
    provider::PublishOptions,
    scheduler::NewJob,
    store::StoreScope,
};
use queue_memory::MemoryProvider;
use queue_testkit::models::{Broker, LogModel, PushModel, Shape, VisibilityModel};
use serde::{Deserialize, Serialize};
use validator::Validate;

const TWO: Limit = Limit::Concurrency { max: 2 };
const TEN_A_SECOND: Limit = Limit::SlidingWindow { max: 10, per: Duration::from_secs(1) };

fn front(scope: StoreScope, rules: &[(&str, Limit)]) -> (Rig, Arc<Moody>, Calls) {
    let (env, calls) = (env(), Calls::default());
    let limiter = Moody::new(&env, scope, calls.clone());
    let rig = Rig::on(Front::new(&env, Arc::clone(&limiter) as _, calls.clone()), env, rules);
    (rig, limiter, calls)
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_does_not_answer_delays_and_loses_nothing() {
    for mood in [Mood::Away, Mood::Mute, Mood::Hangs] {
        let (rig, limiter, _) = front(StoreScope::Shared, &[("concurrency:*", TWO)]);
        rig.work(|_| Work::Takes(millis(300)));
        rig.submit(100, keys(|keys| keys.concurrency = Some("db".into()))).await;
        rig.submit(100, keys(|_| {})).await;
        // What was granted without an answer must not be left to a lease that is long.
        let lease = if mood == Mood::Mute { seconds(600) } else { seconds(30) };
        let worker = rig.worker_with_lease(8, lease).await;
        tokio::time::sleep(millis(1_000)).await;
        limiter.is(mood);
        // These ask while nobody answers; nobody of their key is parked.
        rig.submit(10, keys(|keys| keys.concurrency = Some("other".into()))).await;
        tokio::time::sleep(seconds(60)).await;
        let begun = rig.starts(|run| run.key == "db").len();
        assert!((4..=10).contains(&begun), "{mood:?}: {begun}: nothing starts that nobody granted");
        assert_eq!(rig.starts(|run| run.key.is_empty()).len(), 100, "{mood:?}: others run");
        limiter.is(Mood::Well);
        let took = rig.until_done(210).await;
        assert!(took < seconds(61 + 60), "{mood:?}: {took:?}");
        assert_eq!(rig.most_at_once(|run| run.key == "db"), 2, "{mood:?}");
        assert!(rig.most_at_once(|run| run.key == "other") <= 2, "{mood:?}");
        rig.all_completed_at_the_first_attempt().await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_held_for_as_long_as_its_run_is() {
    let (rig, _, _) = front(StoreScope::Process, &[("concurrency:db", TWO)]);
    // Six leases long.
    rig.work(|_| Work::Takes(seconds(58)));
    rig.submit(4, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker_with_lease(8, seconds(10)).await;
    let took = rig.until_done(4).await;
    assert_eq!(rig.most_at_once(|_| true), 2);
    assert!(took < seconds(117), "{took:?}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_process_adopts_the_lines_of_one_that_died() {
    let (first, _, _) = front(StoreScope::Shared, &[("concurrency:db", TWO)]);
    first.work(|_| Work::Takes(seconds(1)));
    first.submit(40, keys(|keys| keys.concurrency = Some("db".into()))).await;
    // The second has been there all the time, busy with another queue, and is told of the line only by the provider.
    let second = first.beside(&[("concurrency:db", TWO)]);
    let dies = first.worker(8).await;
    tokio::time::sleep(millis(2_500)).await;
    drop(dies);
    assert!(first.parked().await >= 30);
    let lives = second.worker(8).await;
    let took = second.until_done(40).await;
    // Two of the dead are run again when their leases end, at 32 s; until then they hold the two places.
    assert!(took < seconds(32 + 25), "{took:?}");
    lives.stop().await;
}

/// The keys of other tenants are as many as are looked at first, and none of them has room for an hour.
#[tokio::test(start_paused = true)]
async fn a_small_key_is_adopted_beside_a_thousand_that_are_full() {
    const ONE_AN_HOUR: Limit = Limit::SlidingWindow { max: 1, per: Duration::from_secs(3_600) };
    const ONE_A_MINUTE: Limit = Limit::SlidingWindow { max: 1, per: Duration::from_secs(60) };
    let rules = [("tenant:*", ONE_AN_HOUR), ("tenant:zoe", ONE_A_MINUTE)];
    let (first, _, _) = front(StoreScope::Shared, &rules);
    for tenant in 0..1_000 {
        first.submit(2, keys(|keys| keys.tenant = Some(format!("a{tenant}").into()))).await;
    }
    first.submit(2, keys(|keys| keys.tenant = Some("zoe".into()))).await;
    let worker = first.worker(8).await;
    tokio::time::sleep(seconds(10)).await;
    worker.stop().await;
    assert_eq!(first.parked().await, 1_001);
    let second = first.beside(&rules);
    let worker = second.worker(8).await;
    let took = second.until_done(1_002).await;
    assert!(took < seconds(100), "{took:?}");
    assert_eq!(second.starts(|run| run.key == "zoe").len(), 2);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_share_a_limit_that_counts_for_both() {
    let (one, ..) = front(StoreScope::Shared, &[("concurrency:db", TWO), ("rate:api", TEN_A_SECOND)]);
    one.work(|run| Work::Takes(if run.key == "db" { millis(100) } else { Duration::ZERO }));
    one.submit(200, keys(|keys| keys.concurrency = Some("db".into()))).await;
    one.submit(200, keys(|keys| keys.rate = Some("api".into()))).await;
    let two = one.beside(&[("concurrency:db", TWO), ("rate:api", TEN_A_SECOND)]);
    let workers = [one.worker(8).await, two.worker(8).await];
    let took = one.until_done(400).await;
    assert_eq!(one.most_at_once(|run| run.key == "db"), 2);
    let starts = one.starts(|run| run.key == "api");
    for from in &starts {
        assert!(starts.iter().filter(|at| **at >= *from && **at < *from + seconds(1)).count() <= 10);
    }
    assert!(took < seconds(26), "{took:?} instead of 20 s");
    one.all_completed_at_the_first_attempt().await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_whose_rule_is_gone_are_let_go() {
    let (first, _, _) =
        front(StoreScope::Process, &[("rate:api", Limit::SlidingWindow { max: 1, per: seconds(3_600) })]);
    first.submit(600, keys(|keys| keys.rate = Some("api".into()))).await;
    let worker = first.worker(8).await;
    tokio::time::sleep(seconds(1)).await;
    worker.stop().await;
    assert_eq!(first.parked().await, 599);
    let second = first.beside(&[]);
    let worker = second.worker(8).await;
    let took = second.until_done(600).await;
    assert!(took < seconds(5), "{took:?}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_parked_jobs_cost_nothing_while_they_wait() {
    const JOBS: u64 = 100_000;
    let (rig, _, calls) =
        front(StoreScope::Process, &[("rate:api", Limit::SlidingWindow { max: 5, per: seconds(1_500) })]);
    for _ in 0..JOBS / 1_000 {
        rig.submit(1_000, keys(|keys| keys.rate = Some("api".into()))).await;
    }
    let worker = rig.worker(8).await;
    while rig.parked().await < JOBS - 5 {
        tokio::time::sleep(millis(50)).await;
    }
    let parking = calls.so_far();
    assert!(parking < 2 * JOBS, "{parking} calls to park {JOBS} jobs");
    tokio::time::sleep(seconds(1_200)).await;
    let resting = calls.so_far() - parking;
    // In 20 minutes: a fetch that found nothing and a look for parked keys every 30 s.
    assert!(resting <= 100, "{resting} calls while nothing could run");
    // Five have their turn: a look, an unpark, and what any five runs cost.
    let before = calls.so_far();
    rig.until_done(10).await;
    let turn = calls.so_far() - before;
    assert!(turn <= 60, "{turn} calls for five turns and 300 s");
    worker.stop().await;
}

fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_parked_jobs_come_again_in_their_turn() {
    for shape in shapes() {
        let env = env();
        let broker = Broker::new(env.clone(), shape);
        let policy = BreakerPolicy { failures: 3, share: 0.0, open_for: seconds(20), ..BreakerPolicy::default() };
        let rules = [("rate:api", TEN_A_SECOND), ("concurrency:db", TWO), ("breaker:b", Limit::Breaker(policy))];
        let rig = Rig::on(broker.connect(), env, &rules);
        rig.work(|run| match run.key.as_str() {
            "db" => Work::Takes(millis(100)),
            "b" if run.begun < seconds(10) => Work::Fails(Failure::retry("away")),
            _ => Work::Takes(Duration::ZERO),
        });
        rig.submit(100, keys(|keys| keys.rate = Some("api".into()))).await;
        rig.submit(100, keys(|keys| keys.concurrency = Some("db".into()))).await;
        rig.submit(50, keys(|keys| keys.breaker = Some("b".into()))).await;
        rig.submit(100, keys(|_| {})).await;
        let worker = rig.worker(8).await;
        let free =
            rig.until(|runs| runs.iter().filter(|run| run.key.is_empty() && run.ended.is_some()).count() == 100).await;
        assert!(free < seconds(5), "{free:?}: what waits blocks nobody");
        let took = rig.until_done(350).await;
        assert!(took < seconds(60), "{took:?}");
        let starts = rig.starts(|run| run.key == "api");
        for from in &starts {
            assert!(starts.iter().filter(|at| **at >= *from && **at < *from + seconds(1)).count() <= 10);
        }
        assert!(*starts.last().unwrap() < seconds(16), "{:?}: the rate is used", starts.last());
        assert_eq!(rig.most_at_once(|run| run.key == "db"), 2);
        worker.stop().await;
        rig.queues.close().await.unwrap();
    }
}

#[derive(Serialize, Deserialize, Validate)]
struct Quick {}

impl Job for Quick {
    const KIND: &'static str = "quick";
    const QUEUE: &'static str = "quick";
    type Output = ();
}

/// On several threads, in real time: a lost wake-up would leave jobs parked for half a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost_and_no_place_is_taken_twice() {
    const JOBS: usize = 20_000;
    let queues = JobScheduler::new(MemoryProvider::new());
    for (scope, max) in [("kind:quick", 3), ("queue:quick", 5)] {
        let scope = scope.parse().unwrap();
        queues.limit(LimitRule { scope, limit: Limit::Concurrency { max } }).unwrap();
    }
    let (running, most, done) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (running, most, done) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&done));
        let handler = move |_: Quick| {
            let (running, most, done) = (Arc::clone(&running), Arc::clone(&most), Arc::clone(&done));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Failure>(())
            }
        };
        workers.push(queues.worker().queue("quick", 8).register(handler).start().await.unwrap());
    }
    for _ in 0..JOBS / 100 {
        let jobs = (0..100).map(|_| NewJob::typed(&Quick {}).unwrap()).collect();
        queues.submit(&QueueName::from_static("quick"), jobs, &PublishOptions::default()).await;
        tokio::task::yield_now().await;
    }
    let start = tokio::time::Instant::now();
    while done.load(Ordering::SeqCst) < JOBS {
        assert!(start.elapsed() < seconds(25), "{} of {JOBS} after 25 s", done.load(Ordering::SeqCst));
        tokio::time::sleep(millis(5)).await;
    }
    assert!(most.load(Ordering::SeqCst) <= 3);
    for worker in workers {
        worker.stop().await;
    }
    let stats = queues.stats(&QueueName::from_static("quick")).await.unwrap();
    assert_eq!((stats.parked, stats.pending), (0, 0));
    queues.close().await.unwrap();
}
