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
    autoscale::Scaling,
    buffer::Buffer,
    cancels::Cancels,
    completer::Observer,
    fetch::Intake,
    handler::HandlerService,
    health::RollCall,
    held::{Common, Held, Sign},
    roster::Roster,
    status::{AtWork, PoolStatus, Totals},
};
use crate::{
    clock::Env,
    config::defaults,
    error::{Error, ErrorCode, Result},
    event::{Event, PoolChange, PoolEvent},
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
    /// How it consumes; `outstanding` is slots and buffer together, at the start.
    pub(super) options: ConsumeOptions,
    pub(super) routes: Arc<Routes>,
    pub(super) scaling: Scaling,
    /// How many jobs may wait for a slot; `None` follows the number of slots.
    pub(super) prefetch: Option<usize>,
    /// How many while runs are brief, if more.
    pub(super) prefetch_while_brief: usize,
    /// A slot that comes to no await for so long does not answer.
    pub(super) sign_of_life: Duration,
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
    /// What is let go of and not told to the observer yet.
    telling: Mutex<Vec<Arc<Held>>>,
    in_hand: AtomicUsize,
    /// Rung when there is room for more, and when the pool stops.
    pub(super) room: Notify,
    pub(super) roster: Roster,
    /// How many slots there should be.
    target: AtomicUsize,
    /// What the consumer was told of it.
    demanded: AtomicUsize,
    /// Something waited for a slot for a whole lease, and no run has ended since.
    clogged: AtomicBool,
    /// The runs that were settled last took next to no time.
    brief: AtomicBool,
    /// Rung when the crew has to look after the slots.
    pub(super) muster: Notify,
    /// Who is asked from another thread whether the pool's runtime answers.
    pub(super) call: RollCall,
    pub(super) intake: Intake,
    pub(super) totals: Totals,
    /// Commands to stop jobs, those included that are not in hand (yet).
    pub(super) cancels: Cancels,
    stopping: AtomicBool,
    stopped: Notify,
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
        let consumer = open_consumer(&setup, setup.options.outstanding).await?;
        Ok(Self {
            roster: Roster::default(),
            target: AtomicUsize::new(setup.scaling.initial),
            demanded: AtomicUsize::new(setup.options.outstanding),
            clogged: AtomicBool::new(false),
            brief: AtomicBool::new(false),
            muster: Notify::new(),
            call: RollCall::default(),
            intake: Intake::new(setup.scheduler.env().clock.monotonic()),
            totals: Totals::default(),
            cancels: Cancels::default(),
            stopped: Notify::new(),
            telling: Mutex::default(),
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
            let outstanding = self.outstanding();
            let fresh = open_consumer(&self.setup, outstanding).await?;
            self.demanded.store(outstanding, Ordering::Relaxed);
            *self.consumer.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
        Ok(())
    }

    pub(super) fn lease(&self) -> Duration {
        self.setup.options.lease
    }

    /// Slots there should be.
    pub(super) fn target(&self) -> usize {
        self.target.load(Ordering::Relaxed)
    }

    /// How many jobs may wait for a slot.
    pub(super) fn spare(&self) -> usize {
        if self.clogged.load(Ordering::Relaxed) {
            return 0;
        }
        let usual = spare(self.setup.prefetch, self.target());
        if self.brief.load(Ordering::Relaxed) { usual.max(self.setup.prefetch_while_brief) } else { usual }
    }

    /// So many runs took so long together: from their mean follows how many jobs may wait for a slot from now on.
    pub(super) fn ran(&self, runs: u64, time: Duration) {
        self.totals.add(runs, time);
        if self.setup.prefetch_while_brief > 0 && runs > 0 {
            let brief = time.as_nanos() / u128::from(runs) <= BRIEF.as_nanos();
            // Written only where it changes: fetcher and slots read it.
            if self.brief.load(Ordering::Relaxed) != brief {
                self.brief.store(brief, Ordering::Relaxed);
            }
        }
    }

    /// Has nobody wait for a slot until a run has ended: what goes back would come here again at once.
    pub(super) async fn clog(&self) {
        self.clogged.store(true, Ordering::Relaxed);
        self.follow_demand_soon().await;
    }

    /// A run has ended: slots become free again.
    pub(super) async fn unclog(&self) {
        if self.clogged.load(Ordering::Relaxed) && self.clogged.swap(false, Ordering::Relaxed) {
            self.room.notify_one();
            self.follow_demand_soon().await;
        }
    }

    /// A provider that does not answer keeps neither a slot nor the beats for long; it is told again before the next fetch.
    async fn follow_demand_soon(&self) {
        let patience = self.lease() / defaults::HEARTBEATS_PER_LEASE;
        if tokio::time::timeout(patience, self.follow_demand()).await.is_err() {
            self.demanded.store(0, Ordering::Relaxed);
        }
    }

    /// Slots and buffer together, and what slots hold that do not answer: they must not take it from those that do.
    fn outstanding(&self) -> usize {
        self.target() + self.spare() + self.roster.stuck()
    }

    /// Has more slots, and tells the crew.
    pub(super) fn grow(&self, by: usize) {
        self.target.fetch_add(by, Ordering::Relaxed);
        self.muster.notify_one();
        self.room.notify_one();
    }

    /// Has fewer slots, as far as some have nothing to do; says how many. They leave by themselves.
    pub(super) fn shrink(&self, by: usize) -> usize {
        // Wanted less before they leave, so that the crew does not replace them.
        self.target.fetch_sub(by, Ordering::Relaxed);
        let leaving = self.buffer.retire(by);
        self.target.fetch_add(by - leaving, Ordering::Relaxed);
        leaving
    }

    /// Tells the consumer how many jobs may be out, where that has changed; again where it changes meanwhile, so that whoever
    /// of two tells last tells what is.
    pub(super) async fn follow_demand(&self) {
        let mut told = self.demanded.load(Ordering::Relaxed);
        loop {
            let outstanding = self.outstanding();
            if told == outstanding {
                return;
            }
            self.demanded.store(outstanding, Ordering::Relaxed);
            if let Err(error) = self.consumer().demand(outstanding).await {
                tracing::warn!(queue = %self.setup.spec.name, outstanding, %error, "cannot tell how many jobs may be out");
                self.demanded.store(0, Ordering::Relaxed);
                return;
            }
            told = outstanding;
        }
    }

    /// Tells people and listeners of something that went wrong. Slot 0 is no slot.
    pub(super) fn report(&self, slot: u64, job: Option<JobId>, reason: String) {
        let queue = &self.setup.spec.name;
        tracing::error!(%queue, slot, job = job.map(tracing::field::display), "{reason}");
        self.announce(|| PoolChange::Unhealthy { slot, job, reason });
    }

    pub(super) fn announce(&self, what: impl FnOnce() -> PoolChange) {
        let Setup { scheduler, spec, options, .. } = &self.setup;
        let event = || PoolEvent::new(self.env().now(), Arc::clone(&options.worker), spec.name.clone(), what());
        scheduler.announce(|| Event::Pool(event()));
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
        let taken: Vec<_> = deliveries.into_iter().map(&mut enter).collect();
        drop(register);
        // A command that came between claim and register found nobody.
        for held in self.cancels.among(&taken) {
            held.ask();
        }
        taken
    }

    /// Lets go of deliveries that are settled or lost. One may be let go of twice: when nobody waits for its slot any more,
    /// and when that comes back.
    pub(super) fn let_go<'a>(&self, all: impl Iterator<Item = &'a Arc<Held>>) {
        let mut gone = 0;
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        for held in all {
            let here = register.get(held.key).is_some_and(|other| Arc::ptr_eq(other, held));
            gone += usize::from(here && register.try_remove(held.key).is_some());
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

    /// These are to be told to the observer, one after the other, which may take its time. Given before they are let go of, and
    /// again, as none, when all are told.
    pub(super) fn is_telling(&self, all: Vec<Arc<Held>>) {
        let told = std::mem::replace(&mut *self.telling.lock().unwrap_or_else(PoisonError::into_inner), all);
        drop(told);
    }

    /// What its handlers run, and what they ran that nobody was told of.
    pub(super) fn at_work(&self) -> Vec<AtWork> {
        let now = self.env().clock.monotonic();
        let register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        let at_work = |held: &Arc<Held>| {
            let begun = held.begun().filter(|_| !held.is_told())?;
            let (job, attempt) = (held.delivery.envelope.id, held.delivery.attempt);
            Some(AtWork { job, attempt, for_so_long: now.saturating_sub(begun), ended_after: held.run() })
        };
        // One is in both for a moment.
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = |held: &&Arc<Held>| register.get(held.key).is_some_and(|other| Arc::ptr_eq(other, held));
        let let_go = telling.iter().filter(|held| !is_there(held));
        register.iter().map(|(_, held)| held).chain(let_go).filter_map(at_work).collect()
    }

    /// What a slot has in its hands.
    pub(super) fn in_slot(&self, slot: u64) -> Option<Arc<Held>> {
        self.in_hand().into_iter().find(|held| held.sign().is_some_and(|sign| sign.slot == slot))
    }

    /// What the slots do that have a job.
    pub(super) fn signs(&self) -> Vec<Sign> {
        let register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        register.iter().filter_map(|(_, held)| held.sign()).collect()
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
        // An error means that nothing stopped.
        let _ = tokio::time::timeout(pause, self.stopped()).await;
    }

    /// Waits until it stops.
    pub(super) async fn stopped(&self) {
        let stopped = self.stopped.notified();
        tokio::pin!(stopped);
        stopped.as_mut().enable();
        if !self.is_stopping() {
            stopped.await;
        }
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
        let (slots, unhealthy) = (self.roster.sound(), self.roster.stuck());
        let (fetched_ago, flows) = self.intake.at(self.env().clock.monotonic(), self.setup.sign_of_life);
        let (ended_total, run_time_total) = self.totals.read();
        let at_work = |sign: &Sign| !self.roster.is_replaced(sign.slot);
        PoolStatus {
            queue: self.setup.spec.name.clone(),
            consuming: flows && slots > 0 && self.call.is_answered(),
            fetched_ago,
            slots,
            busy: self.signs().iter().filter(|sign| at_work(sign)).count(),
            unhealthy,
            in_hand: self.in_hand.load(Ordering::Relaxed),
            ended_total,
            run_time_total,
            kinds: routes.by_kind.keys().cloned().collect(),
            any_kind: routes.fallback.is_some(),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stopped.notify_waiters();
        self.room.notify_one();
    }
}

/// A thousand such runs are a quarter of a second.
const BRIEF: Duration = Duration::from_micros(250);

/// Half the slots where nobody says otherwise: enough to keep them busy over a fetch, and few that wait behind a long job.
pub(super) fn spare(prefetch: Option<usize>, slots: usize) -> usize {
    prefetch.unwrap_or((slots / 2).min(256))
}

async fn open_consumer(setup: &Setup, outstanding: usize) -> Result<Arc<dyn Consumer>> {
    let options = ConsumeOptions { outstanding, ..setup.options.clone() };
    setup.scheduler.provider().consumer(&setup.spec.name, options).await
}
