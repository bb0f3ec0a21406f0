//! Where an inbox, its keeper and those who hold messages meet: one short lock.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::hand::{Hand, taken_back};
use crate::{
    clock::Env,
    error::{Error, ErrorCode, Result},
    provider::{ConsumeOptions, Consumer, Delivery, Disposition, ReleaseReason},
    queue_spec::QueueSpec,
    scheduler::JobScheduler,
};

/// What an inbox shares with its keeper and with the messages it gave out.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) scheduler: JobScheduler,
    pub(super) spec: Arc<QueueSpec>,
    /// How it consumes; `outstanding` is what may be buffered and in hand together.
    pub(super) options: ConsumeOptions,
    /// The keeper's, and gone with it: messages that outlive their inbox must not keep a session open.
    consumer: RwLock<Option<Arc<dyn Consumer>>>,
    state: Mutex<State>,
    /// Rung when messages came, or when it is certain that none will.
    arrived: Notify,
    /// Each part of the keeper sleeps on its own.
    pub(super) fetcher: Notify,
    pub(super) settler: Notify,
    pub(super) heart: Notify,
    pub(super) closer: Notify,
    pub(super) counts: Counts,
}

/// What happened while it closed.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) done: AtomicUsize,
    pub(super) released: AtomicUsize,
    pub(super) aborted: AtomicUsize,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    fetching: Fetching,
    /// How often was fetched.
    round: u64,
    /// What the last fetch failed with.
    failure: Option<Error>,
    /// Fetched and not given out.
    ready: VecDeque<Arc<Hand>>,
    /// Fetched and not settled: what is ready, in hand, and on its way to the provider.
    held: Slab<Arc<Hand>>,
    outbox: Vec<Settling>,
    waiting: Slab<Waiting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Gives out no more.
    Closing,
    /// The keeper is gone.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetching {
    /// Until somebody wants something.
    Asleep,
    Asking,
    /// After an error.
    Pausing,
    Ended,
}

/// Somebody who wants messages.
#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// Which fetch was the last before it came.
    round: u64,
    /// A fetch of its own found nothing until its time had passed.
    in_vain: bool,
}

/// A message on its way to be settled.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) hand: Arc<Hand>,
    pub(super) disposition: Disposition,
    pub(super) answer: Option<oneshot::Sender<Result<()>>>,
    /// How often it was not answered.
    pub(super) tries: u32,
}

/// A broker that answers a fetch late is waited for that long beyond the receiver's own wait.
const SLACK: Duration = Duration::from_secs(1);

