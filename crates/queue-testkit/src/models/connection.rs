//! A client of a model broker.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, Error, ErrorCode, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    config::defaults,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Durability, LeaseModel, OnFull, ParkKey, PublishOptions, PublishOutcome,
        QueueAdmin, Rejection, Topics,
    },
    queue_spec::Order,
};

use super::{Broker, admin::ModelAdmin, consumer::ModelConsumer, faults::spend, state::State};

/// A provider, bare, connected to a [`Broker`].
///
/// It connects again by itself when the broker restarts. After [`Connection::crash`] or a close it stays useless.
#[derive(Debug)]
pub struct Connection(pub(super) Arc<Link>);

#[derive(Debug)]
pub(super) struct Link {
    pub(super) broker: Arc<Broker>,
    pub(super) id: u64,
    life: AtomicU8,
}

const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const CRASHED: u8 = 2;

impl Connection {
    pub(super) fn open(broker: &Arc<Broker>) -> Arc<Self> {
        let (broker, id) = (broker.clone(), broker.ground.number());
        Arc::new(Self(Arc::new(Link { broker, id, life: AtomicU8::new(OPEN) })))
    }

    /// The broker it is connected to.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.0.broker
    }

    /// Ends it as `kill -9` ends a client: nothing is released, flushed or said. What it held is treated as the shape
    /// treats it. Its fetches return, everything else on it is refused, and its receipts are stale.
    pub fn crash(&self) {
        self.0.broker.change(|state| self.0.crash(state));
    }
}

impl Link {
    pub(super) fn crash(&self, state: &mut State) {
        self.life.store(CRASHED, Ordering::Release);
        state.disconnect(self.id, false);
    }

    pub(super) fn is_open(&self) -> bool {
        self.life.load(Ordering::Acquire) == OPEN
    }

    pub(super) fn is_crashed(&self) -> bool {
        self.life.load(Ordering::Acquire) == CRASHED
    }

    /// Whether anything can be asked of the broker now.
    pub(super) fn usable(&self, state: &State, operation: &'static str) -> Result<()> {
        if !self.is_open() {
            let message = "the connection is closed: connect again";
            return Err(Error::new(ErrorCode::Closed, message).at(operation).by(self.scheme()));
        }
        state.away(operation)
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.broker.shape.scheme()
    }

    fn refuse_durability(&self, durability: Option<Durability>, operation: &'static str) -> Result<()> {
        match durability {
            Some(Durability::Replicated { .. }) => {
                Err(Error::unsupported(self.scheme(), operation, "ask for `synced`: a model has no replicas"))
            }
            _ => Ok(()),
        }
    }

    async fn publish_one(
        &self,
        name: &QueueName,
        envelope: &Envelope,
        on_full: OnFull,
        deadline: Duration,
    ) -> PublishOutcome {
        let era = self.broker.lock().era;
        let tried = self.broker.watch(deadline, |state| {
            let outcome = if state.era == era {
                self.try_publish(state, name, envelope, on_full)
            } else {
                PublishOutcome::Rejected(Rejection::Unavailable(broken("publish", self.scheme())))
            };
            match outcome {
                PublishOutcome::Rejected(Rejection::Full) if on_full == OnFull::Wait => {
                    ControlFlow::Continue(state.queue(name).next())
                }
                outcome => ControlFlow::Break(outcome),
            }
        });
        let outcome = tried.await.unwrap_or(PublishOutcome::Rejected(Rejection::Full));
        self.broker.changed.notify_waiters();
        outcome
    }

    fn try_publish(&self, state: &mut State, name: &QueueName, envelope: &Envelope, on_full: OnFull) -> PublishOutcome {
        let refused = (|| {
            self.usable(state, "publish").map_err(Rejection::Unavailable)?;
            state.check(name, envelope)?;
            state.refresh(name);
            if on_full != OnFull::Exceed && state.queue(name).is_full() {
                return Err(Rejection::Full);
            }
            state.publish(name, envelope)
        })();
        match refused {
            Err(rejection) => PublishOutcome::Rejected(rejection),
            Ok(()) if spend(&mut state.faults.lost_publish_replies) => PublishOutcome::Unknown(unanswered("publish")),
            Ok(()) => PublishOutcome::Accepted { place: 0 },
        }
    }
}

/// The broker did it and the reply was lost.
pub(super) fn unanswered(operation: &'static str) -> Error {
    Error::new(ErrorCode::Timeout, "the reply was lost").at(operation)
}

