//! How a worker settles what ended: full batches follow each other, and one that is not answered holds up nothing but itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Error, ErrorCode, JobScheduler, QueueName, QueueProvider, Result,
    job::JobKind,
    provider::{ConsumeOptions, PublishOptions, SettleOutcome, Settlement},
    scheduler::NewJob,
    worker::{Failure, JobRequest, RunAny},
};
use queue_memory::MemoryProvider;
use queue_testkit::front::{ConsumerFront, InFront, ProviderFront};
use tokio::sync::Semaphore;

const JOBS: usize = 2_000;

/// What the calls came to.
#[derive(Debug)]
struct Calls {
    /// One call waits for it: the first of more than one job.
    released: Semaphore,
    /// And then it is not answered.
    fails: bool,
    held: AtomicUsize,
    under_way: AtomicUsize,
    most: AtomicUsize,
    settled: AtomicUsize,
    largest: AtomicUsize,
}

impl Calls {
    fn new(fails: bool) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        let (held, under_way, most, settled, largest) = (zero(), zero(), zero(), zero(), zero());
        Arc::new(Self { released: Semaphore::new(0), fails, held, under_way, most, settled, largest })
    }

    fn settled(&self) -> usize {
        self.settled.load(Ordering::SeqCst)
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Slow(MemoryProvider, Arc<Calls>);

#[derive(Debug)]
struct SlowConsumer(Arc<dyn Consumer>, Arc<Calls>);

#[async_trait]
impl ProviderFront for Slow {
    fn behind(&self) -> &dyn QueueProvider {
        &self.0
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let behind = self.0.consumer(queue, options).await?;
        Ok(Arc::new(InFront(SlowConsumer(behind, Arc::clone(&self.1)))))
    }
}

#[async_trait]
impl ConsumerFront for SlowConsumer {
    fn behind(&self) -> &dyn Consumer {
        &*self.0
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        let calls = &*self.1;
        let now = calls.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        calls.most.fetch_max(now, Ordering::SeqCst);
        calls.largest.fetch_max(batch.len(), Ordering::SeqCst);
        let is_first =
            batch.len() > 1 && calls.held.compare_exchange(0, batch.len(), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if is_first {
            let _ = calls.released.acquire().await;
        }
        let outcomes = if is_first && calls.fails {
            let lost = || SettleOutcome::Unknown(Error::new(ErrorCode::Timeout, "no answer"));
            batch.iter().map(|_| lost()).collect()
        } else {
            // The others take their time as well.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let outcomes = self.0.settle(batch).await;
            let done = outcomes.iter().filter(|outcome| matches!(outcome, SettleOutcome::Settled)).count();
            calls.settled.fetch_add(done, Ordering::SeqCst);
            outcomes
        };
        calls.under_way.fetch_sub(1, Ordering::SeqCst);
        outcomes
    }
}

struct Nothing;

impl RunAny for Nothing {
    fn run(&self, _: JobRequest) -> impl Future<Output = Result<Option<bytes::Bytes>, Failure>> + Send {
        std::future::ready(Ok(None))
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}");
}

async fn work(calls: &Arc<Calls>) -> (JobScheduler, queue_core::worker::Worker) {
    let queues = JobScheduler::new(InFront(Slow(MemoryProvider::new(), Arc::clone(calls))));
    let queue = QueueName::from_static("q");
    let jobs = (0..JOBS).map(|_| NewJob::new(JobKind::from_static("x"), "")).collect();
    queues.submit(&queue, jobs, &PublishOptions::default()).await;
    let worker = queues.worker().queue("q", 500).fallback_any(Nothing).start().await.unwrap();
    (queues, worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_hangs_holds_up_only_its_own_jobs() {
    let calls = Calls::new(false);
    let (_queues, worker) = work(&calls).await;
    until("the others are not settled", || calls.held() > 0 && calls.settled() == JOBS - calls.held()).await;
    calls.released.add_permits(1);
    until("it was answered", || calls.settled() == JOBS).await;
    worker.stop().await;
    assert_eq!(calls.settled(), JOBS, "each once");
    assert!(calls.most.load(Ordering::SeqCst) <= 3);
    assert_eq!(calls.largest.load(Ordering::SeqCst), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_the_middle_that_fails_is_made_again_and_harms_no_other() {
    let calls = Calls::new(true);
    let (_queues, worker) = work(&calls).await;
    until("the others are not settled", || calls.held() > 0 && calls.settled() == JOBS - calls.held()).await;
    calls.released.add_permits(1);
    until("it was made again", || calls.settled() == JOBS).await;
    worker.stop().await;
    assert_eq!(calls.settled(), JOBS, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_waits_for_what_is_under_way() {
    let calls = Calls::new(false);
    let (_queues, worker) = work(&calls).await;
    until("one hangs", || calls.held() > 0).await;
    let stopping = tokio::spawn(worker.stop());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!stopping.is_finished());
    calls.released.add_permits(1);
    stopping.await.unwrap();
    assert_eq!(calls.under_way.load(Ordering::SeqCst), 0);
}