impl Desk {
    pub(super) fn new(
        scheduler: JobScheduler,
        spec: Arc<QueueSpec>,
        options: ConsumeOptions,
        consumer: Arc<dyn Consumer>,
    ) -> Self {
        let state = State {
            phase: Phase::Open,
            fetching: Fetching::Asleep,
            round: 0,
            failure: None,
            ready: VecDeque::new(),
            held: Slab::new(),
            outbox: Vec::new(),
            waiting: Slab::new(),
        };
        Self {
            scheduler,
            spec,
            options,
            consumer: RwLock::new(Some(consumer)),
            state: Mutex::new(state),
            arrived: Notify::new(),
            fetcher: Notify::new(),
            settler: Notify::new(),
            heart: Notify::new(),
            closer: Notify::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn env(&self) -> &Env {
        self.scheduler.env()
    }

    pub(super) fn consumer(&self) -> Option<Arc<dyn Consumer>> {
        self.consumer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace_consumer(&self, consumer: Arc<dyn Consumer>) {
        *self.consumer.write().unwrap_or_else(PoisonError::into_inner) = Some(consumer);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(super) fn closed(&self) -> Error {
        Error::new(ErrorCode::Closed, "the inbox was closed").at("receive").on(&self.spec.name)
    }
}

/// For receivers.
impl Desk {
    /// Waits for messages until then: at most `max`, none when the time has passed. Dropping it loses nothing.
    pub(super) async fn next(&self, max: usize, until: Instant) -> Result<Vec<Arc<Hand>>> {
        let waiting = Enlisted::new(self, until);
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // From here on no ring is missed.
            arrived.as_mut().enable();
            let now = Instant::now();
            {
                let mut state = self.lock();
                if state.phase != Phase::Open {
                    return Err(self.closed());
                }
                let count = state.ready.len().min(max);
                if count > 0 {
                    return Ok(state.ready.drain(..count).collect());
                }
                if now >= until && (now >= until + SLACK || !state.may_still_come(waiting.key, &self.options)) {
                    return state.failure.clone().map_or_else(|| Ok(Vec::new()), Err);
                }
            }
            let look_again = if now < until { until } else { until + SLACK };
            // Whichever comes first; the next look tells which it was.
            let _ = tokio::time::timeout_at(look_again, arrived).await;
        }
    }
}

impl State {
    fn free(&self, options: &ConsumeOptions) -> usize {
        options.outstanding.saturating_sub(self.held.len())
    }

    /// Whether a fetch is on its way whose answer the receiver should wait for.
    fn may_still_come(&self, key: usize, options: &ConsumeOptions) -> bool {
        let coming = match self.fetching {
            Fetching::Asking => true,
            Fetching::Asleep => self.free(options) > 0,
            Fetching::Pausing | Fetching::Ended => false,
        };
        coming && self.waiting.get(key).is_some_and(|waiting| !waiting.in_vain)
    }
}

/// A receiver's entry, which leaves with it.
struct Enlisted<'a> {
    desk: &'a Desk,
    key: usize,
}

impl<'a> Enlisted<'a> {
    fn new(desk: &'a Desk, until: Instant) -> Self {
        let mut state = desk.lock();
        let round = state.round;
        let key = state.waiting.insert(Waiting { until, round, in_vain: false });
        drop(state);
        desk.fetcher.notify_one();
        Self { desk, key }
    }
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.desk.lock().waiting.try_remove(self.key);
        // What it took may leave others without.
        self.desk.fetcher.notify_one();
    }
}

/// For the fetcher.
impl Desk {
    /// Waits until somebody wants what is not here, and there is room: how many, and until when. `None` once it closes.
    ///
    /// An inbox that nobody reads takes nothing away from those who would.
    pub(super) async fn wanted(&self) -> Option<(usize, Instant)> {
        loop {
            {
                let mut state = self.lock();
                if state.phase != Phase::Open {
                    return None;
                }
                let free = state.free(&self.options);
                let until =
                    state.waiting.iter().filter(|(_, waiting)| !waiting.in_vain).map(|(_, waiting)| waiting.until);
                if let Some(until) = until.max()
                    && state.ready.is_empty()
                    && free > 0
                {
                    state.fetching = Fetching::Asking;
                    state.round += 1;
                    return Some((free, until));
                }
                if std::mem::replace(&mut state.fetching, Fetching::Asleep) != Fetching::Asleep {
                    // Whoever waits in vain for room, because all is in hand, may look again.
                    self.arrived.notify_waiters();
                }
            }
            self.fetcher.notified().await;
        }
    }

    /// Takes fetched deliveries into its hands; where nobody gets them any more they go back.
    pub(super) fn take_in(&self, deliveries: Vec<Delivery>) {
        let fetched = self.env().clock.monotonic();
        let mut state = self.lock();
        state.failure = None;
        let state = &mut *state;
        for delivery in deliveries {
            let entry = state.held.vacant_entry();
            let hand = Arc::new(Hand::new(delivery, entry.key(), fetched));
            entry.insert(Arc::clone(&hand));
            state.ready.push_back(hand);
        }
        if state.phase != Phase::Open {
            self.give_back_ready(state, None);
        }
        self.heart.notify_one();
        self.arrived.notify_waiters();
    }

