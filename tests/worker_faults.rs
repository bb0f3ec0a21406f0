//! What a worker does when something around it goes wrong: the provider, the queue, the handler, or its own stop.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulty;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use faulty::{Faults, Faulty};
use queue_core::{
    Env, Failure, Job, JobContext, JobScheduler, QueueName, QueueSpec, Timestamp, Worker,
    lifecycle::JobState,
    provider::{Cancel, PublishOptions},
    scheduler::{NewJob, Submitted},
    store::CancelOutcome,
    worker::WorkerBuilder,
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Numbered {
    number: u32,
}

impl Job for Numbered {
    const KIND: &'static str = "numbered";
    const QUEUE: &'static str = "q";
    type Output = ();
}

fn queue() -> QueueName {
    QueueName::from_static("q")
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn queues() -> (JobScheduler, Faults) {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1);
    let faults = Faults::default();
    let faulty = Faulty::new(MemoryProvider::with_env(env.clone()), faults.clone());
    (JobScheduler::with_env(Arc::new(faulty), env), faults)
}

fn worker(queues: &JobScheduler, slots: usize) -> WorkerBuilder {
    queues.worker().queue("q", slots).heartbeat_on_runtime().drain_deadline(seconds(1))
}

async fn stop_takes(worker: Worker) -> Duration {
    let begun = Instant::now();
    tokio::time::timeout(seconds(3_600), worker.stop()).await.unwrap();
    begun.elapsed()
}

async fn nothing(_: Numbered) -> Result<(), Failure> {
    Ok(())
}

async fn never(_: Numbered) -> Result<(), Failure> {
    std::future::pending().await
}

/// In real time, on one thread: a loop that never yields would hang the whole runtime.
#[test]
fn a_dropped_queue_or_a_closed_provider_makes_no_busy_loop() {
    for close in [false, true] {
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let queues = JobScheduler::new(MemoryProvider::new());
                queues.declare(QueueSpec::new(queue())).await.unwrap();
                let running = queues.worker().queue("q", 1).register(nothing).start().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                match close {
                    true => queues.provider().close().await.unwrap(),
                    false => queues.provider().drop_queue(&queue(), false).await.unwrap(),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                running.stop().await;
                ended.send(()).unwrap();
            });
        });
        end.recv_timeout(seconds(10)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_dropped_and_declared_again_is_worked_on_again() {
    let (queues, _) = queues();
    queues.declare(QueueSpec::new(queue())).await.unwrap();
    let running = worker(&queues, 1).register(nothing).start().await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    queues.provider().drop_queue(&queue(), false).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    let mut other = QueueSpec::new(queue());
    other.max_len = Some(7);
    queues.declare(other).await.unwrap();
    let job = queues.enqueue(Numbered { number: 1 }).await.unwrap();
    assert_eq!(job.finished().await.unwrap().state, JobState::Completed);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_cancelled_while_it_waits_for_a_slot_never_starts() {
    let (queues, _) = queues();
    let ran: Arc<Mutex<Vec<u32>>> = Arc::default();
    let log = Arc::clone(&ran);
    let running = worker(&queues, 1)
        .prefetch(2)
        .register(move |job: Numbered| {
            log.lock().unwrap().push(job.number);
            async {
                tokio::time::sleep(seconds(3)).await;
                Ok::<_, Failure>(())
            }
        })
        .start()
        .await
        .unwrap();
    queues.enqueue(Numbered { number: 1 }).await.unwrap();
    let second = queues.enqueue(Numbered { number: 2 }).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(second.cancel().await.unwrap(), CancelOutcome::Requested, "it is prefetched");
    assert_eq!(second.finished().await.unwrap().state, JobState::Cancelled);
    assert_eq!(*ran.lock().unwrap(), [1]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_stop_outlasts_its_deadline_by_more_than_ten_seconds() {
    // A cancel with a long grace came first.
    let (queues, _) = queues();
    let running = worker(&queues, 1).register(never).start().await.unwrap();
    let job = queues.enqueue(Numbered { number: 1 }).timeout(seconds(100_000)).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    queues.cancel(job.job(), &Cancel { by: "me".into(), grace: seconds(3_600) }).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    // The cancel's grace is cut to the stop's own.
    assert!(stop_takes(running).await <= seconds(7));

    // Settlements are never answered.
    let (queues, faults) = self::queues();
    faults.settle_unanswered(true);
    let running = worker(&queues, 1).register(nothing).start().await.unwrap();
    queues.enqueue(Numbered { number: 1 }).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    assert!(stop_takes(running).await <= seconds(11));

    // The fetcher died of a defect.
    let (queues, faults) = self::queues();
    faults.fetch_panics(true);
    let running = worker(&queues, 1).register(nothing).start().await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    assert!(stop_takes(running).await <= seconds(11));

    // A heartbeat hangs.
    let (queues, faults) = self::queues();
    faults.heartbeat_hangs();
    let running = worker(&queues, 1).register(nothing).start().await.unwrap();
    tokio::time::sleep(seconds(15)).await;
    assert!(stop_takes(running).await <= seconds(11));
}

#[test]
fn a_handler_that_blocks_its_thread_does_not_block_the_stop() {
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let queues = JobScheduler::new(MemoryProvider::new());
            let block = async |_: Numbered| {
                #[allow(clippy::disallowed_methods, reason = "blocking is what is tested")]
                std::thread::sleep(seconds(60));
                Ok::<_, Failure>(())
            };
            let quick = Duration::from_millis(100);
            let running = queues.worker().queue("q", 1).drain_deadline(quick).register(block).start().await.unwrap();
            queues.enqueue(Numbered { number: 1 }).await.unwrap();
            tokio::time::sleep(quick).await;
            ended.send(running.stop().await).unwrap();
        });
    });
    assert_eq!(end.recv_timeout(seconds(25)).unwrap().aborted, 1);
}

