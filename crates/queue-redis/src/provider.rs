//! The provider: what belongs to the whole installation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueName, QueueProvider, QueueSpec, Result,
    job::Envelope,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Consumer, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin,
        Support, Topics,
    },
    queue_spec::Order,
    store::JobStore,
};

use crate::{
    SCHEME,
    admin::RedisAdmin,
    client::{FailoverMode, RedisClusterClient},
    consumer::RedisConsumer,
    fault,
    layout::Layout,
    limiter::RedisLimiter,
    link, scripts,
    shards::{self, Dropped},
    specs::Known,
    spool::{Spool, SpoolStatus},
    store::{RedisStore, Ticked},
};

use self::capabilities::{MAX_LEASE, MIN_LEASE};
pub use self::options::RedisOptions;
pub(crate) use self::{
    capabilities::capabilities,
    publish::{Line, publish_once},
    shared::Shared,
};

mod capabilities;
mod options;
mod publish;
mod shared;

/// Jobs in Redis. A clone is another handle on the same connection.
#[derive(Debug, Clone)]
pub struct RedisProvider {
    pub(crate) shared: Arc<Shared>,
    spool: Option<Arc<Spool>>,
}

/// Jobs of one script call: longer ones would keep everybody else waiting.
pub(crate) const BATCH: usize = 100;
/// Calls of one queue in one round of maintenance, while there is more to do.
const TICKS: usize = 20;
/// How often a queue is looked at that is to be dropped and is declared anew all the time.
const LOOKS: usize = 3;

impl RedisProvider {
    /// Connects.
    ///
    /// # Errors
    /// `CONFIG` for a URL that is none, and as [`RedisClusterClient::connect`].
    pub async fn connect(options: &RedisOptions, env: &Env) -> Result<Self> {
        // Boxed, so that the compiler of a caller need not look through all of it.
        if options.durability.is_some() {
            let message = "a durability for all is a tracking store's: declare it for each queue";
            return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
        }
        let shared = Arc::new(Box::pin(Shared::connect(options, Layout::new(&options.prefix), env)).await?);
        let is_safe = options.client()?.failover == FailoverMode::AirgapSafe;
        let spool = match &options.spool {
            Some(kept) if is_safe => Some(Arc::new(Spool::open(Arc::clone(kept), &shared).await?)),
            _ => None,
        };
        Ok(Self { shared, spool })
    }

    /// What the spool holds; nothing where there is none.
    ///
    /// # Errors
    /// As the spool's own.
    pub async fn spool(&self) -> Result<Option<SpoolStatus>> {
        match &self.spool {
            Some(spool) => spool.status().await.map(Some),
            None => Ok(None),
        }
    }

    /// The connections, for their numbers and events, and to switch by hand.
    #[must_use]
    pub fn client(&self) -> &RedisClusterClient {
        self.shared.link.client()
    }

    /// A queue as it stands, or else as it was when it was dropped in part.
    async fn to_drop(&self, queue: &QueueName) -> Result<Known> {
        let shared = &self.shared;
        if let Ok(Some(known)) = shared.specs.find(&shared.link, &shared.layout, queue).await {
            return Ok(known);
        }
        if let Some(left) = shards::left(&shared.link, &shared.layout, queue, None).await? {
            return Ok(left);
        }
        shared.whole(queue).await
    }

    /// One queue's upkeep; answers when the next is due, or nothing where the queue is gone.
    async fn keep_up(&self, queue: &QueueName) -> Result<Option<Duration>> {
        match self.tick(queue).await {
            Ok(None) => Ok(None),
            Ok(Some((known, ticked))) => {
                let next = ticked.next.min(self.shared.mend_all(&known).await?);
                if ticked.rests {
                    self.shared.rest(&known, next);
                }
                Ok(Some(next))
            }
            Err(error) => {
                // Where time cannot do its work, what is broken may be why.
                if let Some(known) = self.shared.rounds.known(queue) {
                    self.shared.mend_all(&known).await?;
                }
                Err(error)
            }
        }
    }

    /// Lets time and retention do their work on a queue; answers how it is declared, and when it is worth going on. Its declaration is
    /// read only where it is not the one that was ticked last.
    async fn tick(&self, queue: &QueueName) -> Result<Option<(Known, Ticked)>> {
        let shared = &self.shared;
        let mut remembered = shared.rounds.known(queue);
        let mut ticked = None;
        // Others want a turn, too.
        for _ in 0..TICKS {
            let known = match remembered.take() {
                Some(known) => known,
                None => {
                    let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else {
                        return Ok(None);
                    };
                    shared.rounds.remember(&known);
                    known
                }
            };
            let Some(answer) = shared.tick_all(&known, BATCH).await? else {
                shared.rounds.forget(queue);
                continue;
            };
            let more = answer.next.is_zero();
            ticked = Some(answer);
            remembered = Some(known);
            if !more {
                break;
            }
        }
        Ok(remembered.zip(ticked))
    }
}

