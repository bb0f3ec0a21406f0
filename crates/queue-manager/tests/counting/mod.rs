//! Memory that counts the calls it gets, and whose records can be taken away.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use queue_core::{
    Consumer, Error, ErrorCode, JobRef, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::{Envelope, StoreId},
    limit::Limiter,
    provider::{
        Cancel, Capabilities, ConsumeOptions, Cursor, Page, PairedStore, ParkKey, PublishOptions, PublishOutcome,
        QueueAdmin, Topics,
    },
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};
use queue_memory::MemoryProvider;

/// What was called so far, and what does not answer. A clone is of the same provider.
#[derive(Clone, Default)]
pub(crate) struct Counting(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: MemoryProvider,
    published: AtomicUsize,
    got: AtomicUsize,
    cancelled: AtomicUsize,
    away: AtomicBool,
}

impl Counting {
    /// Publishes, look-ups and cancels since it was asked last.
    #[allow(dead_code, reason = "not every test counts")]
    pub(crate) fn calls(&self) -> (usize, usize, usize) {
        let Inner { published, got, cancelled, .. } = &*self.0;
        let take = |count: &AtomicUsize| count.swap(0, Ordering::SeqCst);
        (take(published), take(got), take(cancelled))
    }

    /// Nothing is known of the records, and the provider does not answer.
    pub(crate) fn away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    fn count(&self, count: fn(&Inner) -> &AtomicUsize) {
        count(&self.0).fetch_add(1, Ordering::SeqCst);
    }

    fn store(&self) -> Result<Arc<dyn JobStore>> {
        match self.0.away.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorCode::Unavailable, "the store is away")),
            false => Ok(self.0.memory.job_store().unwrap()),
        }
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counting")
    }
}

#[async_trait]
impl QueueProvider for Counting {
    fn scheme(&self) -> &'static str {
        "counting"
    }
    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.0.memory.capabilities(spec)
    }
    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.0.memory.declare(spec).await
    }
    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.0.memory.drop_queue(queue, only_if_empty).await
    }
    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.count(|inner| &inner.published);
        self.0.memory.publish(queue, batch, options).await
    }
    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.0.memory.consumer(queue, options).await
    }
    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.0.memory.admin()
    }
    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }
    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        Some(Arc::new(self.clone()))
    }
    fn paired(&self) -> Option<PairedStore> {
        None
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }
    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.0.memory.unpark(queue, key, n).await
    }
    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.0.memory.maintain(leading).await
    }
    async fn ping(&self) -> Result<()> {
        self.store().map(drop)
    }
    async fn close(&self) -> Result<()> {
        self.0.memory.close().await
    }
}

#[async_trait]
impl JobStore for Counting {
    fn id(&self) -> StoreId {
        self.0.memory.job_store().unwrap().id()
    }
    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }
    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.count(|inner| &inner.got);
        match self.store() {
            Ok(store) => store.get(jobs).await,
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }
    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.store()?.list(query, cursor, limit).await
    }
    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        self.store()?.watch(what).await
    }
    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.count(|inner| &inner.cancelled);
        match self.store() {
            Ok(store) => store.cancel(jobs, cancel).await,
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }
    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.store()?.queue_control(queue).await
    }
    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.store()?.set_queue_control(queue, control).await
    }
    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.store()?.evict(queue, retention, limit).await
    }
    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.store()?.lead(role, candidate, term).await
    }
}
