//! A scheduler and a worker over a bare transport and a store: everything that needs a memory works, on every shape.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bed::{Bed, Process, secs, shapes};
use futures_util::StreamExt as _;
use queue_core::{
    ErrorCode, Failure, Job, JobContext, JobScheduler, QueueName, QueueProvider, QueueSpec, RetryPolicy,
    lifecycle::JobState,
    provider::{DeadFilter, PublishOptions, Redrive},
    queue_spec::Tracking,
    scheduler::{NewJob, Submitted},
    store::CancelOutcome,
    worker::WorkerBuilder,
};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Work {
    number: u32,
}

impl Job for Work {
    const KIND: &'static str = "work";
    const QUEUE: &'static str = "work";
    type Output = u32;
}

fn scheduler(bed: &Bed, process: &Process) -> JobScheduler {
    JobScheduler::with_env(Arc::clone(&process.tracked) as Arc<dyn QueueProvider>, bed.env.clone())
}

fn worker(queues: &JobScheduler) -> WorkerBuilder {
    queues.worker().queue("work", 8).heartbeat_on_runtime()
}

type Seen = Arc<Mutex<BTreeMap<u32, Vec<u32>>>>;

async fn submit(queues: &JobScheduler, numbers: std::ops::Range<u32>) {
    let jobs = numbers.map(|number| NewJob::typed(&Work { number }).unwrap()).collect();
    let answers = queues.submit(&QueueName::from_static("work"), jobs, &PublishOptions::default()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Submitted::Accepted(_))), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn results_retries_and_progress_are_remembered() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        let queues = scheduler(&bed, &process);
        let running = worker(&queues)
            .register(|job: Work, context: JobContext| async move {
                context.progress(50.0);
                context.log("half of it");
                tokio::time::sleep(secs(1)).await;
                if context.attempt() < 3 { Err(Failure::retry("not yet")) } else { Ok(job.number * 2) }
            })
            .start()
            .await
            .unwrap();
        let handle = queues.enqueue(Work { number: 21 }).retry(RetryPolicy::fixed(3, secs(40))).await.unwrap();
        let mut progress = handle.progress().await.unwrap();
        assert!((progress.next().await.unwrap().unwrap().percent - 50.0).abs() < 0.1);
        let before = bed.env.clock.monotonic();
        assert_eq!(handle.result().await.unwrap(), 42);
        let took = bed.env.clock.monotonic() - before;
        assert!(took >= secs(80) && took < secs(90), "two backoffs of 40 s: {took:?}");
        let record = handle.record().await.unwrap();
        assert_eq!((record.state, record.attempt, record.history.len()), (JobState::Completed, 3, 1));
        assert!(handle.logs().await.unwrap().iter().all(|line| line == "half of it"));
        running.stop().await;
        queues.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_and_running_jobs_are_cancelled() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        let queues = scheduler(&bed, &process);
        let waiting = queues.enqueue(Work { number: 1 }).await.unwrap();
        let later = queues.enqueue(Work { number: 2 }).delay(secs(3_000)).await.unwrap();
        assert_eq!(waiting.cancel().await.unwrap(), CancelOutcome::Cancelled);
        assert_eq!(later.cancel().await.unwrap(), CancelOutcome::Cancelled);
        let runs = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&runs);
        let running = worker(&queues)
            .register(move |_: Work, context: JobContext| {
                count.fetch_add(1, Ordering::Relaxed);
                async move {
                    context.cancelled().await;
                    Err::<u32, _>(Failure::Cancel)
                }
            })
            .start()
            .await
            .unwrap();
        let handle = queues.enqueue(Work { number: 3 }).await.unwrap();
        tokio::time::sleep(secs(2)).await;
        let asked = bed.env.clock.monotonic();
        assert_eq!(handle.cancel().await.unwrap(), CancelOutcome::Requested);
        assert_eq!(handle.finished().await.unwrap().state, JobState::Cancelled);
        assert!(bed.env.clock.monotonic() - asked <= secs(1), "the store's events carry the request");
        tokio::time::sleep(secs(4_000)).await;
        assert_eq!(runs.load(Ordering::Relaxed), 1, "what was cancelled before it started is never started");
        running.stop().await;
        assert_eq!(bed.copies().await, 0);
        queues.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_unique_job_is_one_until_it_is_finished_and_the_dead_come_back() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        let queues = scheduler(&bed, &process);
        let enqueue = || queues.enqueue(Work { number: 1 }).unique("one").unwrap().retry(RetryPolicy::never());
        let first = enqueue().await.unwrap();
        let second = enqueue().await.unwrap();
        assert!(second.is_duplicate() && second.id() == first.id());
        let healed = Arc::new(AtomicU32::new(0));
        let flag = Arc::clone(&healed);
        let running = worker(&queues)
            .register(move |job: Work| {
                let healed = flag.load(Ordering::Relaxed) == 1;
                async move { if healed { Ok(job.number) } else { Err(Failure::never("broken")) } }
            })
            .start()
            .await
            .unwrap();
        assert_eq!(first.finished().await.unwrap().state, JobState::Dead);
        let dead = queues.admin().dead(&bed.queue, &DeadFilter::default(), None, 10).await.unwrap().items;
        assert_eq!((dead.len(), dead[0].id, dead[0].error.message.as_ref()), (1, first.id(), "broken"));
        healed.store(1, Ordering::Relaxed);
        let report = queues.admin().redrive(&bed.queue, &Redrive::all()).await.unwrap();
        assert_eq!((report.matched, report.redriven), (1, 1));
        assert_eq!(first.result().await.unwrap(), 1);
        assert!(!enqueue().await.unwrap().is_duplicate(), "the key is free again");
        running.stop().await;
        queues.close().await.unwrap();
    }
}

