#![doc = include_str!("../docs/tracked.md")]

mod admin;
mod away;
mod capabilities;
mod claim;
mod consumer;
mod core;
mod desk;
mod health;
mod options;
mod pairing;
mod publish;
mod reconcile;
mod redrive;
mod retention;
mod rule;
mod settle;
mod sweep;
mod topics;
mod unpark;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Consumer, Env, Envelope, Error, ErrorCode, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin, StoreShare,
        Topics,
    },
    queue_spec::Tracking,
    store::TrackingStore,
};

use self::{admin::TrackedAdmin, core::Core, topics::TrackedTopics};

#[doc(hidden)]
pub use self::rule::Rule;
pub use self::{options::Options, pairing::register};

/// A bare transport with a memory: see the [module's documentation](self).
#[derive(Debug)]
pub struct Tracked {
    core: Arc<Core>,
}

impl Tracked {
    /// Pairs a transport with a store. Neither may be used beside it under the same names.
    #[must_use]
    pub fn new(transport: Arc<dyn QueueProvider>, store: Arc<dyn TrackingStore>, env: &Env) -> Self {
        Self::with_options(transport, store, env, Options::default())
    }

    /// The same with other options than the default ones.
    #[must_use]
    pub fn with_options(
        transport: Arc<dyn QueueProvider>,
        store: Arc<dyn TrackingStore>,
        env: &Env,
        options: Options,
    ) -> Self {
        Self { core: Arc::new(Core::new(transport, store, None, env.clone(), options)) }
    }

    /// The same with a share of an open store, which is closed after the transport.
    #[must_use]
    pub fn with_share(transport: Arc<dyn QueueProvider>, share: StoreShare, env: &Env, options: Options) -> Self {
        let store = Arc::clone(share.store());
        Self { core: Arc::new(Core::new(transport, store, Some(share), env.clone(), options)) }
    }

    /// Takes a rule away, to prove that it is needed.
    #[doc(hidden)]
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        self.core.rules.without(rule);
        self
    }

    /// How many settlements wait for the store to answer.
    #[must_use]
    pub fn settlements_waiting(&self) -> usize {
        self.core.backlog.len()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueProvider for Tracked {
    fn scheme(&self) -> &'static str {
        self.core.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.core.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        let known = self.core.declared(&spec.name);
        if let Some(conflict) =
            known.filter(|known| known.max_len != spec.max_len).and_then(|known| known.conflict(spec))
        {
            return Err(conflict.by(self.core.scheme()));
        }
        let counts = self.core.transport.capabilities(Some(spec)).max_len.is_supported();
        if spec.max_len.is_some() && spec.tracking != Tracking::Off && !counts {
            // It is the store that counts: a transport that cannot is not asked to.
            spec.validate()?;
            let mut uncounted = spec.clone();
            uncounted.max_len = None;
            self.core.transport.declare(&uncounted).await?;
        } else {
            self.core.transport.declare(spec).await?;
        }
        self.core.learn(spec);
        self.core.note_retention(spec).await;
        Ok(())
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        let core = &self.core;
        if core.spec(queue).await.tracking == Tracking::Off {
            core.transport.drop_queue(queue, only_if_empty).await?;
            core.forget_queue(queue);
            return Ok(());
        }
        let at = |error: Error| error.at("drop_queue").on(queue);
        core.require_store().await.map_err(at)?;
        if only_if_empty {
            let stats = core.ask_all(1, core.store.stats(std::slice::from_ref(queue))).await;
            let stats = stats.into_iter().next().transpose().map_err(at)?;
            if stats.is_some_and(|stats| stats.waiting() + stats.running > 0) {
                let message = "jobs wait or run in it: purge it first, or drop it with everything in it";
                return Err(at(Error::new(ErrorCode::Conflict, message).by(core.scheme())));
            }
        }
        // The other way round a copy that is delivered in between would be adopted.
        core.transport.drop_queue(queue, only_if_empty).await?;
        core.forget_queue(queue);
        core.ask(core.store.drop_queue(queue)).await.map_err(at)
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.core.publish(queue, batch, options).await
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.core.consumer(queue, options).await
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(TrackedAdmin(Arc::clone(&self.core)))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        let topics = self.core.transport.topics()?;
        Some(Arc::new(TrackedTopics { core: Arc::clone(&self.core), topics }))
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        Some(Arc::clone(&self.core.store) as Arc<dyn JobStore>)
    }

    fn paired(&self) -> Option<PairedStore> {
        let core = &self.core;
        let mut store = PairedStore::new(Arc::clone(&core.name));
        store.url = core.share.as_ref().and_then(|share| share.url().cloned());
        (store.away, store.waiting) = (core.health.away(), core.backlog.len());
        Some(store)
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.core.transport.limiter().or_else(|| self.core.store.limiter())
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.core.unpark(queue, key, n).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.core.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        let (answer, ()) = tokio::join!(self.core.transport.ping(), self.core.look_at_store());
        answer
    }

    async fn close(&self) -> Result<()> {
        self.core.flush().await;
        let closed = self.core.transport.close().await;
        // In any case: what waits keeps its consumers alive, and with them the transport's sessions.
        let left = self.core.backlog.clear();
        let closed = match &self.core.share {
            Some(share) => closed.and(share.close().await),
            None => closed,
        };
        if left == 0 {
            return closed;
        }
        // What is lost comes before how the transport closed: nobody else tells.
        let message = format!("{left} settlements wait for the store, which does not answer: their jobs run again");
        let lost = Error::new(ErrorCode::Unavailable, message).at("close").by(self.core.scheme());
        match closed {
            Ok(()) => Err(lost),
            Err(error) => Err(lost.caused_by(error)),
        }
    }
}
