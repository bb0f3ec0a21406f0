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
    Consumer, Env, Error, ErrorCode, JobStore, QueueName, QueueProvider, Result,
    event::BreakerEvent,
    limit::{Ask, Grant, Holder, Limiter, LocalLimiter, Need, Room, RunEnd},
    provider::{Beat, BeatOutcome, ConsumeOptions, Delivery, ParkKey, QueueAdmin, SettleOutcome, Settlement},
    store::{JobQuery, StoreScope, Watched},
};
use queue_memory::MemoryProvider;
use queue_testkit::front::{AdminFront, ConsumerFront, InFront, ProviderFront};

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
    pub(crate) fn new(env: &Env, limiter: Arc<dyn Limiter>, calls: Calls) -> Arc<InFront<Self>> {
        Arc::new(InFront(Self { memory: MemoryProvider::with_env(env.clone()), limiter, calls }))
    }
}

#[async_trait]
impl ProviderFront for Front {
    fn behind(&self) -> &dyn QueueProvider {
        &self.memory
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let inner = self.memory.consumer(queue, options).await?;
        Ok(Arc::new(InFront(FrontConsumer { inner, calls: self.calls.clone() })))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        let store = self.memory.job_store().unwrap();
        Arc::new(InFront(FrontAdmin { inner: self.memory.admin(), store, calls: self.calls.clone() }))
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
}

#[derive(Debug)]
struct FrontConsumer {
    inner: Arc<dyn Consumer>,
    calls: Calls,
}

#[async_trait]
impl ConsumerFront for FrontConsumer {
    fn behind(&self) -> &dyn Consumer {
        &*self.inner
    }

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
}

#[derive(Debug)]
struct FrontAdmin {
    inner: Arc<dyn QueueAdmin>,
    store: Arc<dyn JobStore>,
    calls: Calls,
}

#[async_trait]
impl AdminFront for FrontAdmin {
    fn behind(&self) -> &dyn QueueAdmin {
        &*self.inner
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
