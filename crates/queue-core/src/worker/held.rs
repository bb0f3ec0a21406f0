//! A delivery in this worker's hands, from the fetch to its settlement.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::extract::States;
use crate::{
    clock::Clock,
    config::defaults,
    provider::{Beat, Delivery, Lease},
    queue_spec::QueueSpec,
};

/// What all deliveries of a pool share, behind one reference count: its line moves between threads with every job.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) spec: Arc<QueueSpec>,
    pub(super) states: States,
    /// Rung when an outbox should not wait for the next round of heartbeats.
    pub(super) bell: Arc<Notify>,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) delivery: Delivery,
    pub(super) common: Arc<Common>,
    /// When it came into this worker's hands, on the local monotonic clock.
    pub(super) fetched: Duration,
    /// Batches of parked jobs that were let go before it was fetched; see [`super::lines::Lines::fetched`].
    pub(super) batch: u64,
    /// Its place in the pool's register.
    pub(super) key: usize,
    /// When the lease ends on the local monotonic clock, in nanoseconds; `u64::MAX` for a session.
    lease_until: AtomicU64,
    running: AtomicBool,
    /// Its handler was called.
    called: AtomicBool,
    told: AtomicBool,
    seat: Seat,
    /// It holds a permit of the limiter, which must be renewed.
    pub(super) limited: AtomicBool,
    order: Mutex<Order>,
    ordered: Notify,
    /// Boxed: most jobs say nothing while they run.
    outbox: Mutex<Option<Box<Outbox>>>,
}

/// Who has it, and a sign of life of his. Only the slot writes; the heartbeat's thread looks at it. It costs neither a lock nor
/// a clock, and is here because a slot at work has this in its cache and nothing else of its own.
#[derive(Debug, Default)]
struct Seat {
    /// The slot that has it, once one does; `DONE_WITH` afterwards.
    slot: AtomicU64,
    /// When that took it, on the local monotonic clock, in nanoseconds.
    begun: AtomicU64,
    /// How long it had it, in nanoseconds; good where it is done with.
    run: AtomicU64,
    /// Odd during a poll, and another number in the next. Who sees the same odd number twice sees a slot that came to no await
    /// in between: it blocks its thread.
    polls: AtomicU64,
}

/// Which poll of which run; no two are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) slot: u64,
    begun: u64,
    polls: u64,
}

impl Sign {
    #[cfg(test)]
    pub(super) const fn of(slot: u64, begun: u64, polls: u64) -> Self {
        Self { slot, begun, polls }
    }

    pub(super) const fn is_in_a_poll(self) -> bool {
        self.polls % 2 == 1
    }
}

/// What a handler is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing.
    GoOn,
    /// Stop by yourself within the grace.
    Stop { why: Why, grace: Duration },
    /// Somebody else has the job: stop now.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Cancelled,
    Shutdown,
}

/// What waits to be told by the next heartbeat.
#[derive(Debug, Default)]
struct Outbox {
    progress: Option<Bytes>,
    logs: Vec<Bytes>,
}

/// No slot has this number.
const DONE_WITH: u64 = u64::MAX;

/// Log lines kept between two heartbeats; more are dropped, oldest first.
const MAX_LOGS: usize = crate::store::JobRecord::MAX_LOGS;

impl Held {
    pub(super) fn new(delivery: Delivery, common: Arc<Common>, key: usize, now: Duration, batch: u64) -> Self {
        let order = match &delivery.lease.cancel {
            Some(cancel) => Order::Stop { why: Why::Cancelled, grace: cancel.grace },
            None => Order::GoOn,
        };
        Self {
            lease_until: AtomicU64::new(end_of(&delivery.lease, now)),
            delivery,
            common,
            fetched: now,
            batch,
            key,
            running: AtomicBool::new(false),
            called: AtomicBool::new(false),
            told: AtomicBool::new(false),
            seat: Seat::default(),
            limited: AtomicBool::new(false),
            order: Mutex::new(order),
            ordered: Notify::new(),
            outbox: Mutex::default(),
        }
    }

    /// Whether the lease stands at that time of the local monotonic clock.
    pub(super) fn lease_stands(&self, now: Duration) -> bool {
        let until = self.lease_until.load(Ordering::Acquire);
        until == u64::MAX || nanos(now) < until
    }

    pub(super) fn set_running(&self) {
        self.running.store(true, Ordering::Relaxed);
    }

    /// Whether its handler was to run.
    pub(super) fn was_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Its handler is being called.
    pub(super) fn set_called(&self) {
        self.called.store(true, Ordering::Relaxed);
    }

    /// When its slot took it, if its handler was called then.
    pub(super) fn begun(&self) -> Option<Duration> {
        let begun = || Duration::from_nanos(self.seat.begun.load(Ordering::Relaxed));
        self.called.load(Ordering::Relaxed).then(begun)
    }

    /// A slot has it from now on.
    pub(super) fn sit(&self, slot: u64) {
        self.seat.slot.store(slot, Ordering::Release);
    }

    pub(super) fn begin(&self, now: Duration) {
        self.seat.begun.store(nanos(now), Ordering::Relaxed);
    }

    /// No slot has it any more, and none will.
    pub(super) fn rise(&self, run: Duration) {
        self.seat.run.store(nanos(run), Ordering::Relaxed);
        self.seat.slot.store(DONE_WITH, Ordering::Release);
    }

    /// One poll of its run.
    pub(super) fn counted<T>(&self, poll: impl FnOnce() -> T) -> T {
        // No read-modify-write: nobody else writes.
        let polls = &self.seat.polls;
        let count = polls.load(Ordering::Relaxed);
        polls.store(count + 1, Ordering::Relaxed);
        let polled = poll();
        polls.store(count + 2, Ordering::Relaxed);
        polled
    }

