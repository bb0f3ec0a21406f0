//! A process that can be stopped between any two of its calls to the world outside.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use queue_core::{
    Consumer, Envelope, JobRef, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::{JobError, StoreId},
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Cancel, Capabilities, CloseReport, ConsumeOptions, Cursor, DeadFilter, DeadJob, Delivery,
        Page, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin, SettleOutcome, Settlement, Topics,
    },
    queue_spec::Retention,
    stats::QueueStats,
    store::{
        CancelOutcome, Claim, Fence, JobQuery, JobRecord, Leadership, Lookup, QueueControl, RedriveOutcome, Scope,
        StageOutcome, StagedJob, StoreScope, TrackedOutcome, TrackedSettle, TrackingStore, Verdict, Watch, Watched,
    },
};
use tokio::sync::Notify;

/// Stands between a process and its transport and store, names every call, and lets only so many through: from then on no
/// call returns, as for a process that was killed between two of them. Whoever runs the process drops its futures when it is
/// [burnt](Fuse::burnt), or they would live on their timeouts.
///
/// So a test can stop a flow in each of its gaps, and see in which order a flow writes.
///
/// ```
/// use queue_core::{Env, Timestamp, QueueName, QueueProvider, JobStore};
/// use queue_memory::MemoryTracking;
/// use queue_testkit::fuse::Fuse;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
/// # runtime.block_on(async {
/// let fuse = Fuse::new();
/// let store = fuse.store(MemoryTracking::new());
/// let queue = QueueName::from_static("mail");
/// fuse.burn_after(1);
/// store.queue_control(&queue).await.unwrap();
/// let second = tokio::time::timeout(std::time::Duration::from_secs(60), store.queue_control(&queue));
/// assert!(second.await.is_err(), "it never returns");
/// assert_eq!(fuse.calls(), ["store.queue_control"]);
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct Fuse(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    burnt: Notify,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    left: Option<usize>,
    burnt: bool,
    held: Option<&'static str>,
    calls: Vec<&'static str>,
}

impl Fuse {
    /// One that lets everything through.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `n` more calls through, and forgets which were made so far.
    pub fn burn_after(&self, n: usize) {
        *self.state() = State { left: Some(n), ..State::default() };
    }

    /// Lets everything through, and forgets which calls were made so far.
    pub fn mend(&self) {
        *self.state() = State::default();
    }

    /// Makes calls of this name wait, before they are made, until [`Fuse::release`].
    pub fn hold_at(&self, name: &'static str) {
        self.state().held = Some(name);
    }

    /// Lets go what is held, and holds the calls of this name.
    pub fn hold_instead(&self, name: &'static str) {
        self.hold_at(name);
        self.0.released.notify_waiters();
    }

    /// Lets go what is held.
    pub fn release(&self) {
        self.state().held = None;
        self.0.released.notify_waiters();
    }

    /// Returns as soon as a call was not let through.
    pub async fn burnt(&self) {
        loop {
            let burnt = self.0.burnt.notified();
            if self.state().burnt {
                return;
            }
            burnt.await;
        }
    }

    /// The calls that were let through, by name: `store.stage`, `transport.publish`, …
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// The store as the process sees it.
    #[must_use]
    pub fn store(&self, inner: impl TrackingStore) -> Arc<dyn TrackingStore> {
        Arc::new(FusedStore { fuse: self.clone(), inner: Arc::new(inner) })
    }