#[tokio::test(start_paused = true)]
async fn any_drain_deadline_will_do() {
    let (queues, _) = queues();
    let running = worker(&queues, 1).drain_deadline(Duration::MAX).register(nothing).start().await.unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_not_outlive_its_lease_when_heartbeats_hang_or_are_dead() {
    for dead in [false, true] {
        let (queues, faults) = queues();
        match dead {
            true => faults.heartbeat_panics(),
            false => faults.heartbeat_hangs(),
        }
        outlives_no_lease(&queues).await;
    }
}

async fn outlives_no_lease(queues: &JobScheduler) {
    let (starts, now, peak) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, inside, most) = (Arc::clone(&starts), Arc::clone(&now), Arc::clone(&peak));
    let running = worker(queues, 2)
        .register(move |_: Numbered| {
            count.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let left = Left(Arc::clone(&inside));
            async move {
                let _left = left;
                tokio::time::sleep(seconds(200)).await;
                Ok::<_, Failure>(())
            }
        })
        .start()
        .await
        .unwrap();
    queues.enqueue(Numbered { number: 1 }).timeout(seconds(1_000)).await.unwrap();
    tokio::time::sleep(seconds(29)).await;
    assert_eq!((starts.load(Ordering::SeqCst), now.load(Ordering::SeqCst)), (1, 1));
    // Its start must be marked now that it lost a worker, and that fails too: it is not started unmarked.
    tokio::time::sleep(seconds(10)).await;
    assert_eq!((now.load(Ordering::SeqCst), peak.load(Ordering::SeqCst)), (0, 1));
    drop(running);
}

struct Left(Arc<AtomicUsize>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_publish_reply_is_never_turned_into_a_refusal() {
    let (queues, faults) = queues();
    faults.lose_a_publish_then_refuse();
    let job = NewJob::typed(&Numbered { number: 1 }).unwrap();
    let answers = queues.submit(&queue(), vec![job], &PublishOptions::default()).await;
    assert!(matches!(answers[..], [Submitted::Unknown(..)]), "{answers:?}: it is in the queue");
    assert_eq!(queues.stats(&queue()).await.unwrap().pending, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_settlement_is_repeated_until_it_is_answered() {
    let (queues, faults) = queues();
    faults.settle_unanswered(true);
    let running = worker(&queues, 1).register(nothing).start().await.unwrap();
    let job = queues.enqueue(Numbered { number: 1 }).await.unwrap();
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(job.record().await.unwrap().state, JobState::Running);
    faults.settle_unanswered(false);
    let record = job.finished().await.unwrap();
    assert_eq!((record.state, record.attempt), (JobState::Completed, 1));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_says_last_reaches_the_record() {
    let (queues, _) = queues();
    let running = worker(&queues, 1)
        .register(async |_: Numbered, job: JobContext| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            job.log("done");
            job.progress(100.0);
            Ok::<_, Failure>(())
        })
        .start()
        .await
        .unwrap();
    for number in 0..10 {
        let record = queues.enqueue(Numbered { number }).await.unwrap().finished().await.unwrap();
        assert_eq!((record.logs.len(), record.progress.is_some()), (1, true), "job {number}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_back_what_was_fetched_already() {
    let (queues, _) = queues();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let running = worker(&queues, 1)
        .prefetch(8)
        .register(move |_: Numbered| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(seconds(2)).await;
                Ok::<_, Failure>(())
            }
        })
        .start()
        .await
        .unwrap();
    for number in 0..8 {
        queues.enqueue(Numbered { number }).await.unwrap();
    }
    tokio::time::sleep(seconds(1)).await;
    queues.admin().pause(&queue(), true).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    queues.admin().pause(&queue(), false).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(ran.load(Ordering::SeqCst), 8);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slot_too_long_goes_to_a_worker_that_has_one() {
    let (queues, _) = queues();
    let handler = async |job: Numbered| {
        if job.number < 2 {
            tokio::time::sleep(seconds(7_200)).await;
        }
        Ok::<_, Failure>(())
    };
    let busy = worker(&queues, 2).register(handler).start().await.unwrap();
    let mut last = None;
    for number in 0..3 {
        last = Some(queues.enqueue(Numbered { number }).timeout(seconds(10_000)).await.unwrap());
    }
    tokio::time::sleep(seconds(1)).await;
    let idle = worker(&queues, 2).register(handler).start().await.unwrap();
    let begun = Instant::now();
    assert_eq!(last.unwrap().finished().await.unwrap().state, JobState::Completed);
    assert!(begun.elapsed() <= seconds(45), "{:?}", begun.elapsed());
    drop((busy, idle));
}
