//! The provider: queues by name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
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
    queue::{Named, Now, Queue, State, Taken},
    store::MemoryStore,
    topics::{MemoryTopics, Subscriptions},
};

/// Jobs in this process's memory. A clone is another handle on the same connection; [`MemoryProvider::connect`] makes another
/// connection to the same queues.
#[derive(Debug, Clone)]
pub struct MemoryProvider {
    pub(crate) shared: Arc<Shared>,
    closed: Arc<AtomicBool>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) store: StoreId,
    pub(crate) hub: Hub,
    /// Read on every publish, written when a queue comes or goes.
    queues: ArcSwap<HashMap<QueueName, Arc<Queue>>>,
    subscriptions: ArcSwap<Subscriptions>,
    changing: Mutex<()>,
    numbers: AtomicU64,
    pub(crate) leaders: crate::store::Leaders,
}

const SCHEME: &str = "memory";
/// Below it a lease would end while its own beat is on the way.
const MIN_LEASE: Duration = Duration::from_millis(1);
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
        let shared = Shared {
            store: StoreId::fresh(&env),
            env,
            hub: Hub::new(),
            queues: ArcSwap::default(),
            subscriptions: ArcSwap::default(),
            changing: Mutex::new(()),
            numbers: AtomicU64::new(0),
            leaders: crate::store::Leaders::default(),
        };
        Self { shared: Arc::new(shared), closed: Arc::default() }
    }

    /// Another connection to the same queues, which is closed on its own.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), closed: Arc::default() }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
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
        let mut queues = HashMap::clone(&self.queues.load());
        queues.insert(queue.name.clone(), Arc::clone(&queue));
        self.queues.store(Arc::new(queues));
        queue
    }

    /// Acts on the queue, never on one that is being dropped: what goes into that is lost.
    pub(crate) fn with_live<R>(&self, name: &QueueName, mut act: impl FnMut(&mut State) -> R) -> (Arc<Queue>, R) {
        let mut queue = self.queue(name);
        loop {
            if let Some(result) = queue.with(|state| (!state.dissolved).then(|| act(state))) {
                return (queue, result);
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

    pub(crate) fn change_subscriptions(&self, change: impl FnOnce(&mut Subscriptions)) {
        let _changing = self.changing.lock();
        self.edit_subscriptions(change);
    }

    /// The caller holds the lock of the index.
    fn edit_subscriptions(&self, change: impl FnOnce(&mut Subscriptions)) {
        let mut subscriptions = Subscriptions::clone(&self.subscriptions.load());
        change(&mut subscriptions);
        self.subscriptions.store(Arc::new(subscriptions));
    }

    /// Waits until nobody changes the index: whoever found a dissolved queue finds it gone then.
    pub(crate) fn settle_down(&self) {
        drop(self.changing.lock());
    }

    /// Takes the queue out of the index, with its subscriptions, if `dissolve` dissolves it. Under the lock of the index, so
    /// that whoever finds it dissolved and looks again finds the next one.
    pub(crate) fn remove(&self, name: &QueueName, dissolve: impl FnOnce(&Queue) -> bool) -> Result<(), ()> {
        let _changing = self.changing.lock();
        let queue = self.find(name);
        if queue.as_ref().is_some_and(|queue| !dissolve(queue)) {
            return Err(());
        }
        if self.subscriptions.load().is_subscribed(name) {
            self.edit_subscriptions(|subscriptions| subscriptions.forget(name));
        }
        if queue.is_none() {
            return Ok(());
        }
        let mut queues = HashMap::clone(&self.queues.load());
        queues.remove(name);
        self.queues.store(Arc::new(queues));
        Ok(())
    }

    pub(crate) fn now(&self) -> Now {
        Now::read(&self.env)
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
        can.durability = &["relaxed"];
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
        self.open("declare")?;
        spec.validate()?;
        if !matches!(spec.order, Order::Strict | Order::Aged { .. }) {
            let instead = "declare `strict` or `aged`";
            return Err(Error::unsupported(SCHEME, "order", instead).on(&spec.name));
        }
        if !matches!(spec.durability, None | Some(Durability::Relaxed)) {
            let instead = "memory goes with the process: declare `relaxed`, or use a broker";
            return Err(Error::unsupported(SCHEME, "durability", instead).on(&spec.name));
        }
        loop {
            let queue = self.shared.queue_or(spec.clone());
            let declared = queue.with(|state| (!state.dissolved).then(|| state.spec.conflict(spec)));
            if let Some(conflict) = declared {
                return conflict.map_or(Ok(()), |conflict| Err(conflict.by(SCHEME)));
            }
        }
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.open("drop_queue")?;
        // Both in one section: what is accepted in between would be lost.
        let dissolve = |queue: &Queue| {
            queue.with(|state| {
                let idle = state.waiting() + state.count(JobState::Running) == 0;
                let drops = idle || !only_if_empty;
                if drops {
                    state.dissolve();
                }
                drops
            })
        };
        self.shared.remove(queue, dissolve).map_err(|()| {
            let message = "jobs wait or run in it: purge it first, or drop it with everything in it";
            Error::new(ErrorCode::Conflict, message).at("drop_queue").by(SCHEME).on(queue)
        })
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let closed = self.open("publish").err().map(Rejection::Unavailable);
        if let Some(refusal) = closed.or_else(|| refuse_durability(options)) {
            return batch.iter().map(|_| PublishOutcome::Rejected(refusal.clone())).collect();
        }
        let now = self.shared.now();
        let named = Named::by(&batch);
        let (mut batch, mut waiting) = (batch, Vec::new());
        let (queue, mut outcomes) = self.shared.with_live(queue, |state| {
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
            self.wait_for_room(queue, waiting, &named, options.deadline, &mut outcomes).await;
        }
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.open("consumer")?;
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
        self.open("unpark")?;
        let Some(queue) = self.shared.find(queue) else { return Ok(0) };
        let mut unparked = 0;
        while unparked < n {
            let part = AT_ONCE.min(n - unparked);
            let now = self.shared.now();
            let done = queue.with(|state| state.unpark(key, part, now));
            unparked += done;
            if done < part {
                break;
            }
            // There may be more; let others at the lock first.
        }
        Ok(unparked)
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        const IDLE: Duration = Duration::from_secs(60);
        const AT_ONCE: usize = 1_000;
        self.open("maintain")?;
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
        self.open("ping")
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        for queue in self.shared.all() {
            queue.with(State::stir);
            queue.room.notify_waiters();
        }
        Ok(())
    }
}

impl MemoryProvider {
    async fn wait_for_room(
        &self,
        mut queue: Arc<Queue>,
        mut waiting: Vec<(usize, Envelope)>,
        named: &Named,
        deadline: Duration,
        outcomes: &mut [PublishOutcome],
    ) {
        let give_up = tokio::time::sleep(deadline);
        tokio::pin!(give_up);
        loop {
            let live = {
                let _queuing = Queuing::begin(&queue);
                let room = queue.room.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if let Err(closed) = self.open("publish") {
                    let refusal = Rejection::Unavailable(closed.on(&queue.name));
                    for (index, _) in waiting {
                        outcomes[index] = PublishOutcome::Rejected(refusal.clone());
                    }
                    return;
                }
                let now = self.shared.now();
                let (live, still) = self.shared.with_live(&queue.name, |state| {
                    let mut still = Vec::new();
                    for (index, envelope) in std::mem::take(&mut waiting) {
                        match state.offer(envelope, named.get(index), now) {
                            Taken::Answer(outcome) => outcomes[index] = outcome,
                            Taken::NoRoom(envelope) => still.push((index, envelope)),
                        }
                    }
                    still
                });
                waiting = still;
                if waiting.is_empty() {
                    return;
                }
                if live.number == queue.number {
                    tokio::select! {
                        biased;
                        () = room => {}
                        () = &mut give_up => return,
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

pub(crate) fn refuse_durability(options: &PublishOptions) -> Option<Rejection> {
    options.durability.filter(|durability| *durability != Durability::Relaxed)?;
    let instead = "memory goes with the process: publish without a durability, or use a broker";
    Some(Rejection::Denied(Error::unsupported(SCHEME, "durability", instead)))
}
