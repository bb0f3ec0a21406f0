//! What is known of the queues' declarations.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use queue_core::{Error, ErrorCode, QueueName, QueueSpec, Result, config::defaults};
use redis::{RedisResult, Value};

use crate::{
    SCHEME, fault,
    layout::Layout,
    link::{self, Link, items},
    scripts, shards,
};

/// A queue as its declaration made it. Declarations never change, so they are read once.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) spec: QueueSpec,
    pub(crate) base: String,
    /// The declaration as it stands in Redis.
    pub(crate) text: Arc<[u8]>,
    /// Which of the queues of this name it is, should it be dropped and declared anew; see `declare.lua`. Empty where an older version
    /// declared it and nobody has since.
    pub(crate) born: Arc<str>,
    /// Which shard this is, of a queue that has several.
    pub(crate) place: u16,
    /// The shards of a queue that has several: the first has the queue's own base. Each bounds what is its share.
    pub(crate) shards: Arc<[Known]>,
}

impl Known {
    pub(crate) fn new(layout: &Layout, spec: QueueSpec, text: Arc<[u8]>, born: Arc<str>) -> Self {
        let count = spec.shards.unwrap_or(1);
        let one = |place| {
            let base = layout.shard(&spec.name, place);
            let (text, born, spec) = (Arc::clone(&text), Arc::clone(&born), shards::share(&spec, place));
            Self { spec, base, text, born, place, shards: Arc::default() }
        };
        let shards = if count > 1 { (0..count).map(one).collect() } else { Arc::default() };
        Self { base: layout.base(&spec.name), spec, text, born, place: 0, shards }
    }

    pub(crate) fn max_len(&self) -> u64 {
        self.spec.max_len.unwrap_or(defaults::MEMORY_MAX_LEN)
    }

    /// Of two declarations the later one has more.
    pub(crate) fn age(&self) -> u64 {
        self.born.parse().unwrap_or(0)
    }

    /// As the scripts take it.
    pub(crate) fn tracked(&self) -> &'static str {
        if self.spec.tracking == queue_core::queue_spec::Tracking::Full { "1" } else { "0" }
    }
}

#[derive(Debug)]
pub(crate) struct Specs {
    known: Mutex<HashMap<QueueName, Known>>,
    /// Over how many shards a queue is spread whose declaration says nothing of it.
    pub(crate) shards: u16,
    /// Which indexes queues are to keep, in the scripts' letters; nothing where that is left as it is.
    indexes: Option<Arc<str>>,
}

/// How often a queue that somebody declares anew all the time is looked at.
const LOOKS: usize = 3;

impl Specs {
    pub(crate) fn new(shards: u16, indexes: Option<Arc<str>>) -> Self {
        Self { known: Mutex::default(), shards, indexes }
    }

