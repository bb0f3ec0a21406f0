//! Why a job is not running, asked in every situation that can hold one back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue_core::{
    Env, ErrorCode, Failure, Job, JobContext, JobHandle, JobScheduler, QueueName, Timestamp, Worker,
    event::BreakerState,
    job::JobKind,
    lifecycle::JobState,
    limit::{BreakerPolicy, Limit, LimitRule},
    queue_spec::{Partition, QueueSpec},
    scheduler::{Enqueue, WaitReason},
};
use queue_memory::MemoryProvider;
use queue_testkit::models::{Broker, PushModel};
use serde::{Deserialize, Serialize};
use tokio::time::{advance, sleep};
use validator::Validate;

/// A job that runs so long, and then fails if it is to.
#[derive(Serialize, Deserialize, Validate)]
struct Work {
    seconds: u64,
    fails: bool,
}

impl Job for Work {
    const KIND: &'static str = "work";
    const QUEUE: &'static str = "q";
    type Output = ();
}

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn scheduler() -> JobScheduler {
    let env = Env::seeded(START, 1);
    JobScheduler::with_env(Arc::new(MemoryProvider::with_env(env.clone())), env)
}

fn work(queues: &JobScheduler) -> Enqueue<Work> {
    queues.enqueue(Work { seconds: 10, fails: false })
}

