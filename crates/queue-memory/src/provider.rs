//! The provider: queues by name.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, QueueSpec, Result,
    job::{Envelope, QueueName},
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
    publishing::Confirming,
    queue::{Named, Queue, State, Taken},
    shared::{Connection, SCHEME, Shared},
    store::MemoryStore,
    topics::MemoryTopics,
};

/// Jobs in this process's memory. A clone is another handle on the same connection; [`MemoryProvider::connect`] makes another
/// connection to the same queues.
#[derive(Debug, Clone)]
pub struct MemoryProvider {
    pub(crate) shared: Arc<Shared>,
    connection: Arc<Connection>,
}

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
        self.connection.is_closed()
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
        if spec.shards.is_some_and(|shards| shards > 1) {
            return Err(Error::unsupported(SCHEME, "shards", "leave it out").on(&spec.name));
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
