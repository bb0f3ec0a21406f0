//! The provider: queues by name.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, QueueSpec, Result,
    job::{Envelope, QueueName, StoreId},
    lifecycle::JobState,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Consumer, Durability, LeaseModel, OnFull, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, Rejection, Support, Topics,
    },
    queue_spec::{Order, Tracking},
    store::JobStore,
};

use crate::{
    admin::MemoryAdmin,
    consumer::MemoryConsumer,
    events::Hub,
    journal::{Batch, Journal, Ticket, Urgency},
    queue::{Changes, Named, Now, Queue, State, Taken},
    store::MemoryStore,
    topics::{MemoryTopics, Subscriptions},
};

/// Jobs in this process's memory. A clone is another handle on the same connection; [`MemoryProvider::connect`] makes another
/// connection to the same queues.
#[derive(Debug, Clone)]
pub struct MemoryProvider {
    pub(crate) shared: Arc<Shared>,
    connection: Arc<Connection>,
}

/// What the clones of a handle share.
#[derive(Debug)]
struct Connection {
    shared: Arc<Shared>,
    closed: AtomicBool,
}

impl Connection {
    fn begin(shared: &Arc<Shared>) -> Arc<Self> {
        shared.connections.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self { shared: Arc::clone(shared), closed: AtomicBool::new(false) })
    }

    /// Whether no other is open.
    fn end(&self) -> bool {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.shared.connections.fetch_sub(1, Ordering::AcqRel);
        }
        self.shared.connections.load(Ordering::Acquire) == 0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) store: StoreId,
    pub(crate) hub: Hub,
    /// Where everything is written down that must outlive the process.
    pub(crate) journal: Option<Journal>,
    #[cfg(feature = "journal")]
    pub(crate) recovery: Option<crate::Recovery>,
    pub(crate) notes: Mutex<BTreeMap<String, Bytes>>,
    /// Connections that were not closed: with the last one the journal ends.
    connections: AtomicUsize,
    /// Read on every publish, written when a queue comes or goes.
    queues: ArcSwap<HashMap<QueueName, Arc<Queue>>>,
    subscriptions: ArcSwap<Subscriptions>,
    changing: Mutex<()>,
    numbers: AtomicU64,
    pub(crate) leaders: crate::store::Leaders,
    /// That it was opened: no epoch is given out before that is on disk, or it might be given out again.
    pub(crate) begun: Option<Ticket>,
}

const SCHEME: &str = "memory";
/// Below it a lease would end while its own beat is on the way.
const MIN_LEASE: Duration = Duration::from_millis(1);
/// A wait beyond it is as good as endless, and cannot overflow the clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
/// A disk that does not answer at all, not even that it refuses, is given up on.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_LEASE: Duration = Duration::from_secs(7 * 24 * 3_600);

impl MemoryProvider {
    /// Empty queues on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_env(Env::system())
    }

    /// Empty queues on a clock and randomness of the caller's.
    #[must_use]
    pub fn with_env(env: Env) -> Self {
        Self::with_shared(Shared::new(env, Hub::new()))
    }

    pub(crate) fn with_shared(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        Self { connection: Connection::begin(&shared), shared }
    }

    /// Another connection to the same queues, which is closed on its own.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), connection: Connection::begin(&self.shared) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.closed.load(Ordering::Acquire)
    }

    pub(crate) fn ensure_open(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            let message = "this connection was closed: connect again";
            return Err(Error::new(ErrorCode::Closed, message).at(operation).by(SCHEME));
        }
        Ok(())
    }
}

impl Default for MemoryProvider {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    pub(crate) fn new(env: Env, hub: Hub) -> Self {
        Self {
            store: StoreId::fresh(&env),
            env,
            hub,
            journal: None,
            #[cfg(feature = "journal")]
            recovery: None,
            notes: Mutex::default(),
            connections: AtomicUsize::new(0),
            queues: ArcSwap::default(),
            subscriptions: ArcSwap::default(),
            changing: Mutex::new(()),
            numbers: AtomicU64::new(0),
            leaders: crate::store::Leaders::default(),
            begun: None,
        }
    }