    /// What its slot does, if it sits in one.
    pub(super) fn sign(&self) -> Option<Sign> {
        let slot = self.seat.slot.load(Ordering::Acquire);
        let (begun, polls) = (self.seat.begun.load(Ordering::Relaxed), self.seat.polls.load(Ordering::Relaxed));
        (slot != 0 && slot != DONE_WITH).then_some(Sign { slot, begun, polls })
    }

    /// How long its slot had it, once that is done with it.
    pub(super) fn run(&self) -> Option<Duration> {
        self.is_done_with().then(|| Duration::from_nanos(self.seat.run.load(Ordering::Relaxed)))
    }

    /// The observer knows of its end.
    pub(super) fn set_told(&self) {
        self.told.store(true, Ordering::Release);
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    pub(super) fn is_done_with(&self) -> bool {
        self.seat.slot.load(Ordering::Acquire) == DONE_WITH
    }

    /// Whether its slot is in one of these polls, and has had it for longer than its timeout and the grace of whoever is asked
    /// to stop: nobody drops its handler, but nobody waits for it either.
    pub(super) fn is_overdue(&self, blocked: &[Sign], now: Duration) -> bool {
        let Some(sign) = self.sign().filter(|sign| blocked.contains(sign)) else { return false };
        let patience = self.delivery.envelope.timeout.saturating_add(defaults::CANCEL_GRACE);
        now.saturating_sub(Duration::from_nanos(sign.begun)) >= patience
    }

    /// The next round of heartbeats must not be waited for: somebody may have asked it to stop.
    pub(super) fn ask(&self) {
        self.tell(|_| ());
    }

    /// What a beat answered. The lease is counted from before the beat was sent, so that it never seems longer than it is.
    pub(super) fn renewed(&self, lease: &Lease, sent: Duration) {
        self.lease_until.store(end_of(lease, sent), Ordering::Release);
        if let Some(cancel) = &lease.cancel {
            self.command(Order::Stop { why: Why::Cancelled, grace: cancel.grace });
        }
    }

    /// An order to stop stands, but a later one may shorten its grace, a cancel is more than the end of a worker, and the loss
    /// of the lease overrules both.
    pub(super) fn command(&self, order: Order) {
        let mut current = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let new = match (*current, order) {
            (Order::GoOn, order) | (Order::Stop { .. }, order @ Order::Lost) => order,
            (Order::Stop { why, grace }, Order::Stop { why: also, grace: other }) => {
                let why = if also == Why::Cancelled { also } else { why };
                Order::Stop { why, grace: grace.min(other) }
            }
            (current, _) => current,
        };
        if *current != new {
            *current = new;
            drop(current);
            self.ordered.notify_waiters();
        }
    }

    /// Waits until the lease has ended unrenewed: for ever where it is a session's.
    pub(super) async fn lease_ended(&self, clock: &dyn Clock) {
        loop {
            let until = self.lease_until.load(Ordering::Acquire);
            if until == u64::MAX {
                return std::future::pending().await;
            }
            match until.saturating_sub(nanos(clock.monotonic())) {
                0 => return,
                left => tokio::time::sleep(Duration::from_nanos(left)).await,
            }
        }
    }

    pub(super) fn order(&self) -> Order {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an order that is not `current`.
    pub(super) async fn order_other_than(&self, current: Order) -> Order {
        loop {
            let ordered = self.ordered.notified();
            tokio::pin!(ordered);
            ordered.as_mut().enable();
            match self.order() {
                order if order != current => return order,
                _ => ordered.await,
            }
        }
    }

    pub(super) fn report(&self, progress: Bytes) {
        self.tell(|outbox| outbox.progress = Some(progress));
    }

    /// Keeps a line until the next beat.
    pub(super) fn log(&self, line: Bytes) {
        self.tell(|outbox| {
            if outbox.logs.len() == MAX_LOGS {
                outbox.logs.remove(0);
            }
            outbox.logs.push(line);
        });
    }

    fn tell(&self, write: impl FnOnce(&mut Outbox)) {
        write(self.outbox().get_or_insert_default());
        self.common.bell.notify_one();
    }

    fn outbox(&self) -> MutexGuard<'_, Option<Box<Outbox>>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_news(&self) -> bool {
        self.outbox().is_some()
    }

    /// The next beat, with what waits to be told.
    pub(super) fn beat(&self, extend: Duration) -> Beat {
        let Outbox { progress, logs } = self.outbox().take().map(|outbox| *outbox).unwrap_or_default();
        let started = self.running.load(Ordering::Relaxed);
        let session = self.lease_until.load(Ordering::Relaxed) == u64::MAX;
        Beat { receipt: self.delivery.receipt, started, extend: (!session).then_some(extend), progress, logs }
    }

    /// The beat got no answer: what it told is told again, unless there is something newer.
    pub(super) fn untold(&self, beat: &Beat) {
        if beat.progress.is_none() && beat.logs.is_empty() {
            return;
        }
        let mut outbox = self.outbox();
        let outbox = outbox.get_or_insert_default();
        outbox.progress = outbox.progress.take().or_else(|| beat.progress.clone());
        let newer = std::mem::replace(&mut outbox.logs, beat.logs.clone());
        outbox.logs.extend(newer);
        let excess = outbox.logs.len().saturating_sub(MAX_LOGS);
        outbox.logs.drain(..excess);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn end_of(lease: &Lease, from: Duration) -> u64 {
    lease.remaining.map_or(u64::MAX, |remaining| nanos(from.saturating_add(remaining)))
}