#[async_trait]
impl QueueProvider for RedisProvider {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let mut can = capabilities(spec);
        if !self.shared.link.is_replicated() {
            can.durability = &["relaxed"];
        }
        if self.shared.link.is_cluster() {
            can.atomic_then = Support::Emulated {
                how: "the lease is looked at, the successors of other queues are published, then it is settled",
                caveat: "a crash in between leaves successors whose job runs again; their ids are the same then",
            };
        }
        can
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.shared.open("declare")?;
        spec.validate()?;
        if spec.order != Order::Strict {
            return Err(Error::unsupported(SCHEME, "order", "declare `strict`").on(&spec.name));
        }
        if !spec.partitions.is_empty() {
            return Err(Error::unsupported(SCHEME, "partitions", "give each part a queue of its own").on(&spec.name));
        }
        self.shared.assure(spec.durability, "declare").await.map_err(|error| error.on(&spec.name))?;
        let shared = &self.shared;
        let known = shared.specs.declare(&shared.link, &shared.layout, spec).await?;
        shards::conflict(&known, spec).map_or(Ok(()), |conflict| Err(conflict.by(SCHEME)))
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.shared.open("drop_queue")?;
        let shared = &self.shared;
        let fail = |error: redis::RedisError| fault::of(&error, "drop_queue").on(queue);
        let mut looks = 0;
        let known = loop {
            let known = self.to_drop(queue).await?;
            match shards::drop_all(&shared.link, &known, only_if_empty).await.map_err(fail)? {
                Dropped::All => break known,
                Dropped::Another if looks < LOOKS => looks += 1,
                Dropped::Another => {
                    let message = "somebody declares the queue anew all the time";
                    return Err(Error::new(ErrorCode::Conflict, message).at("drop_queue").by(SCHEME).on(queue));
                }
                Dropped::Nothing => {
                    let message = "jobs wait or run in it: purge it first, or drop it with everything in it";
                    return Err(Error::new(ErrorCode::Conflict, message).at("drop_queue").by(SCHEME).on(queue));
                }
                Dropped::Some => {
                    shared.specs.declare(&shared.link, &shared.layout, &known.spec).await?;
                    return Err(shards::came_meanwhile().on(queue));
                }
            }
        };
        shared.specs.unlist(&shared.link, &shared.layout, queue).await?;
        shared.specs.forget(queue);
        known.parts().iter().for_each(|shard| shared.wakes.wake_all(&format!("{}m", shard.base)));
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        match &self.spool {
            None => self.shared.publish(queue, batch, options).await,
            Some(spool) => spool.publish(&self.shared, queue, batch, options).await,
        }
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.shared.open("consumer")?;
        if !(MIN_LEASE..=MAX_LEASE).contains(&options.lease) {
            let message = format!("a lease is between {MIN_LEASE:?} and {MAX_LEASE:?} here");
            return Err(Error::new(ErrorCode::Validation, message).at("consumer").by(SCHEME).on(queue));
        }
        let known = self.shared.known(queue).await?;
        Ok(Arc::new(RedisConsumer::new(Arc::clone(&self.shared), known, options)))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(RedisAdmin::new(Arc::clone(&self.shared)))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        Some(Arc::new(RedisStore::new(Arc::clone(&self.shared))))
    }

    fn paired(&self) -> Option<PairedStore> {
        None
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        Some(Arc::new(RedisLimiter::new(Arc::clone(&self.shared))))
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.shared.open("unpark")?;
        let known = self.shared.whole(queue).await?;
        let mut unparked = 0;
        for shard in known.parts() {
            while unparked < n {
                let part = BATCH.min(n - unparked);
                let arguments = [key.0.to_string(), part.to_string()];
                let answer = self.shared.link.run(&scripts::UNPARK, &shard.base, &arguments).await;
                let answer = answer.map_err(|error| fault::of(&error, "unpark").on(queue))?;
                let done = link::number(&answer).map_err(|what| fault::broken(what, "unpark"))?;
                let done = usize::try_from(done).unwrap_or(0);
                unparked += done;
                if done < part {
                    break;
                }
            }
        }
        Ok(unparked)
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        const IDLE: Duration = Duration::from_secs(60);
        self.shared.open("maintain")?;
        if !leading {
            self.shared.upkeep.ends();
            return Ok(IDLE);
        }
        let (mut next, mut first) = (IDLE, None);
        let queues = self.shared.kept_queues().await?;
        self.shared.rounds.keep(&queues);
        for queue in queues {
            if let Some(left) = self.shared.upkeep.rests(&queue) {
                next = next.min(left);
                continue;
            }
            // What one queue suffers from must not stop the upkeep of the others.
            match self.keep_up(&queue).await {
                Ok(due) => next = next.min(due.unwrap_or(IDLE)),
                Err(error) => {
                    tracing::warn!(%queue, %error, "maintenance of a queue failed");
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(next), Err)
    }

    async fn ping(&self) -> Result<()> {
        self.shared.open("ping")?;
        self.shared.link.ask(&redis::cmd("PING")).await.map(drop).map_err(|error| fault::of(&error, "ping"))
    }

    async fn close(&self) -> Result<()> {
        self.shared.close().await;
        match &self.spool {
            Some(spool) => spool.close().await,
            None => Ok(()),
        }
    }
}