pub(super) fn broken(operation: &'static str, provider: &'static str) -> Error {
    Error::new(ErrorCode::Unavailable, "the connection broke: try again").at(operation).by(provider)
}

#[async_trait]
impl QueueProvider for Connection {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let mut can = self.0.broker.shape.capabilities();
        if let Some(spec) = spec {
            can.max_encoded_len = can.max_encoded_len.min(spec.max_encoded_len);
        }
        can
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        spec.validate()?;
        self.0.refuse_durability(spec.durability, "declare")?;
        if spec.order != Order::Strict {
            return Err(Error::unsupported(self.scheme(), "declare", "declare the order `strict`").on(&spec.name));
        }
        if !spec.partitions.is_empty() {
            return Err(
                Error::unsupported(self.scheme(), "declare", "declare a queue for each partition").on(&spec.name)
            );
        }
        if spec.shards.is_some_and(|shards| shards > 1) {
            return Err(Error::unsupported(self.scheme(), "declare", "leave the shards out").on(&spec.name));
        }
        if let Some(max) = self.0.broker.shape.max_hold().filter(|max| spec.timeout > *max) {
            return Err(Error::from(Rejection::ExceedsMaxHold { max }).at("declare").on(&spec.name));
        }
        self.0.broker.change(|state| {
            self.0.usable(state, "declare")?;
            match state.queues.get(&spec.name) {
                Some(queue) => queue.spec.conflict(spec).map_or(Ok(()), Err),
                None => {
                    state.create(spec.clone());
                    Ok(())
                }
            }
        })
    }

    async fn drop_queue(&self, name: &QueueName, only_if_empty: bool) -> Result<()> {
        self.0.broker.change(|state| {
            self.0.usable(state, "drop_queue")?;
            let Some(queue) = state.refresh(name) else { return Ok(()) };
            if only_if_empty && !queue.is_empty() {
                let message = "a job waits or runs: purge the queue, or drop it with everything in it";
                return Err(Error::new(ErrorCode::Conflict, message).at("drop_queue").on(name));
            }
            state.queues.remove(name);
            state.members.retain(|_, member| member.queue != *name);
            Ok(())
        })
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let deadline = self.0.broker.ground.now().saturating_add(options.deadline);
        let refused = self.0.refuse_durability(options.durability, "publish").err();
        let mut outcomes = Vec::with_capacity(batch.len());
        for envelope in &batch {
            outcomes.push(match &refused {
                Some(error) => PublishOutcome::Rejected(Rejection::Denied(error.clone())),
                None => self.0.publish_one(queue, envelope, options.on_full, deadline).await,
            });
        }
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        if let LeaseModel::PerMessage { min, max } = self.0.broker.shape.capabilities().lease
            && !(min..=max).contains(&options.lease)
        {
            let message = format!("a lease lasts {min:?} to {max:?} here, not {:?}", options.lease);
            return Err(Error::new(ErrorCode::Validation, message).at("consumer").on(queue));
        }
        let member = self.0.broker.change(|state| {
            self.0.usable(state, "consumer")?;
            Ok::<_, Error>(state.join(self.0.id, queue))
        })?;
        Ok(Arc::new(ModelConsumer::new(self.0.clone(), queue.clone(), options, member)))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(ModelAdmin(self.0.clone()))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        None
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }

    async fn unpark(&self, queue: &QueueName, _: &ParkKey, _: usize) -> Result<usize> {
        Err(Error::unsupported(self.scheme(), "unpark", "wait: a parked job looks again every second").on(queue))
    }

    /// Queues that nobody fetches from go on as well, and dead jobs are forgotten by age.
    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.0.broker.change(|state| {
            self.0.usable(state, "maintain")?;
            let names: Vec<QueueName> = if leading { state.queues.keys().cloned().collect() } else { Vec::new() };
            for name in &names {
                if let Some(queue) = state.refresh(name) {
                    queue.forget_old_dead();
                }
            }
            Ok(defaults::MAINTENANCE_TICK)
        })
    }

    async fn ping(&self) -> Result<()> {
        self.0.usable(&self.0.broker.lock(), "ping")
    }

    async fn close(&self) -> Result<()> {
        self.0.broker.change(|state| {
            if self.0.is_open() {
                self.0.life.store(CLOSED, Ordering::Release);
                state.disconnect(self.0.id, true);
            }
        });
        Ok(())
    }
}