    /// The transport as the process sees it.
    #[must_use]
    pub fn transport(&self, inner: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(FusedTransport { fuse: self.clone(), inner })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass<T>(&self, name: &'static str, call: impl Future<Output = T>) -> T {
        let passes = {
            let mut state = self.state();
            let passes = state.left != Some(0);
            state.left = state.left.map(|left| left.saturating_sub(1));
            state.burnt |= !passes;
            if passes {
                state.calls.push(name);
            }
            passes
        };
        if passes {
            loop {
                let released = self.0.released.notified();
                if self.state().held != Some(name) {
                    return call.await;
                }
                released.await;
            }
        }
        self.0.burnt.notify_waiters();
        std::future::pending().await
    }
}

#[derive(Debug)]
struct FusedStore {
    fuse: Fuse,
    inner: Arc<dyn TrackingStore>,
}

#[derive(Debug)]
struct FusedTransport {
    fuse: Fuse,
    inner: Arc<dyn QueueProvider>,
}

#[derive(Debug)]
struct FusedConsumer {
    fuse: Fuse,
    inner: Arc<dyn Consumer>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl JobStore for FusedStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn scope(&self) -> StoreScope {
        self.inner.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.fuse.pass("store.get", self.inner.get(jobs)).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.fuse.pass("store.list", self.inner.list(query, cursor, limit)).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        self.fuse.pass("store.watch", self.inner.watch(what)).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.fuse.pass("store.cancel", self.inner.cancel(jobs, cancel)).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.fuse.pass("store.queue_control", self.inner.queue_control(queue)).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.fuse.pass("store.set_queue_control", self.inner.set_queue_control(queue, control)).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.fuse.pass("store.evict", self.inner.evict(queue, retention, limit)).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.fuse.pass("store.lead", self.inner.lead(role, candidate, term)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl TrackingStore for FusedStore {
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome> {
        self.fuse.pass("store.stage", self.inner.stage(jobs, stage_lease)).await
    }

    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        self.fuse.pass("store.confirm", self.inner.confirm(jobs)).await
    }

    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        self.fuse.pass("store.unstage", self.inner.unstage(jobs)).await
    }

    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        self.fuse.pass("store.refuse", self.inner.refuse(jobs)).await
    }

    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        self.fuse.pass("store.claim", self.inner.claim(claims)).await
    }

    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        self.fuse.pass("store.heartbeat", self.inner.heartbeat(beats)).await
    }

    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome> {
        self.fuse.pass("store.settle", self.inner.settle(batch, stage_lease)).await
    }

    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        self.fuse.pass("store.unpark", self.inner.unpark(scope, key, n, stage_lease)).await
    }

    async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.fuse.pass("store.due", self.inner.due(scope, dead_leases, limit, stage_lease)).await
    }

    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.fuse.pass("store.silent", self.inner.silent(scope, at_least, limit, stage_lease)).await
    }

    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        self.fuse.pass("store.queues", self.inner.queues(provider, prefix, cursor, limit)).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.fuse.pass("store.parked", self.inner.parked(queue, limit)).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.fuse.pass("store.dead", self.inner.dead(queue, filter, cursor, limit)).await
    }

    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>> {
        self.fuse.pass("store.redrive", self.inner.redrive(jobs, stage_lease)).await
    }

    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        self.fuse.pass("store.forget_dead", self.inner.forget_dead(jobs)).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.fuse.pass("store.stats", self.inner.stats(queues)).await
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.fuse.pass("store.position", self.inner.position(job)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.fuse.pass("store.purge", self.inner.purge(queue)).await
    }

    async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        self.fuse.pass("store.drop_queue", self.inner.drop_queue(queue)).await
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn close(&self) -> Result<()> {
        self.fuse.pass("store.close", self.inner.close()).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueProvider for FusedTransport {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.inner.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.fuse.pass("transport.declare", self.inner.declare(spec)).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.fuse.pass("transport.drop_queue", self.inner.drop_queue(queue, only_if_empty)).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.fuse.pass("transport.publish", self.inner.publish(queue, batch, options)).await
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let inner = self.fuse.pass("transport.consumer", self.inner.consumer(queue, options)).await?;
        Ok(Arc::new(FusedConsumer { fuse: self.fuse.clone(), inner }))
    }

    /// Not counted: nothing is written through it.
    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.inner.admin()
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.inner.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.inner.job_store()
    }

    fn paired(&self) -> Option<PairedStore> {
        self.inner.paired()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.fuse.pass("transport.unpark", self.inner.unpark(queue, key, n)).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.fuse.pass("transport.maintain", self.inner.maintain(leading)).await
    }

    async fn ping(&self) -> Result<()> {
        self.fuse.pass("transport.ping", self.inner.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.fuse.pass("transport.close", self.inner.close()).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Consumer for FusedConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.fuse.pass("transport.fetch", self.inner.fetch(max, wait)).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.fuse.pass("transport.settle", self.inner.settle(batch)).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        self.fuse.pass("transport.heartbeat", self.inner.heartbeat(beats)).await
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.fuse.pass("transport.demand", self.inner.demand(outstanding)).await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.fuse.pass("transport.close", self.inner.close(deadline)).await
    }
}