    /// What an earlier process left; the next new queue has the number `next`.
    #[cfg(feature = "journal")]
    pub(crate) fn restore(
        &mut self,
        queues: HashMap<QueueName, Arc<Queue>>,
        next: u64,
        subscriptions: Subscriptions,
        notes: BTreeMap<String, Bytes>,
    ) {
        self.queues.store(Arc::new(queues));
        self.numbers = AtomicU64::new(next);
        self.subscriptions.store(Arc::new(subscriptions));
        self.notes = Mutex::new(notes);
    }

    pub(crate) fn find(&self, name: &QueueName) -> Option<Arc<Queue>> {
        self.queues.load().get(name).cloned()
    }

    /// The queue, with the default spec if nobody declared it.
    pub(crate) fn queue(&self, name: &QueueName) -> Arc<Queue> {
        self.find(name).unwrap_or_else(|| self.queue_or(QueueSpec::new(name.clone())))
    }

    /// The queue, with this spec if it did not exist.
    fn queue_or(&self, spec: QueueSpec) -> Arc<Queue> {
        let _changing = self.changing.lock();
        self.find_or_create(spec)
    }

    /// The caller holds the lock of the index.
    fn find_or_create(&self, spec: QueueSpec) -> Arc<Queue> {
        if let Some(queue) = self.find(&spec.name) {
            return queue;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(spec, number, self.hub.clone()));
        if let Some(journal) = &self.journal {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            queue.with(|state| {
                state.write_down(Changes::new(journal.clone(), self.env.clone(), number));
                state.rely(Some(Durability::Synced));
            });
        }
        let mut queues = HashMap::clone(&self.queues.load());
        queues.insert(queue.name.clone(), Arc::clone(&queue));
        self.queues.store(Arc::new(queues));
        queue
    }

    /// Acts on the queue, never on one that is being dropped: what goes into that is lost.
    pub(crate) fn with_live<R>(&self, name: &QueueName, act: impl FnMut(&mut State) -> R) -> (Arc<Queue>, R) {
        let (queue, result, _) = self.with_live_kept(name, act);
        (queue, result)
    }

    /// The same, with the ticket to wait for.
    pub(crate) fn with_live_kept<R>(
        &self,
        name: &QueueName,
        mut act: impl FnMut(&mut State) -> R,
    ) -> (Arc<Queue>, R, Option<Ticket>) {
        let mut queue = self.queue(name);
        loop {
            if let (Some(result), ticket) = queue.with_kept(|state| (!state.dissolved).then(|| act(state))) {
                return (queue, result, ticket);
            }
            queue = self.successor(name);
        }
    }

    /// The queue that comes after one that was found dissolved: whoever dissolves it removes it under the lock that
    /// this waits for.
    pub(crate) fn successor(&self, name: &QueueName) -> Arc<Queue> {
        self.queue_or(QueueSpec::new(name.clone()))
    }

    pub(crate) fn existing(&self, name: &QueueName, operation: &'static str) -> Result<Arc<Queue>> {
        self.find(name)
            .ok_or_else(|| Error::new(ErrorCode::NotFound, "there is no such queue").at(operation).by(SCHEME).on(name))
    }

    /// Every queue, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        let mut queues: Vec<_> = self.queues.load().values().cloned().collect();
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    /// The queues that are subscribed to a topic, in the order in which they are locked.
    pub(crate) fn subscribed(&self, topic: &QueueName) -> Vec<Arc<Queue>> {
        let find_all = || self.subscriptions.load().of(topic).iter().map(|name| self.find(name)).collect();
        let found: Option<Vec<Arc<Queue>>> = find_all();
        let mut queues = found.unwrap_or_else(|| {
            // One is new, or was dropped just now: nobody drops one under this lock.
            let _changing = self.changing.lock();
            let subscriptions = self.subscriptions.load();
            let names = subscriptions.of(topic).iter();
            names.map(|name| self.find_or_create(QueueSpec::new(name.clone()))).collect()
        });
        queues.sort_by_key(|queue| queue.number);
        queues
    }

