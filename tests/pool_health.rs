//! Slots that do not answer, tasks that die, threads that are all blocked: what is told, and that work goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulty;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use faulty::{Faults, Faulty};
use futures_util::{StreamExt, stream::BoxStream};
use queue_core::{
    Clock, Env, Event, Failure, Job, JobContext, JobId, JobScheduler, Timestamp, Worker,
    event::PoolChange,
    lifecycle::JobState,
    provider::Cancel,
    scheduler::WaitReason,
    store::Watched,
    worker::{DrainReport, PoolStatus, WorkerBuilder},
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Block {
    millis: u64,
}

impl Job for Block {
    const KIND: &'static str = "block";
    const QUEUE: &'static str = "q";
    type Output = u32;
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[allow(clippy::disallowed_methods, reason = "blocking is what is tested")]
fn block(time: u64) {
    std::thread::sleep(millis(time));
}

async fn blocking(job: Block) -> Result<u32, Failure> {
    block(job.millis);
    Ok(1)
}

async fn nothing(_: Block) -> Result<u32, Failure> {
    Ok(0)
}

async fn never(_: Block) -> Result<u32, Failure> {
    std::future::pending().await
}

fn pool(worker: &Worker) -> PoolStatus {
    worker.status().pools.remove(0)
}

type Changes = BoxStream<'static, PoolChange>;

async fn listen(queues: &JobScheduler) -> Changes {
    let pools = |watched| async move {
        match watched {
            Watched::Event(Event::Pool(event)) => Some(event.what),
            _ => None,
        }
    };
    queues.events().await.unwrap().filter_map(pools).boxed()
}

/// The next report of something unhealthy: which slot, which job, and why.
async fn unhealthy(changes: &mut Changes) -> (u64, Option<JobId>, String) {
    match changes.next().await.unwrap() {
        PoolChange::Unhealthy { slot, job, reason } => (slot, job, reason),
        other => panic!("{other:?}"),
    }
}

/// In paused time, with faults.
fn queues() -> (JobScheduler, Faults) {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1);
    let faults = Faults::default();
    let faulty = Faulty::new(MemoryProvider::with_env(env.clone()), faults.clone());
    (JobScheduler::with_env(Arc::new(faulty), env), faults)
}

fn worker(queues: &JobScheduler) -> WorkerBuilder {
    queues.worker().queue("q", 1).heartbeat_on_runtime().drain_deadline(seconds(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_slot_that_blocks_its_thread_is_reported_in_time_and_replaced_and_leaves() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let mut changes = listen(&queues).await;
    let running = queues.worker().queue("q", 1).prefetch(0).health_interval(millis(300)).register(blocking);
    let running = running.start().await.unwrap();
    let long = queues.enqueue(Block { millis: 1_500 }).await.unwrap();
    let begun = Instant::now();
    let (slot, job, reason) = unhealthy(&mut changes).await;
    assert!(begun.elapsed() <= millis(450), "reported after {:?}", begun.elapsed());
    assert_eq!((slot, job), (1, Some(long.id())), "{reason}");
    // The one slot is there although its predecessor still blocks.
    let short = queues.enqueue(Block { millis: 0 }).await.unwrap();
    assert_eq!(short.result().await.unwrap(), 1);
    assert!(begun.elapsed() < millis(1_400), "{:?}", begun.elapsed());
    let status = pool(&running);
    assert_eq!((status.slots, status.unhealthy, status.consuming), (1, 1, true), "{status:?}");
    // It came back in time: what it did counts, but it leaves.
    assert_eq!(long.result().await.unwrap(), 1);
    tokio::time::sleep(millis(50)).await;
    let status = pool(&running);
    assert_eq!((status.slots, status.busy, status.unhealthy, status.in_hand), (1, 0, 0, 0), "{status:?}");
    assert_eq!(queues.enqueue(Block { millis: 0 }).await.unwrap().result().await.unwrap(), 1);
    assert_eq!(running.stop().await, DrainReport::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_job_beyond_its_timeout_in_a_blocked_slot_runs_elsewhere_and_what_comes_late_is_discarded() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let block_first = move |job: Block| {
        let run = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match run {
                0 => block(job.millis),
                1 => {}
                _ => tokio::time::sleep(millis(job.millis)).await,
            }
            Ok::<_, Failure>(run as u32)
        }
    };
    let running = queues.worker().queue("q", 1).prefetch(0).lease(millis(600)).health_interval(millis(300));
    let running = running.register(block_first).start().await.unwrap();
    let begun = Instant::now();
    // Timeout and grace are 5.2 s, the lease another 0.6 s.
    let job = queues.enqueue(Block { millis: 7_500 }).timeout(millis(200)).await.unwrap();
    assert_eq!(job.result().await.unwrap(), 1, "the second run's");
    let (took, status) = (begun.elapsed(), pool(&running));
    assert!((millis(5_200)..millis(7_200)).contains(&took), "{took:?}");
    assert_eq!((status.unhealthy, status.slots), (1, 1), "{status:?}");
    // This one is in the register where the first one was when that comes back.
    let other = queues.enqueue(Block { millis: 60_000 }).timeout(seconds(100)).await.unwrap();
    tokio::time::sleep_until(begun + millis(7_900)).await;
    let record = job.record().await.unwrap();
    assert_eq!((record.result.as_deref(), record.attempt), (Some(&b"1"[..]), 1));
    let status = pool(&running);
    assert_eq!((status.unhealthy, status.slots, status.busy, status.in_hand), (0, 1, 1, 1), "{status:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    other.cancel_with(Duration::ZERO).await.unwrap();
    assert_eq!(other.finished().await.unwrap().state, JobState::Cancelled);
    running.stop().await;
}

/// Nothing runs on the worker's runtime any more, neither its timers: who reports and who ends the stop is on another thread.
#[test]
fn when_all_threads_are_blocked_that_is_reported_and_the_stop_still_ends() {
    let blocked = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let watching = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let queues = JobScheduler::new(MemoryProvider::new());
    let mut changes = watching.block_on(listen(&queues));
    let (running, begun) = blocked.block_on(async {
        let running = queues.worker().queue("q", 4).health_interval(millis(300)).drain_deadline(millis(100));
        let running = running.register(blocking).start().await.unwrap();
        for _ in 0..2 {
            queues.enqueue(Block { millis: 14_000 }).await.unwrap();
        }
        (running, Instant::now())
    });
    let reports = watching.block_on(async {
        let mut reports = Vec::new();
        for _ in 0..3 {
            let report = tokio::time::timeout(seconds(2), unhealthy(&mut changes)).await;
            reports.push(report.unwrap());
        }
        reports
    });
    assert!(begun.elapsed() <= millis(600), "{:?}", begun.elapsed());
    assert_eq!(reports.iter().filter(|(slot, job, _)| *slot > 0 && job.is_some()).count(), 2, "{reports:?}");
    assert!(reports.iter().any(|(slot, _, reason)| *slot == 0 && reason.contains("all its threads")), "{reports:?}");
    let status = pool(&running);
    assert_eq!((status.consuming, status.unhealthy), (false, 2), "{status:?}");
    let begun = Instant::now();
    let report = blocked.block_on(running.stop());
    assert_eq!(report.aborted, 2);
    assert!(begun.elapsed() <= millis(11_500), "{:?}", begun.elapsed());
    blocked.shutdown_background();
}

/// Panics when it is read, once it is told to.
#[derive(Debug)]
struct Fragile {
    clock: Arc<dyn Clock>,
    reads: AtomicUsize,
    breaks_at: AtomicUsize,
}

impl Clock for Fragile {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn read(&self) -> (Timestamp, Duration) {
        let read = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
        assert_ne!(read, self.breaks_at.load(Ordering::SeqCst), "a defect");
        self.clock.read()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_dies_is_reported_and_replaced_and_its_job_runs_again() {
    // Before the run, and after it.
    for (breaks_at, runs) in [(1, 1), (2, 2)] {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1);
        let (reads, breaks_at) = (AtomicUsize::new(0), AtomicUsize::new(breaks_at));
        let clock = Arc::new(Fragile { clock: Arc::clone(&env.clock), reads, breaks_at });
        let provider = Arc::new(MemoryProvider::with_env(env.clone()));
        let queues = JobScheduler::with_env(provider, Env { clock, ..env });
        let mut changes = listen(&queues).await;
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let running = worker(&queues).prefetch(0).register(move |job: Block| {
            count.fetch_add(1, Ordering::SeqCst);
            nothing(job)
        });
        let running = running.start().await.unwrap();
        let job = queues.enqueue(Block { millis: 0 }).await.unwrap();
        let (slot, of, reason) = unhealthy(&mut changes).await;
        assert_eq!((slot, of), (1, Some(job.id())), "{reason}");
        let begun = Instant::now();
        assert_eq!(job.finished().await.unwrap().state, JobState::Completed);
        assert!(begun.elapsed() <= seconds(32), "after its lease: {:?}", begun.elapsed());
        assert_eq!(ran.load(Ordering::SeqCst), runs);
        tokio::time::sleep(seconds(1)).await;
        let status = pool(&running);
        assert_eq!((status.slots, status.unhealthy, status.in_hand), (1, 0, 0), "{status:?}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetcher_that_dies_is_reported_and_replaced() {
    let (queues, faults) = queues();
    let mut changes = listen(&queues).await;
    faults.fetch_panics(true);
    let running = worker(&queues).register(nothing).start().await.unwrap();
    let job = queues.enqueue(Block { millis: 0 }).await.unwrap();
    let (slot, of, reason) = unhealthy(&mut changes).await;
    assert_eq!((slot, of), (0, None));
    assert!(reason.contains("fetches"), "{reason}");
    tokio::time::sleep(seconds(60)).await;
    assert!(!pool(&running).consuming);
    faults.fetch_panics(false);
    let begun = Instant::now();
    assert_eq!(job.result().await.unwrap(), 0);
    assert!(begun.elapsed() <= seconds(6), "{:?}", begun.elapsed());
    assert!(pool(&running).consuming);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_orderly_stop_is_nothing_unhealthy() {
    let (queues, _) = queues();
    let mut changes = listen(&queues).await;
    let running = worker(&queues).drain_deadline(seconds(1_000)).register(async |_: Block| {
        tokio::time::sleep(seconds(500)).await;
        Ok::<u32, Failure>(0)
    });
    let running = running.start().await.unwrap();
    queues.enqueue(Block { millis: 0 }).timeout(seconds(1_000)).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(running.stop().await, DrainReport { done: 1, ..DrainReport::default() });
    let told = tokio::time::timeout(seconds(1), changes.next()).await;
    assert!(told.is_err(), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_jobs_are_settled_loses_no_run() {
    let (queues, faults) = queues();
    let mut changes = listen(&queues).await;
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let running = worker(&queues).register(move |job: Block| {
        count.fetch_add(1, Ordering::SeqCst);
        nothing(job)
    });
    let running = running.start().await.unwrap();
    faults.settle_panics();
    let job = queues.enqueue(Block { millis: 0 }).await.unwrap();
    let begun = Instant::now();
    assert_eq!(job.result().await.unwrap(), 0);
    assert!(begun.elapsed() <= seconds(2), "{:?}", begun.elapsed());
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    assert!(unhealthy(&mut changes).await.2.contains("settled"));
    assert_eq!(pool(&running).ended_total, 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_cannot_fetch_for_long_does_not_consume() {
    let (queues, faults) = queues();
    let running = worker(&queues).register(nothing).start().await.unwrap();
    assert!(pool(&running).consuming, "from the start");
    tokio::time::sleep(seconds(100)).await;
    let status = pool(&running);
    assert!(status.consuming && status.fetched_ago <= seconds(30), "a fetch waits: {status:?}");
    faults.fetch_fails(true);
    // The one that waits ends well after 20 s.
    tokio::time::sleep(seconds(49)).await;
    assert!(pool(&running).consuming, "it has failed for 29 s");
    tokio::time::sleep(seconds(30)).await;
    let status = pool(&running);
    assert!(!status.consuming && status.fetched_ago >= seconds(30), "{status:?}");
    let job = queues.enqueue(Block { millis: 0 }).await.unwrap();
    let why = queues.explain(job.job()).await.unwrap();
    let [WaitReason::WorkersSilent { since }] = &why.reasons[..] else { panic!("{why}") };
    assert_eq!(*since, status.fetched_ago);
    assert!(why.to_string().ends_with(&format!("its workers have fetched nothing for {} s", since.as_secs())), "{why}");
    faults.fetch_fails(false);
    tokio::time::sleep(seconds(7)).await;
    assert!(pool(&running).consuming, "again");
    assert_eq!(job.result().await.unwrap(), 0);
    assert!(queues.explain(job.job()).await.unwrap().reasons.is_empty());
    // Full with jobs that take long is no failure.
    for _ in 0..3 {
        queues.enqueue(Block { millis: 0 }).await.unwrap();
    }
    running.stop().await;
    let busy = worker(&queues).register(never).start().await.unwrap();
    for _ in 0..3 {
        queues.enqueue(Block { millis: 0 }).timeout(seconds(100_000)).await.unwrap();
    }
    tokio::time::sleep(seconds(1_000)).await;
    let status = pool(&busy);
    assert_eq!((status.consuming, status.busy, status.slots), (true, 1, 1), "{status:?}");
    assert_eq!(queues.workers()[0].pools, [status]);
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn maintenance_outlives_a_panic_and_gives_its_lead_back() {
    let (queues, faults) = queues();
    faults.maintain_panics();
    let running = worker(&queues).register(nothing).start().await.unwrap();
    tokio::time::sleep(millis(100)).await;
    assert_eq!(queues.last_maintenance(), None, "it panicked");
    tokio::time::sleep(seconds(2)).await;
    assert!(queues.last_maintenance().is_some());
    running.stop().await;
    let store = Arc::clone(queues.store().unwrap());
    let lead = async || store.lead("maintenance", "another", seconds(15)).await.unwrap();
    assert!(lead().await.is_none());
    queues.close().await.unwrap();
    tokio::time::sleep(millis(2)).await;
    assert!(lead().await.is_some(), "at once, not after the term");
}

/// Between claim and register nobody is found who could be told.
#[tokio::test(start_paused = true)]
async fn a_cancel_that_comes_before_its_job_is_in_hand_is_not_forgotten() {
    let (queues, faults) = queues();
    let cancelled = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cancelled);
    let running = worker(&queues).register(move |_: Block, job: JobContext| {
        let told = Arc::clone(&told);
        async move {
            job.cancelled().await;
            told.store(true, Ordering::SeqCst);
            Err::<u32, _>(Failure::retry("stopped"))
        }
    });
    let running = running.start().await.unwrap();
    faults.fetch_lingers(millis(500));
    let job = queues.enqueue(Block { millis: 0 }).timeout(seconds(1_000)).await.unwrap();
    tokio::time::sleep(millis(200)).await;
    queues.cancel(job.job(), &Cancel { by: "me".into(), grace: seconds(100) }).await.unwrap();
    let begun = Instant::now();
    assert_eq!(job.finished().await.unwrap().state, JobState::Cancelled);
    assert!(begun.elapsed() <= seconds(1), "{:?}", begun.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_cancels_that_ends_is_opened_again() {
    let (queues, faults) = queues();
    let running = worker(&queues).register(never).start().await.unwrap();
    for wait in [millis(2_000), millis(0)] {
        let job = queues.enqueue(Block { millis: 0 }).timeout(seconds(1_000)).await.unwrap();
        tokio::time::sleep(seconds(1)).await;
        faults.hang_up();
        // Once it is open again, and while it is not.
        tokio::time::sleep(wait).await;
        let begun = Instant::now();
        job.cancel_with(Duration::ZERO).await.unwrap();
        assert_eq!(job.finished().await.unwrap().state, JobState::Cancelled);
        assert!(begun.elapsed() <= seconds(1), "{wait:?}: {:?}", begun.elapsed());
    }
    running.stop().await;
}
