//! The slots of one queue, and what they share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::sync::Notify;

use super::{
    buffer::Buffer,
    completer::Observer,
    handler::HandlerService,
    held::{Common, Held},
    status::PoolStatus,
};
use crate::{
    clock::Env,
    config::defaults,
    error::{Error, ErrorCode, Result},
    job::{JobId, JobKind},
    provider::{Beat, BeatOutcome, ConsumeOptions, Consumer, Delivery},
    queue_spec::QueueSpec,
    scheduler::JobScheduler,
};

/// What a pool is given to work with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) scheduler: JobScheduler,
    pub(super) spec: Arc<QueueSpec>,
    /// How it consumes; `outstanding` is slots and buffer together.
    pub(super) options: ConsumeOptions,
    pub(super) routes: Arc<Routes>,
    pub(super) slots: usize,
    pub(super) common: Arc<Common>,
    pub(super) observer: Option<Observer>,
}

/// One queue's share of a worker.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(super) setup: Setup,
    consumer: RwLock<Arc<dyn Consumer>>,
    pub(super) buffer: Buffer,
    /// Everything fetched and not settled.
    register: Mutex<Slab<Arc<Held>>>,
    in_hand: AtomicUsize,
    /// Rung when there is room for more, and when the pool stops.
    pub(super) room: Notify,
    stopping: AtomicBool,
    paused: AtomicBool,
    /// The second, plus one, of the last look at the queue's switches.
    looked_in: AtomicU64,
    pub(super) drained: Drained,
}

/// Which handler runs which kind.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) by_kind: BTreeMap<JobKind, HandlerService>,
    pub(super) fallback: Option<HandlerService>,
}

impl Routes {
    pub(super) fn find(&self, kind: &JobKind) -> Option<&HandlerService> {
        self.by_kind.get(kind).or(self.fallback.as_ref())
    }
}

/// What happened while the pool stopped.
#[derive(Debug, Default)]
pub(super) struct Drained {
    pub(super) done: AtomicUsize,
    pub(super) released: AtomicUsize,
    pub(super) aborted: AtomicUsize,
}

impl Pool {
    pub(super) async fn open(setup: Setup) -> Result<Self> {
        let consumer = open_consumer(&setup).await?;
        Ok(Self {
            register: Mutex::new(Slab::with_capacity(setup.options.outstanding)),
            setup,
            consumer: RwLock::new(consumer),
            buffer: Buffer::default(),
            in_hand: AtomicUsize::new(0),
            room: Notify::new(),
            stopping: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            looked_in: AtomicU64::new(0),
            drained: Drained::default(),
        })
    }

    pub(super) fn consumer(&self) -> Arc<dyn Consumer> {
        Arc::clone(&self.consumer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Consumes anew once a dropped queue is there again, so that the worker is not deaf to it. Receipts are the old
    /// consumer's: not while one is in hand. It brings no dropped queue back by itself.
    pub(super) async fn reopen(&self) -> Result<()> {
        let there = self.setup.scheduler.stats(&self.setup.spec.name).await;
        let gone = there.is_err_and(|error| error.code() == ErrorCode::NotFound);
        if !gone && self.in_hand.load(Ordering::Acquire) == 0 {
            let fresh = open_consumer(&self.setup).await?;
            *self.consumer.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(())
    }

    pub(super) fn lease(&self) -> Duration {
        self.setup.options.lease
    }

    pub(super) fn outstanding(&self) -> usize {
        self.setup.options.outstanding
    }

    pub(super) fn env(&self) -> &Env {
        self.setup.scheduler.env()
    }

    /// Takes fetched deliveries into its hands.
    pub(super) fn take_in(&self, deliveries: Vec<Delivery>, fetched: Duration) -> Vec<Arc<Held>> {
        self.in_hand.fetch_add(deliveries.len(), Ordering::Relaxed);
        let batch = self.setup.scheduler.lines().fetched();
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let mut enter = |delivery| {
            let entry = register.vacant_entry();
            let held = Arc::new(Held::new(delivery, Arc::clone(&self.setup.common), entry.key(), fetched, batch));
            entry.insert(Arc::clone(&held));
            held
        };
        deliveries.into_iter().map(&mut enter).collect()
    }

    /// Lets go of deliveries that are settled or lost.
    pub(super) fn let_go(&self, keys: impl Iterator<Item = usize>) {
        let mut gone = 0;
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            gone += usize::from(register.try_remove(key).is_some());
        }
        drop(register);
        self.in_hand.fetch_sub(gone, Ordering::Relaxed);
        self.room.notify_one();
    }

    pub(super) fn in_hand(&self) -> Vec<Arc<Held>> {
        let register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        register.iter().map(|(_, held)| Arc::clone(held)).collect()
    }

    pub(super) fn find(&self, id: JobId) -> Option<Arc<Held>> {
        let register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        register.iter().map(|(_, held)| held).find(|held| held.delivery.envelope.id == id).cloned()
    }

    /// How many more deliveries it may take.
    pub(super) fn free(&self) -> usize {
        self.outstanding().saturating_sub(self.in_hand.load(Ordering::Relaxed))
    }

    /// A heartbeat that is answered within a third of the lease, be it with `Unknown`.
    pub(super) async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let patience = self.lease() / defaults::HEARTBEATS_PER_LEASE;
        let outcomes = tokio::time::timeout(patience, self.consumer().heartbeat(beats)).await;
        let mut outcomes = outcomes.unwrap_or_default();
        let unknown = || Error::new(ErrorCode::Timeout, "the heartbeat was not answered in time").at("heartbeat");
        outcomes.resize_with(beats.len(), || BeatOutcome::Unknown(unknown()));
        outcomes
    }

    /// Sleeps, but not through a stop.
    pub(super) async fn pause_unless_stopped(&self, pause: Duration) {
        let end = tokio::time::Instant::now() + pause;
        while !self.is_stopping() && tokio::time::timeout_at(end, self.room.notified()).await.is_ok() {}
    }

    /// Whether the queue was paused, as of the last second: what is fetched already must be held back too.
    pub(super) async fn is_paused(&self, now: Duration) -> bool {
        let second = now.as_secs() + 1;
        if self.looked_in.swap(second, Ordering::Relaxed) != second
            && let Ok(store) = self.setup.scheduler.store()
            && let Ok(control) = store.queue_control(&self.setup.spec.name).await
        {
            self.paused.store(control.paused, Ordering::Relaxed);
        }
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn status(&self) -> PoolStatus {
        let routes = &self.setup.routes;
        PoolStatus {
            queue: self.setup.spec.name.clone(),
            consuming: true,
            fetched_ago: Duration::ZERO,
            slots: self.setup.slots,
            busy: 0,
            unhealthy: 0,
            in_hand: self.in_hand.load(Ordering::Relaxed),
            ended_total: 0,
            run_time_total: Duration::ZERO,
            kinds: routes.by_kind.keys().cloned().collect(),
            any_kind: routes.fallback.is_some(),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.room.notify_one();
    }
}

async fn open_consumer(setup: &Setup) -> Result<Arc<dyn Consumer>> {
    setup.scheduler.provider().consumer(&setup.spec.name, setup.options.clone()).await
}