    pub(crate) async fn change_subscriptions(&self, change: impl FnOnce(&mut Subscriptions, &mut Batch)) -> Result<()> {
        self.ready()?;
        let ticket = {
            let _changing = self.changing.lock();
            self.edit_subscriptions(change)
        };
        self.kept(ticket).await
    }

    /// The caller holds the lock of the index.
    fn edit_subscriptions(&self, change: impl FnOnce(&mut Subscriptions, &mut Batch)) -> Option<Ticket> {
        let mut subscriptions = Subscriptions::clone(&self.subscriptions.load());
        let mut rows = Batch::new();
        change(&mut subscriptions, &mut rows);
        self.subscriptions.store(Arc::new(subscriptions));
        self.journal.as_ref().map(|journal| journal.append(&rows, Urgency::Now))
    }

    /// Whether anything may be changed now that must outlive the process.
    pub(crate) fn ready(&self) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), Journal::ready)
    }

    /// Waits until a change is on disk; `None` is on no disk, or nobody waits for it.
    pub(crate) async fn kept(&self, ticket: Option<Ticket>) -> Result<()> {
        let (Some(journal), Some(ticket)) = (&self.journal, ticket) else { return Ok(()) };
        // Boxed, so that whoever has no journal carries none of it in every call.
        match Box::pin(tokio::time::timeout(PATIENCE, journal.committed(ticket))).await {
            Ok(kept) => kept,
            Err(_) => Err(Error::new(ErrorCode::Timeout, "the journal's disk does not answer").by(SCHEME)),
        }
    }

    /// Changes a queue and answers once that is on disk, as far as the queue's durability says.
    pub(crate) async fn change<R>(
        &self,
        queue: &Queue,
        operation: &'static str,
        act: impl FnOnce(&mut State) -> R,
    ) -> Result<R> {
        let away = |error: Error| error.at(operation).on(&queue.name);
        self.ready().map_err(away)?;
        let (result, ticket) = queue.with_kept(|state| {
            state.rely(None);
            act(state)
        });
        self.kept(ticket).await.map_err(away)?;
        Ok(result)
    }

    /// Ends the journal in order.
    async fn finish(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        self.flush();
        journal.close().await
    }

    /// Appends what waits in the queues for a disk that refused.
    fn flush(&self) {
        for queue in self.all() {
            queue.with(|state| state.rely(Some(Durability::Relaxed)));
        }
    }

    /// Waits until nobody changes the index: whoever found a dissolved queue finds it gone then.
    pub(crate) fn settle_down(&self) {
        drop(self.changing.lock());
    }

    /// Takes the queue out of the index, with its subscriptions, if `dissolve` dissolves it. Under the lock of the index, so
    /// that whoever finds it dissolved and looks again finds the next one.
    pub(crate) fn remove(
        &self,
        name: &QueueName,
        dissolve: impl FnOnce(&Queue) -> (bool, Option<Ticket>),
    ) -> Result<Option<Ticket>, ()> {
        let _changing = self.changing.lock();
        let queue = self.find(name);
        let (drops, mut ticket) = queue.as_ref().map_or((true, None), |queue| dissolve(queue));
        if !drops {
            return Err(());
        }
        if self.subscriptions.load().is_subscribed(name) {
            ticket = ticket.max(self.edit_subscriptions(|subscriptions, rows| subscriptions.forget(name, rows)));
        }
        if queue.is_none() {
            // Somebody may have dropped it just now, and not be sure of that yet.
            let so_far = self.journal.as_ref().map(|journal| journal.append(&Batch::new(), Urgency::Now));
            return Ok(ticket.max(so_far));
        }
        let mut queues = HashMap::clone(&self.queues.load());
        queues.remove(name);
        self.queues.store(Arc::new(queues));
        Ok(ticket)
    }

    pub(crate) fn now(&self) -> Now {
        Now::read(&self.env)
    }
}

impl Drop for Shared {
    /// Nobody closed it: what waited for the disk goes there with the journal's own end.
    fn drop(&mut self) {
        if self.journal.is_some() {
            self.flush();
        }
    }
}

