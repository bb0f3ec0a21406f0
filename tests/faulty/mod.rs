//! Memory with a provider's faults put in front: answers that are lost, calls that never return, a panic.

#![allow(dead_code, reason = "each test file has faults of its own")]

mod admin;
mod store;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Error, ErrorCode, JobStore, QueueName, QueueProvider, Result,
    job::Envelope,
    provider::{
        Beat, BeatOutcome, ConsumeOptions, Delivery, PublishOptions, PublishOutcome, QueueAdmin, Rejection,
        SettleOutcome, Settlement, Topics,
    },
};
use queue_memory::MemoryProvider;
use queue_testkit::front::{ConsumerFront, InFront, ProviderFront};
use tokio::sync::Notify;

/// What is broken, until it is switched off.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Switches>);

#[derive(Default)]
struct Switches {
    lose_publish: AtomicBool,
    refuse_publish: AtomicBool,
    settle_unanswered: AtomicBool,
    heartbeat_hangs: AtomicBool,
    heartbeat_panics: AtomicBool,
    fetch_panics: AtomicBool,
    fetch_fails: AtomicBool,
    fetch_lingers_ms: AtomicU64,
    settle_panics: AtomicBool,
    maintain_panics: AtomicBool,
    no_stats: AtomicBool,
    stats_away: AtomicBool,
    looks: AtomicUsize,
    demanded: AtomicUsize,
    hang_up: Notify,
}

impl Faults {
    /// The next publish is written and not answered; those after it are refused.
    pub(crate) fn lose_a_publish_then_refuse(&self) {
        self.0.lose_publish.store(true, Ordering::SeqCst);
    }

    pub(crate) fn settle_unanswered(&self, on: bool) {
        self.0.settle_unanswered.store(on, Ordering::SeqCst);
    }

    pub(crate) fn heartbeat_hangs(&self) {
        self.0.heartbeat_hangs.store(true, Ordering::SeqCst);
    }

    pub(crate) fn heartbeat_panics(&self) {
        self.0.heartbeat_panics.store(true, Ordering::SeqCst);
    }

    pub(crate) fn fetch_panics(&self, on: bool) {
        self.0.fetch_panics.store(on, Ordering::SeqCst);
    }

    pub(crate) fn fetch_fails(&self, on: bool) {
        self.0.fetch_fails.store(on, Ordering::SeqCst);
    }

    /// What was claimed is handed out so much later.
    pub(crate) fn fetch_lingers(&self, time: Duration) {
        self.0.fetch_lingers_ms.store(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Once.
    pub(crate) fn settle_panics(&self) {
        self.0.settle_panics.store(true, Ordering::SeqCst);
    }

    /// Once.
    pub(crate) fn maintain_panics(&self) {
        self.0.maintain_panics.store(true, Ordering::SeqCst);
    }

    /// The provider has no numbers at all.
    pub(crate) fn no_stats(&self) {
        self.0.no_stats.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stats_away(&self, on: bool) {
        self.0.stats_away.store(on, Ordering::SeqCst);
    }

    /// How often numbers were asked for.
    pub(crate) fn looks(&self) -> usize {
        self.0.looks.load(Ordering::SeqCst)
    }

    /// What the consumer was told last of how many jobs may be out.
    pub(crate) fn demanded(&self) -> usize {
        self.0.demanded.load(Ordering::SeqCst)
    }

    /// Ends the open streams of commands.
    pub(crate) fn hang_up(&self) {
        self.0.hang_up.notify_waiters();
    }
}

pub(crate) struct Faulty {
    memory: MemoryProvider,
    faults: Faults,
}

impl Faulty {
    pub(crate) fn new(memory: MemoryProvider, faults: Faults) -> InFront<Self> {
        InFront(Self { memory, faults })
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn away() -> Error {
    Error::new(ErrorCode::Unavailable, "the broker is away")
}

#[async_trait]
impl ProviderFront for Faulty {
    fn behind(&self) -> &dyn QueueProvider {
        &self.memory
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let Switches { lose_publish, refuse_publish, .. } = &*self.faults.0;
        if refuse_publish.load(Ordering::SeqCst) {
            return batch.iter().map(|_| PublishOutcome::Rejected(Rejection::Unavailable(away()))).collect();
        }
        let outcomes = self.memory.publish(queue, batch, options).await;
        if lose_publish.swap(false, Ordering::SeqCst) {
            refuse_publish.store(true, Ordering::SeqCst);
            return outcomes.iter().map(|_| PublishOutcome::Unknown(away())).collect();
        }
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.faults.0.demanded.store(options.outstanding, Ordering::SeqCst);
        let inner = self.memory.consumer(queue, options).await?;
        Ok(Arc::new(InFront(FaultyConsumer { inner, faults: self.faults.clone() })))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(InFront(admin::FaultyAdmin { inner: self.memory.admin(), faults: self.faults.clone() }))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        // What is faulty is `publish`: topics go through it.
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        let inner = self.memory.job_store()?;
        Some(Arc::new(InFront(store::FaultyStore { inner, faults: self.faults.clone() })))
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        assert!(!self.faults.0.maintain_panics.swap(false, Ordering::SeqCst), "a defect of the provider");
        self.memory.maintain(leading).await
    }
}

struct FaultyConsumer {
    inner: Arc<dyn Consumer>,
    faults: Faults,
}

impl fmt::Debug for FaultyConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyConsumer")
    }
}

#[async_trait]
impl ConsumerFront for FaultyConsumer {
    fn behind(&self) -> &dyn Consumer {
        &*self.inner
    }

    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        assert!(!self.faults.0.fetch_panics.load(Ordering::SeqCst), "a defect of the provider");
        if self.faults.0.fetch_fails.load(Ordering::SeqCst) {
            return Err(away());
        }
        let deliveries = self.inner.fetch(max, wait).await;
        let lingers = self.faults.0.fetch_lingers_ms.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(lingers)).await;
        deliveries
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        assert!(!self.faults.0.settle_panics.swap(false, Ordering::SeqCst), "a defect of the provider");
        if self.faults.0.settle_unanswered.load(Ordering::SeqCst) {
            return batch.iter().map(|_| SettleOutcome::Unknown(away())).collect();
        }
        self.inner.settle(batch).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        assert!(!self.faults.0.heartbeat_panics.load(Ordering::SeqCst), "a defect of the provider");
        if self.faults.0.heartbeat_hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.heartbeat(beats).await
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.faults.0.demanded.store(outstanding, Ordering::SeqCst);
        self.inner.demand(outstanding).await
    }
}