/// The promise: an outage of the store delays, and neither loses nor doubles.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_delays_and_neither_loses_nor_doubles() {
    for (shape, outage) in
        shapes().into_iter().flat_map(|shape| [5, 20, 100, 1_000].map(|outage| (shape.clone(), outage)))
    {
        let name = format!("{shape:?}, {outage} s");
        let bed = Bed::new(shape);
        let process = bed.process();
        let queues = scheduler(&bed, &process);
        submit(&queues, 0..200).await;
        let seen: Seen = Arc::default();
        let runs = Arc::clone(&seen);
        let running = worker(&queues)
            .register(move |job: Work, context: JobContext| {
                runs.lock().unwrap().entry(job.number).or_default().push(context.attempt());
                async move {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    Ok::<_, Failure>(job.number)
                }
            })
            .start()
            .await
            .unwrap();
        tokio::time::sleep(secs(3)).await;
        process.faults.outage(true);
        tokio::time::sleep(secs(2)).await;
        // It is known to be away by now: publishing goes on.
        submit(&queues, 200..300).await;
        tokio::time::sleep(secs(outage)).await;
        process.faults.outage(false);
        tokio::time::sleep(secs(300)).await;
        running.stop().await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen.len(), 300, "{name}: all are run");
        let again: Vec<_> = seen.iter().filter(|(_, attempts)| attempts.len() > 1).collect();
        assert!(again.is_empty(), "{name}: run again: {again:?}");
        let stats = queues.stats(&bed.queue).await.unwrap();
        assert_eq!((stats.completed_total, stats.waiting(), stats.running), (300, 0, 0), "{name}");
        assert_eq!((bed.copies().await, process.tracked.settlements_waiting()), (0, 0), "{name}");
        queues.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_restarts_twice_loses_nothing_and_what_finished_is_not_run_again() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        let queues = scheduler(&bed, &process);
        submit(&queues, 0..200).await;
        let seen: Seen = Arc::default();
        let runs = Arc::clone(&seen);
        let running = worker(&queues)
            .register(move |job: Work, context: JobContext| {
                runs.lock().unwrap().entry(job.number).or_default().push(context.attempt());
                async move {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    Ok::<_, Failure>(job.number)
                }
            })
            .start()
            .await
            .unwrap();
        for _ in 0..2 {
            tokio::time::sleep(secs(2)).await;
            bed.broker.restart();
        }
        tokio::time::sleep(secs(300)).await;
        running.stop().await;
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen.len(), 200);
        // The fence decides, not the session: who ran when the broker went still settles.
        assert!(seen.values().all(|attempts| attempts == &[1]), "{seen:?}");
        queues.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_its_workers_ends_as_poison() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let mut spec = QueueSpec::new(bed.queue.clone());
        spec.max_deliveries = 3;
        let first = bed.process();
        let queues = scheduler(&bed, &first);
        queues.declare(spec.clone()).await.unwrap();
        let handle = queues.enqueue(Work { number: 1 }).timeout(secs(1_000)).await.unwrap();
        let runs = Arc::new(AtomicU32::new(0));
        let mut dead = None;
        for _ in 0..8 {
            let process = bed.process();
            let queues = scheduler(&bed, &process);
            queues.declare(spec.clone()).await.unwrap();
            let count = Arc::clone(&runs);
            let running = worker(&queues)
                .register(move |_: Work| {
                    count.fetch_add(1, Ordering::Relaxed);
                    async { std::future::pending::<Result<u32, Failure>>().await }
                })
                .start()
                .await
                .unwrap();
            tokio::time::sleep(secs(100)).await;
            process.crash();
            drop(running);
            let record = handle.record().await.unwrap();
            if record.state == JobState::Dead {
                dead = Some(record);
                break;
            }
        }
        let error = dead.expect("it ends").error.unwrap();
        assert_eq!(error.code, ErrorCode::Poison.as_str());
        assert!(runs.load(Ordering::Relaxed) <= 4, "{runs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_untracked_queue_passes_straight_through() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        let queues = scheduler(&bed, &process);
        let mut spec = QueueSpec::new(bed.queue.clone());
        spec.tracking = Tracking::Off;
        queues.declare(spec).await.unwrap();
        process.fuse.mend();
        submit(&queues, 0..20).await;
        let seen: Seen = Arc::default();
        let runs = Arc::clone(&seen);
        let running = worker(&queues)
            .register(move |job: Work, context: JobContext| {
                runs.lock().unwrap().entry(job.number).or_default().push(context.attempt());
                let attempt = context.attempt();
                async move { if attempt == 1 { Err(Failure::retry("once")) } else { Ok(job.number) } }
            })
            .start()
            .await
            .unwrap();
        tokio::time::sleep(secs(300)).await;
        running.stop().await;
        assert!(seen.lock().unwrap().len() == 20 && seen.lock().unwrap().values().all(|attempts| attempts == &[1, 2]));
        let of_jobs = ["store.stage", "store.claim", "store.settle", "store.confirm", "store.heartbeat"];
        assert!(process.fuse.calls().iter().all(|call| !of_jobs.contains(call)), "{:?}", process.fuse.calls());
        assert_eq!(bed.copies().await, 0);
        queues.close().await.unwrap();
    }
}
