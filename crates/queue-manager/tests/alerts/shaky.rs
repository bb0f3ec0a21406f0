//! Memory whose statistics can be made to hang, to fail, or to be refused as by a broker that cannot list its queues.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, Error, ErrorCode, JobRef, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Cursor, DeadFilter, DeadJob, Page, PairedStore, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, Redrive, RedriveReport, Topics,
    },
    stats::QueueStats,
};
use queue_memory::MemoryProvider;

/// How statistics are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Mode {
    #[default]
    Well,
    Hangs,
    Fails,
    CannotList,
    /// A tenth of a second for each queue.
    Slow,
}

#[derive(Debug, Clone)]
pub(crate) struct Shaky {
    memory: MemoryProvider,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
}

impl Shaky {
    pub(crate) fn new(memory: MemoryProvider) -> Self {
        Self { memory, mode: Arc::default(), asked: Arc::default() }
    }

    pub(crate) fn become_(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Calls for statistics since this was last asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl QueueAdmin for Shaky {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::CannotList => Err(Error::unsupported("shaky", "queues", "name them")),
            _ => self.memory.admin().queues(prefix, cursor, limit).await,
        }
    }
    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Hangs => std::future::pending().await,
            Mode::Fails => queues.iter().map(|_| Err(Error::new(ErrorCode::Unavailable, "away"))).collect(),
            Mode::Slow => {
                tokio::time::sleep(Duration::from_millis(100) * queues.len() as u32).await;
                self.memory.admin().stats(queues).await
            }
            Mode::Well | Mode::CannotList => self.memory.admin().stats(queues).await,
        }
    }
    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.memory.admin().pause(queue, paused).await
    }
    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.memory.admin().purge(queue).await
    }
    async fn dead(&self, q: &QueueName, filter: &DeadFilter, at: Option<Cursor>, n: usize) -> Result<Page<DeadJob>> {
        self.memory.admin().dead(q, filter, at, n).await
    }
    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        self.memory.admin().redrive(queue, what).await
    }
    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.memory.admin().spec(queue).await
    }
    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.memory.admin().parked(queue, limit).await
    }
    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.memory.admin().position(job).await
    }
    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        self.memory.admin().drop_dead(queue, filter).await
    }
}

#[async_trait]
impl QueueProvider for Shaky {
    fn scheme(&self) -> &'static str {
        "shaky"
    }
    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.memory.capabilities(spec)
    }
    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.memory.declare(spec).await
    }
    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.memory.drop_queue(queue, only_if_empty).await
    }
    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.memory.publish(queue, batch, options).await
    }
    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.memory.consumer(queue, options).await
    }
    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(self.clone())
    }
    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }
    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.memory.job_store()
    }
    fn paired(&self) -> Option<PairedStore> {
        None
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }
    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.memory.unpark(queue, key, n).await
    }
    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.memory.maintain(leading).await
    }
    async fn ping(&self) -> Result<()> {
        self.memory.ping().await
    }
    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}
