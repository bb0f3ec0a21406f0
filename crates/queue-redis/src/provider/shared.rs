//! What all handles on one connection have in common.

use std::sync::Arc;

use futures_util::FutureExt as _;
use queue_core::{
    Env, Error, ErrorCode, QueueName, QueueSpec, Result,
    job::{Envelope, StoreId},
    provider::{Durability, PublishOutcome},
};
use redis::Value;
use tokio::sync::watch;

use super::{
    BATCH, RedisOptions,
    publish::{Line, publish_once},
};
use crate::{
    SCHEME,
    coalesce::Coalescer,
    fault, indexes,
    layout::Layout,
    lead::Leads,
    link::{self, Link},
    mend::Rounds,
    shards,
    specs::{Known, Specs},
    tasks::Tasks,
    upkeep::Upkeep,
    wake::Wakes,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) layout: Layout,
    pub(crate) specs: Arc<Specs>,
    pub(crate) wakes: Wakes,
    pub(crate) store: StoreId,
    pub(crate) rounds: Rounds,
    pub(crate) upkeep: Upkeep,
    pub(crate) leads: Leads,
    pub(crate) tasks: Tasks,
    pub(super) lines: Coalescer<Line, Envelope, PublishOutcome>,
    closed: watch::Sender<bool>,
}

pub(super) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorCode::Closed, "this connection was closed: connect again").at(operation).by(SCHEME)
}

async fn identity(link: &Link, layout: &Layout, env: &Env) -> Result<StoreId> {
    let fail = |error: redis::RedisError| fault::of(&error, "connect");
    let fresh = StoreId::fresh(env);
    let key = layout.store();
    // A server that is full takes nothing more, but tells.
    let known = link.ask(redis::cmd("GET").arg(&key)).await.map_err(fail)?;
    let set = redis::cmd("SET").arg(&key).arg(fresh.0.get()).arg("NX").arg("GET").take();
    let known = if known == Value::Nil { link.ask(&set).await.map_err(fail)? } else { known };
    match known {
        Value::Nil => Ok(fresh),
        other => {
            let text = link::text(other).ok();
            let id = text.and_then(|text| text.parse().ok()).map(StoreId);
            id.ok_or_else(|| fault::broken("the key of the store's identity holds something else", "connect"))
        }
    }
}

impl Shared {
    /// Connects to what has its keys by this layout.
    pub(crate) async fn connect(options: &RedisOptions, layout: Layout, env: &Env) -> Result<Self> {
        let link = Link::connect(options.client()?, env).await?;
        let store = identity(&link, &layout, env).await?;
        let process = format!("{:016x}{:016x}", env.random.next_u64(), env.random.next_u64());
        let wakes = Wakes::new(link.clone(), &layout, &process);
        let specs = Arc::new(Specs::new(options.shards, options.indexes.as_deref().map(indexes::letters)));
        let publisher = (link.clone(), layout.clone(), Arc::clone(&specs));
        let lines = Coalescer::new(BATCH, Envelope::encoded_len, move |line: Line, batch: Vec<Envelope>| {
            let (link, layout, specs) = publisher.clone();
            async move { publish_once(&link, &layout, &specs, line, &batch).await }.boxed()
        });
        let closed = watch::Sender::new(false);
        Ok(Self {
            link,
            layout,
            specs,
            wakes,
            store,
            rounds: Rounds::default(),
            upkeep: Upkeep::default(),
            leads: Leads::default(),
            tasks: Tasks::default(),
            lines,
            closed,
        })
    }

    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            return Err(closed(operation));
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Refuses what cannot be kept, as `UNSUPPORTED`.
    ///
    /// # Errors
    /// Another where Redis could not be asked; `UNAVAILABLE` where its replicas are away, as just after a failover.
    pub(crate) async fn assure(&self, durability: Option<Durability>, operation: &'static str) -> Result<()> {
        let instead = match durability {
            None | Some(Durability::Relaxed) => return Ok(()),
            Some(Durability::Replicated { timeout, .. }) if timeout.is_zero() => "give the replicas some time",
            Some(Durability::Replicated { .. }) => {
                match self.link.replicas_now().await.map_err(|error| fault::of(&error, operation))? {
                    0 if self.link.is_replicated() => {
                        let message = "its replicas are away, or do not follow a new primary yet: try again";
                        return Err(Error::new(ErrorCode::Unavailable, message).at(operation).by(SCHEME));
                    }
                    0 => "this Redis has no replica: add one, or declare `relaxed`",
                    _ => return Ok(()),
                }
            }
            Some(_) => "what is on disk is for Redis' `appendonly` and `appendfsync` to say: declare `relaxed`",
        };
        Err(Error::unsupported(SCHEME, "durability", instead))
    }

    /// Takes nothing more, and ends what runs in the background.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        self.lines.close();
        self.upkeep.ends();
        self.wakes.close().await;
        self.tasks.end().await;
        self.link.client().rest().await;
    }

    /// Ends when the connection is closed.
    pub(crate) async fn closing(&self) {
        // It ends also where nobody could close it any more.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    pub(crate) async fn known(&self, queue: &QueueName) -> Result<Known> {
        self.specs.known(&self.link, &self.layout, queue).await
    }

    /// The queue with all its shards. Where nobody declared it, or its declaration cannot be read, it is as it would be declared by its first
    /// use, and without a text.
    pub(crate) async fn whole(&self, queue: &QueueName) -> Result<Known> {
        let undeclared = || {
            let spec = shards::settled(&QueueSpec::new(queue.clone()), self.specs.shards);
            Known::new(&self.layout, spec, Arc::default(), Arc::default())
        };
        match self.specs.seen(&self.link, &self.layout, queue).await {
            Ok(known) => Ok(known.unwrap_or_else(undeclared)),
            Err(error) if error.code() == ErrorCode::Undecodable => Ok(undeclared()),
            Err(error) => Err(error),
        }
    }
}