#[async_trait]
impl QueueProvider for MemoryProvider {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let lease = LeaseModel::PerMessage { min: MIN_LEASE, max: MAX_LEASE };
        let mut can = Capabilities::none(lease, "use another provider");
        can.priority_levels = 15;
        can.priority = Support::Native;
        can.delay = Support::Native;
        can.retry = Support::Native;
        can.dead_letters = Support::Native;
        can.dedup_by_id = Support::Native;
        can.unique_keys = Support::Native;
        can.atomic_then = Support::Native;
        can.settle_confirmed = true;
        can.park = Support::Native;
        can.pause = Support::Native;
        can.purge = Support::Native;
        can.cancel_pending = Support::Native;
        can.cancel_running = Support::Native;
        can.exact_depth = Support::Native;
        can.max_len = Support::Native;
        can.topics = Support::Native;
        can.aged_order = Support::Native;
        can.partitions = Support::Native;
        can.order_by_key = Support::Unsupported { instead: "give each key a queue of its own, or a concurrency key" };
        can.started_count = Support::Native;
        can.max_encoded_len = spec.map_or(usize::MAX, |spec| spec.max_encoded_len);
        can.broker_clock = true;
        can.durability = if self.shared.journal.is_some() { &["synced", "interval", "relaxed"] } else { &["relaxed"] };
        if spec.is_some_and(|spec| spec.tracking == Tracking::Off) {
            // Without records there is no index to find a job in.
            let tracked = Support::Unsupported { instead: "declare the queue with tracking" };
            can.dedup_by_id = tracked;
            can.cancel_pending = tracked;
            can.cancel_running = tracked;
        }
        can
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.ensure_open("declare")?;
        spec.validate()?;
        if !matches!(spec.order, Order::Strict | Order::Aged { .. }) {
            let instead = "declare `strict` or `aged`";
            return Err(Error::unsupported(SCHEME, "order", instead).on(&spec.name));
        }
        self.check_durability(spec.durability).map_err(|error| error.on(&spec.name))?;
        self.shared.ready().map_err(|error| error.at("declare").on(&spec.name))?;
        loop {
            let queue = self.shared.queue_or(spec.clone());
            let (declared, ticket) = queue.with_kept(|state| {
                state.rely(Some(Durability::Synced));
                (!state.dissolved).then(|| state.spec.conflict(spec))
            });
            match declared {
                Some(None) => return self.shared.kept(ticket).await,
                Some(Some(conflict)) => return Err(conflict.by(SCHEME)),
                None => {}
            }
        }
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.ensure_open("drop_queue")?;
        self.shared.ready()?;
        // Both in one section: what is accepted in between would be lost.
        let dissolve = |queue: &Queue| {
            queue.with_kept(|state| {
                let idle = state.waiting() + state.count(JobState::Running) == 0;
                let drops = idle || !only_if_empty;
                if drops {
                    state.dissolve();
                }
                drops
            })
        };
        let ticket = self.shared.remove(queue, dissolve).map_err(|()| {
            let message = "jobs wait or run in it: purge it first, or drop it with everything in it";
            Error::new(ErrorCode::Conflict, message).at("drop_queue").by(SCHEME).on(queue)
        })?;
        self.shared.kept(ticket).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let confirming = Confirming::begin(&self.shared, options);
        if let Some(refusal) = self.admits(options, &confirming).await {
            return batch.iter().map(|_| PublishOutcome::Rejected(refusal.clone())).collect();
        }
        let now = self.shared.now();
        let named = Named::by(&batch);
        let (mut batch, mut waiting) = (batch, Vec::new());
        let (queue, mut outcomes, mut ticket) = self.shared.with_live_kept(queue, |state| {
            state.rely(options.durability);
            let mut outcomes = Vec::with_capacity(batch.len());
            for (index, envelope) in std::mem::take(&mut batch).into_iter().enumerate() {
                outcomes.push(match state.offer(envelope, named.get(index), now) {
                    Taken::Answer(outcome) => outcome,
                    Taken::NoRoom(envelope) if options.on_full == OnFull::Exceed => {
                        state.follow(envelope, named.get(index), now);
                        PublishOutcome::Accepted { place: 0 }
                    }
                    Taken::NoRoom(envelope) => {
                        waiting.push((index, envelope));
                        PublishOutcome::Rejected(Rejection::Full)
                    }
                });
            }
            outcomes
        });
        if !waiting.is_empty() && options.on_full == OnFull::Wait {
            let later = Box::pin(self.wait_for_room(queue, waiting, &named, options, &mut outcomes)).await;
            ticket = ticket.max(later);
        }
        confirming.end(&self.shared, ticket, &mut outcomes).await;
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.ensure_open("consumer")?;
        if !(MIN_LEASE..=MAX_LEASE).contains(&options.lease) {
            let message = format!("a lease is between {MIN_LEASE:?} and {MAX_LEASE:?} here");
            return Err(Error::new(ErrorCode::Validation, message).at("consumer").by(SCHEME).on(queue));
        }
        Ok(Arc::new(MemoryConsumer::open(self.clone(), queue, &options)?))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(MemoryAdmin::new(Arc::clone(&self.shared)))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        Some(Arc::new(MemoryTopics::new(self.clone())))
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        Some(Arc::new(MemoryStore::new(Arc::clone(&self.shared))))
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        const AT_ONCE: usize = 1_000;
        self.ensure_open("unpark")?;
        let Some(queue) = self.shared.find(queue) else { return Ok(0) };
        self.shared.ready().map_err(|error| error.at("unpark"))?;
        let (mut unparked, mut last) = (0, None);
        while unparked < n {
            let part = AT_ONCE.min(n - unparked);
            let now = self.shared.now();
            let (done, ticket) = queue.with_kept(|state| {
                state.rely(None);
                state.unpark(key, part, now)
            });
            last = last.max(ticket);
            unparked += done;
            if done < part {
                break;
            }
            // There may be more; let others at the lock first.
        }
        self.shared.kept(last).await?;
        Ok(unparked)
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        const IDLE: Duration = Duration::from_secs(60);
        const AT_ONCE: usize = 1_000;
        self.ensure_open("maintain")?;
        if let Some(journal) = &self.shared.journal {
            // Without a thread of its own, what nobody waits for is written here.
            journal.pump();
        }
        if !leading {
            return Ok(IDLE);
        }
        let mut next = IDLE;
        for queue in self.shared.all() {
            let now = self.shared.now();
            let (evicted, due) = queue.with(|state| {
                let retention = state.spec.retention;
                (state.sweep(&retention, AT_ONCE, now), state.next_duty(now))
            });
            next = next.min(due);
            if evicted == AT_ONCE {
                // There is more; let others at the lock first.
                next = Duration::ZERO;
            }
        }
        Ok(next)
    }

    async fn ping(&self) -> Result<()> {
        self.ensure_open("ping")
    }

    async fn close(&self) -> Result<()> {
        // Whoever comes back after a call that was cut short waits for the end all the same.
        let last = self.connection.end();
        for queue in self.shared.all() {
            queue.with(State::stir);
            queue.room.notify_waiters();
        }
        if last { self.shared.finish().await } else { Ok(()) }
    }
}