    /// A fetch brought nothing, or an error, after which comes a pause.
    pub(super) fn came_to_nothing(&self, failure: Option<Error>, pausing: bool) {
        let now = Instant::now();
        let mut state = self.lock();
        state.failure = failure;
        let round = state.round;
        let ours = state.waiting.iter_mut().map(|(_, waiting)| waiting).filter(|waiting| waiting.round < round);
        ours.filter(|waiting| waiting.until <= now).for_each(|waiting| waiting.in_vain = true);
        if pausing {
            state.fetching = Fetching::Pausing;
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    pub(super) fn fetch_ended(&self) {
        self.lock().fetching = Fetching::Ended;
        self.arrived.notify_waiters();
        self.settler.notify_one();
        self.heart.notify_one();
        self.closer.notify_one();
    }
}

/// For those who settle.
impl Desk {
    /// Hands a message over to be settled, if nobody did before. The answer comes once it is.
    pub(super) fn settle(&self, hand: &Arc<Hand>, disposition: Disposition) -> oneshot::Receiver<Result<()>> {
        let (answer, answered) = oneshot::channel();
        if let Err(error) = hand.decide() {
            let _ = answer.send(Err(error.on(&self.spec.name)));
            return answered;
        }
        let settling = Settling { hand: Arc::clone(hand), disposition, answer: Some(answer), tries: 0 };
        self.put(&mut self.lock(), settling);
        answered
    }

    /// The same, of which nobody hears.
    pub(super) fn settle_unheard(&self, hand: &Arc<Hand>, disposition: Disposition) -> bool {
        self.settle_under_lock(&mut self.lock(), hand, disposition)
    }

    fn settle_under_lock(&self, state: &mut State, hand: &Arc<Hand>, disposition: Disposition) -> bool {
        let ours = hand.decide().is_ok();
        if ours {
            self.put(state, Settling { hand: Arc::clone(hand), disposition, answer: None, tries: 0 });
        }
        ours
    }

    fn put(&self, state: &mut State, settling: Settling) {
        // After the end the lease ends by itself; dropping the answer says so.
        if state.phase != Phase::Closed {
            state.outbox.push(settling);
            self.settler.notify_one();
        }
    }

    /// Moves what is to be settled, at most up to `room`, into `batch`. `false` once there will be no more.
    pub(super) fn drain(&self, batch: &mut Vec<Settling>, room: usize) -> bool {
        let mut state = self.lock();
        let count = state.outbox.len().min(room);
        batch.extend(state.outbox.drain(..count));
        if !state.outbox.is_empty() {
            self.settler.notify_one();
        }
        !(state.fetching == Fetching::Ended && state.held.is_empty())
    }

    /// Lets go of messages that are settled or lost.
    pub(super) fn let_go<'a>(&self, hands: impl Iterator<Item = &'a Arc<Hand>>) {
        let mut state = self.lock();
        for hand in hands {
            if state.held.get(hand.key).is_some_and(|held| Arc::ptr_eq(held, hand)) {
                state.held.remove(hand.key);
            }
        }
        let empty = state.held.is_empty();
        drop(state);
        self.fetcher.notify_one();
        if empty {
            self.settler.notify_one();
            self.heart.notify_one();
            self.closer.notify_one();
        }
    }
}

/// For the heart and the closer.
impl Desk {
    /// `None` once there will be no more.
    pub(super) fn held(&self) -> Option<Vec<Arc<Hand>>> {
        let state = self.lock();
        if state.fetching == Fetching::Ended && state.held.is_empty() {
            return None;
        }
        Some(state.held.iter().map(|(_, hand)| Arc::clone(hand)).collect())
    }

    /// What nobody has asked for since then goes back, for somebody who does.
    pub(super) fn give_back_since(&self, before: Duration) {
        self.give_back_ready(&mut self.lock(), Some(before));
    }

    fn give_back_ready(&self, state: &mut State, before: Option<Duration>) {
        let old = |hand: &&Arc<Hand>| before.is_none_or(|before| hand.fetched < before);
        let count = state.ready.iter().take_while(old).count();
        let reason = if state.phase == Phase::Open { ReleaseReason::Busy } else { ReleaseReason::Shutdown };
        let back: Vec<_> = state.ready.drain(..count).collect();
        for hand in back {
            self.settle_under_lock(state, &hand, Disposition::Release { after: Duration::ZERO, reason });
            if state.phase != Phase::Open {
                self.counts.released.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Somebody else has it: nothing is to be settled.
    pub(super) fn lost(&self, hand: &Arc<Hand>) {
        // An error means that it is on its way to be settled, which will be answered in the same sense.
        if hand.decide().is_ok() {
            self.lock().ready.retain(|ready| !Arc::ptr_eq(ready, hand));
            self.let_go(std::iter::once(hand));
        }
    }

    pub(super) fn begin_closing(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closing;
        self.give_back_ready(&mut state, None);
        drop(state);
        self.arrived.notify_waiters();
        self.fetcher.notify_one();
        self.heart.notify_one();
    }

    /// Takes back what is in hand.
    pub(super) fn take_back_all(&self) {
        let mut state = self.lock();
        let all: Vec<_> = state.held.iter().map(|(_, hand)| Arc::clone(hand)).collect();
        for hand in all {
            let disposition = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
            if self.settle_under_lock(&mut state, &hand, disposition) {
                self.counts.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The keeper is gone, however it ended.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        state.ready.clear();
        state.outbox.clear();
        for (_, hand) in std::mem::take(&mut state.held) {
            let _ = hand.decide();
        }
        drop(state);
        *self.consumer.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.arrived.notify_waiters();
    }

    /// How many are in hand and undecided.
    pub(super) fn open(&self) -> usize {
        self.lock().held.len()
    }
}

/// What an answer that never came says.
pub(super) fn unanswered(desk: &Desk) -> Error {
    taken_back("its inbox is gone: it is delivered again when its lease ends").on(&desk.spec.name)
}