    pub(crate) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    /// As it was known last.
    pub(crate) fn cached(&self, queue: &QueueName) -> Option<Known> {
        self.lock().get(queue).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unless somebody has read a later declaration meanwhile.
    fn remember(&self, read: &Known) {
        let mut known = self.lock();
        if known.get(&read.spec.name).is_none_or(|known| known.age() <= read.age()) {
            known.insert(read.spec.name.clone(), read.clone());
        }
    }

    /// The queue as it is now, where `stale` is not the one that stands any more.
    pub(crate) async fn anew(&self, link: &Link, layout: &Layout, stale: &Known) -> Result<Known> {
        let queue = &stale.spec.name;
        self.forget_stale(stale);
        match self.cached(queue) {
            Some(known) => Ok(known),
            None => {
                self.declare_as(link, layout, QueueSpec::new(queue.clone()), Said::Nothing(stale.spec.shards)).await
            }
        }
    }

    /// Forgets the queue, unless somebody has read another declaration since.
    pub(crate) fn forget_stale(&self, stale: &Known) {
        let mut known = self.lock();
        if known.get(&stale.spec.name).is_some_and(|known| known.born == stale.born) {
            known.remove(&stale.spec.name);
        }
    }

    /// The queue, declared with the defaults if nobody declared it.
    pub(crate) async fn known(&self, link: &Link, layout: &Layout, queue: &QueueName) -> Result<Known> {
        match self.cached(queue) {
            Some(known) => Ok(known),
            None => self.declare_as(link, layout, QueueSpec::new(queue.clone()), Said::Nothing(None)).await,
        }
    }

    /// The queue if it is declared, as it was when it was last read, or else as it is.
    pub(crate) async fn seen(&self, link: &Link, layout: &Layout, queue: &QueueName) -> Result<Option<Known>> {
        let cached = self.lock().get(queue).cloned();
        if cached.is_some() {
            return Ok(cached);
        }
        let found = self.find(link, layout, queue).await?;
        // One of several shards is remembered by whoever makes sure that they all are there, and one that does not say which of its name it is,
        // as it was read while it was declared, by whoever has it say so.
        let is_whole = |known: &&Known| known.count() == 1 && self.indexes.is_none() && !known.born.is_empty();
        if let Some(known) = found.as_ref().filter(is_whole) {
            self.remember(known);
        }
        Ok(found)
    }

    /// Declares a queue, unless it is; answers how it is.
    pub(crate) async fn declare(&self, link: &Link, layout: &Layout, spec: &QueueSpec) -> Result<Known> {
        let said = if spec.shards.is_some() { Said::All } else { Said::NotItsShards };
        self.declare_as(link, layout, spec.clone(), said).await
    }

    /// Boxed, so that the compiler need not look through all of it.
    fn declare_as<'a>(
        &'a self,
        link: &'a Link,
        layout: &'a Layout,
        spec: QueueSpec,
        said: Said,
    ) -> BoxFuture<'a, Result<Known>> {
        async move { self.declare_looking(link, layout, &spec, said).await }.boxed()
    }

    async fn declare_looking(&self, link: &Link, layout: &Layout, spec: &QueueSpec, said: Said) -> Result<Known> {
        for _ in 0..LOOKS {
            let (known, is_new) = match self.stands(link, layout, &spec.name).await? {
                Some(known) => (known, false),
                None => {
                    let spec = self.asked(link, layout, spec, said).await?;
                    self.declare_first(link, layout, &spec).await?
                }
            };
            if shards::copy(link, layout, &known, is_new).await? {
                self.keep_indexes(link, &known).await?;
                self.remember(&known);
                return Ok(known);
            }
        }
        let again = Error::new(ErrorCode::Unavailable, "the queue is dropped and declared anew all the time");
        Err(again.at("declare").by(SCHEME).on(&spec.name))
    }

    /// How a queue is to be that has no declaration. Where a part of it is left, that tells what was not said.
    async fn asked(&self, link: &Link, layout: &Layout, spec: &QueueSpec, said: Said) -> Result<QueueSpec> {
        let left = match said {
            Said::All => None,
            Said::NotItsShards => shards::left(link, layout, &spec.name, None).await?,
            Said::Nothing(had) => shards::left(link, layout, &spec.name, had).await?,
        };
        let settled = shards::settled(spec, self.shards);
        let asked = match left {
            None => return Ok(settled),
            Some(left) if matches!(said, Said::Nothing(_)) => left.spec,
            Some(left) => {
                let mut asked = settled.clone();
                asked.shards = left.spec.shards;
                asked
            }
        };
        Ok(if asked.validate().is_ok() { asked } else { settled })
    }

    /// Takes one that was dropped out of the list of queues, unless it is there again.
    pub(crate) async fn unlist(&self, link: &Link, layout: &Layout, queue: &QueueName) -> Result<()> {
        let remove = redis::cmd("ZREM").arg(layout.queues()).arg(queue.as_str()).take();
        link.ask(&remove).await.map_err(|error| fault::of(&error, "drop_queue").on(queue))?;
        match self.stands(link, layout, queue).await {
            // What cannot be read is listed by who can.
            Err(error) if error.code() == ErrorCode::Undecodable => Ok(()),
            other => other.map(drop),
        }
    }

    async fn keep_indexes(&self, link: &Link, known: &Known) -> Result<()> {
        let Some(letters) = &self.indexes else { return Ok(()) };
        for shard in known.parts() {
            let answer = link.run(&scripts::INDEX, &shard.base, &[&**letters]).await;
            answer.map_err(|error| fault::of(&error, "declare").on(&known.spec.name))?;
        }
        Ok(())
    }

    /// The queue if it is declared, and tells which of its name it is.
    async fn stands(&self, link: &Link, layout: &Layout, queue: &QueueName) -> Result<Option<Known>> {
        let found = self.find(link, layout, queue).await?.filter(|known| !known.born.is_empty());
        if found.is_some() {
            // Whoever declared it may have died before it was in the list; a server that is full takes nothing more.
            match list(link, layout, queue).await {
                Err(error) if error.code() == Some("OOM") => {}
                other => other.map_err(|error| fault::of(&error, "declare").on(queue))?,
            }
        }
        Ok(found)
    }

    /// Declares what stands with the queue's own keys, unless somebody has; and whether it is new.
    async fn declare_first(&self, link: &Link, layout: &Layout, spec: &QueueSpec) -> Result<(Known, bool)> {
        let base = layout.base(&spec.name);
        let text = serde_json::to_string(spec).map_err(|error| {
            Error::new(ErrorCode::Internal, "the declaration cannot be written").by(SCHEME).caused_by(error)
        })?;
        let fail = |error: redis::RedisError| fault::of(&error, "declare").on(&spec.name);
        let answer = link.run(&scripts::DECLARE, &base, &[&text]).await.map_err(fail)?;
        let broken = |what| fault::broken(what, "declare").on(&spec.name);
        let answer = items(answer).map_err(broken)?;
        let [stands, born, is_new] = <[Value; 3]>::try_from(answer).map_err(|_| broken("three values are missing"))?;
        list(link, layout, &spec.name).await.map_err(fail)?;
        let is_new = is_new == Value::Int(1);
        if is_new {
            shards::tell_watched(link, layout, &base).await.map_err(fail)?;
        }
        Ok((read(layout, stands, &born, &spec.name)?, is_new))
    }

    /// The queue if it is declared, by whomever.
    pub(crate) async fn find(&self, link: &Link, layout: &Layout, queue: &QueueName) -> Result<Option<Known>> {
        read_at(link, layout, queue, 0).await
    }
}