impl MemoryProvider {
    async fn wait_for_room(
        &self,
        mut queue: Arc<Queue>,
        mut waiting: Vec<(usize, Envelope)>,
        named: &Named,
        options: &PublishOptions,
        outcomes: &mut [PublishOutcome],
    ) -> Option<Ticket> {
        let mut last = None;
        let give_up = tokio::time::sleep(options.deadline);
        tokio::pin!(give_up);
        loop {
            let live = {
                let _queuing = Queuing::begin(&queue);
                let room = queue.room.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if let Err(refused) = self.ensure_open("publish").and_then(|()| self.shared.ready()) {
                    let refusal = Rejection::Unavailable(refused.on(&queue.name));
                    for (index, _) in waiting {
                        outcomes[index] = PublishOutcome::Rejected(refusal.clone());
                    }
                    return last;
                }
                let now = self.shared.now();
                let (live, still, ticket) = self.shared.with_live_kept(&queue.name, |state| {
                    state.rely(options.durability);
                    let mut still = Vec::new();
                    for (index, envelope) in std::mem::take(&mut waiting) {
                        match state.offer(envelope, named.get(index), now) {
                            Taken::Answer(outcome) => outcomes[index] = outcome,
                            Taken::NoRoom(envelope) => still.push((index, envelope)),
                        }
                    }
                    still
                });
                last = last.max(ticket);
                waiting = still;
                if waiting.is_empty() {
                    return last;
                }
                if live.number == queue.number {
                    tokio::select! {
                        biased;
                        () = room => {}
                        () = &mut give_up => return last,
                    }
                }
                live
            };
            // Another one where the queue was dropped meanwhile: wait for room in that.
            queue = live;
        }
    }
}

