//! The same worker over every broker's shape: what it needs of a transport is the contract, not memory's richer means.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use queue_core::{
    Env, ErrorCode, Event, Failure, Job, JobContext, JobScheduler, QueueName, QueueSpec, RetryPolicy, Timestamp,
    event::JobEventKind,
    provider::{DeadFilter, PublishOptions},
    scheduler::{NewJob, Submitted},
    store::Watched,
};
use queue_testkit::models::{Broker, LogModel, PushModel, Shape, VisibilityModel};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Numbered {
    number: u32,
}

impl Job for Numbered {
    const KIND: &'static str = "numbered";
    const QUEUE: &'static str = "numbers";
    type Output = ();
}

fn queue() -> QueueName {
    QueueName::from_static(Numbered::QUEUE)
}

fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

fn on(shape: Shape) -> (Arc<Broker>, JobScheduler) {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 3);
    let broker = Broker::new(env.clone(), shape);
    let queues = JobScheduler::with_env(broker.connect(), env);
    (broker, queues)
}

async fn submit(queues: &JobScheduler, count: u32) {
    let jobs = (0..count).map(|number| NewJob::typed(&Numbered { number }).unwrap()).collect();
    let answers = queues.submit(&queue(), jobs, &PublishOptions::default()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Submitted::Accepted(_))), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn jobs_are_retried_buried_and_finished_on_every_shape() {
    for shape in shapes() {
        let (_broker, queues) = on(shape);
        let mut spec = QueueSpec::new(queue());
        spec.retry = RetryPolicy::fixed(3, Duration::from_secs(5));
        queues.declare(spec).await.unwrap();
        submit(&queues, 300).await;

        // One in ten fails once, one in a hundred always.
        let runs: Arc<Mutex<BTreeMap<u32, Vec<u32>>>> = Arc::default();
        let seen = Arc::clone(&runs);
        let worker = queues
            .worker()
            .queue(queue(), 8)
            .heartbeat_on_runtime()
            .register(move |job: Numbered, context: JobContext| {
                seen.lock().unwrap().entry(job.number).or_default().push(context.attempt());
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    match (job.number % 100, job.number % 10, context.attempt()) {
                        (0, ..) | (_, 0, 1) => Err(Failure::retry("broken")),
                        _ => Ok(()),
                    }
                }
            })
            .start()
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        worker.stop().await;

        let runs = std::mem::take(&mut *runs.lock().unwrap());
        assert_eq!(runs.len(), 300, "{queues:?}");
        for (number, attempts) in &runs {
            let expected: &[u32] = match (number % 100, number % 10) {
                (0, _) => &[1, 2, 3],
                (_, 0) => &[1, 2],
                _ => &[1],
            };
            assert_eq!(attempts, expected, "job {number}");
        }
        let dead = queues.admin().dead(&queue(), &DeadFilter::default(), None, 10).await.unwrap().items;
        assert_eq!(dead.len(), 3);
        assert!(dead.iter().all(|dead| dead.error.code == "HANDLER_FAILED" && dead.attempt == 3), "{dead:?}");
        queues.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_goes_on_by_itself_after_the_broker_restarts() {
    for shape in shapes() {
        let (broker, queues) = on(shape);
        submit(&queues, 200).await;
        let done: Arc<Mutex<BTreeMap<u32, u32>>> = Arc::default();
        let seen = Arc::clone(&done);
        let worker = queues
            .worker()
            .queue(queue(), 4)
            .heartbeat_on_runtime()
            .register(move |job: Numbered| {
                let seen = Arc::clone(&seen);
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    *seen.lock().unwrap().entry(job.number).or_default() += 1;
                    Ok::<_, Failure>(())
                }
            })
            .start()
            .await
            .unwrap();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            broker.restart();
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        worker.stop().await;
        let done = std::mem::take(&mut *done.lock().unwrap());
        assert_eq!(done.len(), 200, "none is lost");
        let again: u32 = done.values().map(|runs| runs - 1).sum();
        assert!(again <= 2 * 6, "{again} ran again; at most what was in hand at each restart may");
        queues.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_events_are_this_process_s_and_look_ups_are_refused() {
    use futures_util::StreamExt as _;
    for shape in shapes() {
        let (_broker, queues) = on(shape);
        let mut events = queues.events().await.unwrap();
        let worker = queues
            .worker()
            .queue(queue(), 1)
            .heartbeat_on_runtime()
            .register(async |_: Numbered| Ok::<_, Failure>(()))
            .start()
            .await
            .unwrap();
        let handle = queues.enqueue(Numbered { number: 1 }).await.unwrap();
        for expected in [JobEventKind::Submitted, JobEventKind::Completed] {
            let Some(Watched::Event(Event::Job(event))) = events.next().await else { panic!("no event") };
            assert_eq!((event.what, event.job.id), (expected, handle.id()));
        }
        assert_eq!(handle.record().await.unwrap_err().code(), ErrorCode::Unsupported);
        assert_eq!(handle.cancel().await.unwrap_err().code(), ErrorCode::Unsupported);
        worker.stop().await;
    }
}
