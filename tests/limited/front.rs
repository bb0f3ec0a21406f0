//! Memory with a limiter of the test's in front, every call counted, and parked keys told as a restarted process sees them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use queue_core::{
    Consumer, Env, Error, ErrorCode, JobRef, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    event::BreakerEvent,
    job::Envelope,
    limit::{Ask, Grant, Holder, Limiter, LocalLimiter, Need, Room, RunEnd},
    provider::{
        Beat, BeatOutcome, Capabilities, CloseReport, ConsumeOptions, Cursor, DeadFilter, DeadJob, Delivery, Page,
        ParkKey, PublishOptions, PublishOutcome, QueueAdmin, Redrive, RedriveReport, SettleOutcome, Settlement, Topics,
    },
    stats::QueueStats,
    store::{JobQuery, StoreScope, Watched},
};
use queue_memory::MemoryProvider;

/// Calls so far, of any kind but maintenance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<AtomicU64>, Arc<AtomicBool>);

impl Calls {
    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Nobody can be unparked.
    #[allow(dead_code, reason = "each test program uses its part")]
    pub(crate) fn refuse_unpark(&self, on: bool) {
        self.1.store(on, Ordering::SeqCst);
    }

    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Front {
    memory: MemoryProvider,
    limiter: Arc<dyn Limiter>,
    calls: Calls,
}

impl Front {
    pub(crate) fn new(env: &Env, limiter: Arc<dyn Limiter>, calls: Calls) -> Arc<Self> {
        Arc::new(Self { memory: MemoryProvider::with_env(env.clone()), limiter, calls })
    }
}

#[async_trait]
impl QueueProvider for Front {
    fn scheme(&self) -> &'static str {
        self.memory.scheme()
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
        let inner = self.memory.consumer(queue, options).await?;
        Ok(Arc::new(FrontConsumer { inner, calls: self.calls.clone() }))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        let store = self.memory.job_store().unwrap();
        Arc::new(FrontAdmin { inner: self.memory.admin(), store, calls: self.calls.clone() })
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.memory.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.memory.job_store()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        Some(Arc::clone(&self.limiter))
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.calls.count();
        if self.calls.1.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorCode::Unavailable, "nobody is unparked").at("unpark"));
        }
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

#[derive(Debug)]
struct FrontConsumer {
    inner: Arc<dyn Consumer>,
    calls: Calls,
}

#[async_trait]
impl Consumer for FrontConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.calls.count();
        self.inner.fetch(max, wait).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.calls.count();
        self.inner.settle(batch).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        self.calls.count();
        self.inner.heartbeat(beats).await
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.inner.demand(outstanding).await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.inner.close(deadline).await
    }
}

#[derive(Debug)]
struct FrontAdmin {
    inner: Arc<dyn QueueAdmin>,
    store: Arc<dyn JobStore>,
    calls: Calls,
}

#[async_trait]
impl QueueAdmin for FrontAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        self.inner.queues(prefix, cursor, limit).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.inner.stats(queues).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.inner.pause(queue, paused).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.inner.purge(queue).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.inner.dead(queue, filter, cursor, limit).await
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        self.inner.redrive(queue, what).await
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.inner.spec(queue).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.calls.count();
        let mut query = JobQuery::default();
        query.queue = Some(queue.clone());
        let (mut counts, mut cursor) = (BTreeMap::<ParkKey, u64>::new(), None);
        loop {
            let page = self.store.list(&query, cursor, 1_000).await?;
            for key in page.items.into_iter().filter_map(|record| record.parked) {
                *counts.entry(key).or_default() += 1;
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(counts.into_iter().take(limit).collect());
            }
        }
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.inner.position(job).await
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        self.inner.drop_dead(queue, filter).await
    }
}

/// Counts as [`LocalLimiter`] does, and says whom it counts for as it is told.
#[derive(Debug)]
pub(crate) struct Moody {
    inner: LocalLimiter,
    mood: AtomicU8,
    scope: StoreScope,
    pub(crate) calls: Calls,
}

/// How a limiter fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
    Well,
    /// Refuses every call.
    Away,
    /// Does what it is asked, and its answer is lost.
    Mute,
    /// Never answers.
    Hangs,
}

impl Moody {
    pub(crate) fn new(env: &Env, scope: StoreScope, calls: Calls) -> Arc<Self> {
        Arc::new(Self { inner: LocalLimiter::new(env), mood: AtomicU8::new(0), scope, calls })
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    async fn mood(&self) -> Mood {
        self.calls.count();
        match self.mood.load(Ordering::SeqCst) {
            0 => Mood::Well,
            1 => Mood::Away,
            2 => Mood::Mute,
            _ => std::future::pending().await,
        }
    }
}

fn away() -> Error {
    Error::new(ErrorCode::Unavailable, "the limiter is away")
}

#[async_trait]
impl Limiter for Moody {
    fn scope(&self) -> StoreScope {
        self.scope
    }

    async fn acquire(&self, asks: &[Ask], lease: Duration) -> Vec<Grant> {
        let mood = self.mood().await;
        if mood != Mood::Away {
            let grants = self.inner.acquire(asks, lease).await;
            if mood == Mood::Well {
                return grants;
            }
        }
        asks.iter().map(|_| Grant::Unknown(away())).collect()
    }

    async fn renew(&self, holders: &[Holder], lease: Duration) -> Result<()> {
        match self.mood().await {
            Mood::Away => Err(away()),
            _ => self.inner.renew(holders, lease).await,
        }
    }

    async fn release(&self, ended: &[(Ask, RunEnd)]) -> Result<()> {
        let mood = self.mood().await;
        if mood != Mood::Away {
            self.inner.release(ended).await?;
        }
        if mood == Mood::Well { Ok(()) } else { Err(away()) }
    }

    async fn room(&self, needs: &[Need]) -> Vec<Result<Room>> {
        match self.mood().await {
            Mood::Well => self.inner.room(needs).await,
            _ => needs.iter().map(|_| Err(away())).collect(),
        }
    }

    fn watch(&self) -> BoxStream<'static, Watched<BreakerEvent>> {
        self.inner.watch()
    }
}