async fn worker(queues: &JobScheduler, slots: usize) -> Worker {
    let run = async |work: Work, _: JobContext| {
        sleep(seconds(work.seconds)).await;
        if work.fails { Err(Failure::retry("out of luck")) } else { Ok(()) }
    };
    queues.worker().queue("q", slots).prefetch(0).heartbeat_on_runtime().register(run).start().await.unwrap()
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn why(queues: &JobScheduler, job: &JobHandle<()>) -> (Option<JobState>, Vec<WaitReason>) {
    let explanation = queues.explain(job.job()).await.unwrap();
    assert_eq!((explanation.job, explanation.queue.as_str()), (job.id(), "q"));
    (explanation.state, explanation.reasons)
}

fn no_worker(workers: usize) -> WaitReason {
    WaitReason::NoWorker { kind: Some(JobKind::from_static("work")), workers, elsewhere: false }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_there_to_run_it() {
    let queues = scheduler();
    let job = work(&queues).await.unwrap();
    assert_eq!(why(&queues, &job).await, (Some(JobState::Pending), vec![no_worker(0)]));
    let other = queues.worker().queue("q", 1).prefetch(0).heartbeat_on_runtime();
    let other = other.service("other", tower::service_fn(async |_| Ok::<_, Failure>(None))).start().await.unwrap();
    assert_eq!(why(&queues, &job).await.1, [no_worker(1)]);
    let elsewhere = queues.worker().queue("elsewhere", 1).heartbeat_on_runtime();
    let elsewhere = elsewhere.register(async |_: Work| Ok::<_, Failure>(())).start().await.unwrap();
    assert_eq!(why(&queues, &job).await.1, [no_worker(1)], "it works on another queue");
    other.stop().await;
    elsewhere.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_first_is_told_first() {
    let queues = scheduler();
    let limit = Limit::SlidingWindow { max: 1, per: seconds(90) };
    queues.limit(LimitRule { scope: "rate:api".parse().unwrap(), limit }).unwrap();
    let holder = work(&queues).rate_key("api").await.unwrap();
    let worker = worker(&queues, 2).await;
    sleep(seconds(1)).await;
    let job = work(&queues).rate_key("api").delay(seconds(60)).await.unwrap();
    queues.admin().pause(&QueueName::from_static("q"), true).await.unwrap();
    let (state, reasons) = why(&queues, &job).await;
    assert_eq!(state, Some(JobState::Scheduled));
    let [WaitReason::Paused, WaitReason::DelayedUntil { until }, WaitReason::Limited { key, until: Some(end) }] =
        &reasons[..]
    else {
        panic!("{reasons:?}")
    };
    assert_eq!((*until, &*key.0), (Some(START + seconds(61)), "rate:api"));
    assert!(*end >= START + seconds(90), "{end}");
    assert_eq!(why(&queues, &holder).await, (Some(JobState::Running), vec![]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_failed_and_waits_for_its_next_attempt() {
    let queues = scheduler();
    let worker = worker(&queues, 1).await;
    let retry = queue_core::RetryPolicy::fixed(3, seconds(60));
    let job = queues.enqueue(Work { seconds: 0, fails: true }).retry(retry).await.unwrap();
    sleep(seconds(1)).await;
    let (state, reasons) = why(&queues, &job).await;
    assert_eq!(state, Some(JobState::Retrying));
    let [WaitReason::RetryAt { until: Some(until), attempt: 2, error: Some(error) }] = &reasons[..] else {
        panic!("{reasons:?}")
    };
    assert!(*until >= START + seconds(54) && *until <= START + seconds(67), "{until}");
    assert_eq!(error, "HANDLER_FAILED: out of luck");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn others_are_before_it() {
    let queues = scheduler();
    let worker = worker(&queues, 1).await;
    let first = work(&queues).await.unwrap();
    sleep(seconds(1)).await;
    let second = work(&queues).await.unwrap();
    let third = work(&queues).await.unwrap();
    let busy = WaitReason::WorkersBusy { slots: 1 };
    assert_eq!(why(&queues, &first).await, (Some(JobState::Running), vec![]));
    assert_eq!(why(&queues, &second).await.1, std::slice::from_ref(&busy));
    assert_eq!(why(&queues, &third).await.1, [busy, WaitReason::Position { ahead: 1 }]);
    let words = queues.explain(third.job()).await.unwrap().to_string();
    assert!(words.ends_with("is pending: the only slot for it is busy; 1 job is before it"), "{words}");
    sleep(seconds(60)).await;
    assert_eq!(why(&queues, &third).await, (Some(JobState::Completed), vec![]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn its_partition_is_full() {
    let queues = scheduler();
    let mut spec = QueueSpec::new(QueueName::from_static("q"));
    spec.partitions = BTreeMap::from([("bulk".into(), Partition { weight: 1, max_concurrency: Some(1) })]);
    queues.declare(spec).await.unwrap();
    let worker = worker(&queues, 4).await;
    work(&queues).partition("bulk").await.unwrap();
    sleep(seconds(1)).await;
    let held = work(&queues).partition("bulk").await.unwrap();
    let free = work(&queues).await.unwrap();
    sleep(seconds(1)).await;
    assert_eq!(why(&queues, &free).await, (Some(JobState::Running), vec![]));
    let full = WaitReason::PartitionFull { partition: "bulk".into(), running: 1 };
    assert_eq!(why(&queues, &held).await, (Some(JobState::Pending), vec![full]));
    let words = queues.explain(held.job()).await.unwrap().to_string();
    assert!(words.ends_with("its partition `bulk` has 1 running, as many as may"), "{words}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_it() {
    let queues = scheduler();
    let limit = Limit::SlidingWindow { max: 1, per: seconds(30) };
    queues.limit(LimitRule { scope: "tenant:*".parse().unwrap(), limit }).unwrap();
    let worker = worker(&queues, 4).await;
    let of = |tenant: &str| work(&queues).tenant(tenant);
    of("acme").await.unwrap();
    sleep(seconds(1)).await;
    let held = of("acme").await.unwrap();
    let free = of("other").await.unwrap();
    sleep(seconds(1)).await;
    let (state, reasons) = why(&queues, &held).await;
    assert_eq!(state, Some(JobState::Pending));
    let [WaitReason::Limited { key, until: Some(until) }] = &reasons[..] else { panic!("{reasons:?}") };
    assert_eq!(&*key.0, "tenant:acme");
    assert!(*until >= START + seconds(30) && *until <= START + seconds(31), "{until}");
    assert_eq!(why(&queues, &free).await, (Some(JobState::Running), vec![]));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_it_depends_on_is_broken() {
    let queues = scheduler();
    let policy = BreakerPolicy { failures: 2, open_for: seconds(40), ..BreakerPolicy::default() };
    queues.limit(LimitRule { scope: "breaker:*".parse().unwrap(), limit: Limit::Breaker(policy) }).unwrap();
    let worker = worker(&queues, 4).await;
    for _ in 0..2 {
        let bad = queues.enqueue(Work { seconds: 0, fails: true }).retry(queue_core::RetryPolicy::never());
        bad.depends_on("api").await.unwrap();
    }
    sleep(seconds(1)).await;
    let held = work(&queues).depends_on("api").await.unwrap();
    sleep(seconds(1)).await;
    let (_, reasons) = why(&queues, &held).await;
    let [WaitReason::Breaker { key, state: BreakerState::Open, until: Some(until) }] = &reasons[..] else {
        panic!("{reasons:?}")
    };
    assert_eq!(&*key.0, "breaker:api");
    assert!(*until >= START + seconds(40) && *until <= START + seconds(41), "{until}");
    sleep(seconds(60)).await;
    assert_eq!(why(&queues, &held).await.0, Some(JobState::Completed));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_broker_is_away_and_keeps_no_records() {
    let env = Env::seeded(START, 1);
    let broker = Broker::new(env.clone(), PushModel::default());
    let queues = JobScheduler::with_env(broker.connect(), env);
    let job = work(&queues).await.unwrap();
    let nobody = WaitReason::NoWorker { kind: None, workers: 0, elsewhere: true };
    assert_eq!(why(&queues, &job).await, (None, vec![nobody.clone()]), "nobody here, as far as that is known");
    let words = queues.explain(job.job()).await.unwrap().to_string();
    assert!(words.ends_with("no worker is on the queue in this process (others are not known here)"), "{words}");
    queues.admin().pause(&QueueName::from_static("q"), true).await.unwrap();
    assert_eq!(why(&queues, &job).await.1, [WaitReason::Paused, nobody]);
    // Of what kind it is no record tells: any worker may take it.
    let worker = worker(&queues, 1).await;
    assert_eq!(why(&queues, &job).await, (None, vec![WaitReason::Paused]));
    broker.stop();
    let (state, reasons) = why(&queues, &job).await;
    assert!(state.is_none() && matches!(&reasons[..], [WaitReason::BrokerAway { .. }]), "{reasons:?}");
    drop(worker);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_not_there_is_said_to_be_not_there() {
    let queues = scheduler();
    let job = work(&queues).await.unwrap();
    queues.provider().drop_queue(&QueueName::from_static("q"), false).await.unwrap();
    assert_eq!(queues.explain(job.job()).await.unwrap_err().code(), ErrorCode::NotFound);
    advance(seconds(1)).await;
}