/// Counts a publisher that waits, also when its future is dropped.
pub(crate) struct Queuing<'a>(&'a Queue);

impl<'a> Queuing<'a> {
    pub(crate) fn begin(queue: &'a Queue) -> Self {
        queue.with(|state| state.queuers += 1);
        Self(queue)
    }
}

impl Drop for Queuing<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.queuers -= 1);
    }
}

impl MemoryProvider {
    /// Whether what is asked can be promised.
    pub(crate) fn check_durability(&self, asked: Option<Durability>) -> Result<()> {
        let instead = match (asked, self.shared.journal.is_some()) {
            (None | Some(Durability::Relaxed), _) | (Some(Durability::Interval(_) | Durability::Synced), true) => {
                return Ok(());
            }
            (_, true) => "the journal is one file on one disk: ask for `synced`, or use a broker",
            (_, false) => "memory goes with the process: ask for `relaxed`, connect with a journal, or use a broker",
        };
        Err(Error::unsupported(SCHEME, "durability", instead))
    }

    /// Why nothing may be published now, if so. A disk that is slow for a moment, or a full one where the publisher would
    /// rather wait, is waited for.
    pub(crate) async fn admits(&self, options: &PublishOptions, confirming: &Confirming) -> Option<Rejection> {
        const MOMENT: Duration = Duration::from_millis(100);
        const LOOK: Duration = Duration::from_millis(5);
        if let Err(closed) = self.ensure_open("publish") {
            return Some(Rejection::Unavailable(closed));
        }
        if options.durability.is_some()
            && let Err(refusal) = self.check_durability(options.durability)
        {
            return Some(Rejection::Denied(refusal));
        }
        let (journal, deadline) = (self.shared.journal.as_ref()?, confirming.until?);
        let until = match options.on_full {
            OnFull::Wait => deadline,
            OnFull::Reject | OnFull::Exceed => deadline.min(tokio::time::Instant::now() + MOMENT),
        };
        loop {
            let refusal = match self.ensure_open("publish").and_then(|()| journal.ready()) {
                Ok(()) => return None,
                Err(refusal) => refusal,
            };
            if !refusal.is_retryable() || tokio::time::Instant::now() >= until {
                return Some(Rejection::Unavailable(refusal.at("publish")));
            }
            journal.pump();
            Box::pin(tokio::time::sleep(LOOK)).await;
        }
    }
}

/// What a publish promises, until it is kept.
#[derive(Debug)]
pub(crate) struct Confirming {
    /// The deadline, where there is a disk to wait for.
    until: Option<tokio::time::Instant>,
}

impl Confirming {
    pub(crate) fn begin(shared: &Shared, options: &PublishOptions) -> Self {
        let deadline = || tokio::time::Instant::now() + options.deadline.min(LONGEST);
        Self { until: shared.journal.as_ref().map(|_| deadline()) }
    }

    /// Waits for the disk, and makes unknown what is not on it by the deadline.
    pub(crate) async fn end(&self, shared: &Shared, ticket: Option<Ticket>, outcomes: &mut [PublishOutcome]) {
        let (Some(journal), Some(ticket), Some(until)) = (&shared.journal, ticket, self.until) else { return };
        let error = match Box::pin(tokio::time::timeout_at(until, journal.committed(ticket))).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorCode::Timeout, "the journal's disk did not answer in time"),
        };
        let error = error.at("publish").by(SCHEME);
        for outcome in outcomes {
            // What was refused does not depend on the disk. A duplicate does: its holder may not be there tomorrow.
            if !matches!(outcome, PublishOutcome::Rejected(_)) {
                *outcome = PublishOutcome::Unknown(error.clone());
            }
        }
    }
}