/// How much was said of a queue that is to be declared.
#[derive(Debug, Clone, Copy)]
enum Said {
    All,
    NotItsShards,
    /// It is used; so many shards it had when it was known last.
    Nothing(Option<u16>),
}

/// What a shard has of its queue's declaration.
pub(crate) async fn read_at(link: &Link, layout: &Layout, queue: &QueueName, place: u16) -> Result<Option<Known>> {
    let base = layout.shard(queue, place);
    let fail = |error: redis::RedisError| fault::of(&error, "spec").on(queue);
    // In this order: what is dropped and declared anew in between is of a newer incarnation than the one that is taken for it.
    let born = link.ask(redis::cmd("HGET").arg(format!("{base}n")).arg("born")).await.map_err(fail)?;
    match link.ask(redis::cmd("GET").arg(format!("{base}spec"))).await.map_err(fail)? {
        Value::Nil => Ok(None),
        other => read(layout, other, &born, queue).map(Some),
    }
}

fn read(layout: &Layout, value: Value, born: &Value, queue: &QueueName) -> Result<Known> {
    let broken = |what| fault::broken(what, "declare").on(queue);
    let text = link::bytes(value).map_err(broken)?;
    let spec: QueueSpec = serde_json::from_slice(&text)
        .map_err(|_| broken("its declaration cannot be read: was it written by a newer version?"))?;
    let born = match born {
        Value::BulkString(born) => String::from_utf8_lossy(born).into(),
        _ => Arc::default(),
    };
    Ok(Known::new(layout, spec, text.to_vec().into(), born))
}

/// Puts it into the list of queues. Who leads is called where it is new there, as his own list may be half a minute old.
async fn list(link: &Link, layout: &Layout, queue: &QueueName) -> RedisResult<()> {
    let listed = link.ask(redis::cmd("ZADD").arg(layout.queues()).arg(0).arg(queue.as_str())).await?;
    if listed == Value::Int(1) && !link.is_cluster() {
        link.ask(redis::cmd("ZADD").arg(layout.declared()).arg(0).arg("0")).await?;
    }
    Ok(())
}
