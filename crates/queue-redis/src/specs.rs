//! What is known of the queues' declarations.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use queue_core::{Error, ErrorCode, QueueName, QueueSpec, Result, config::defaults};
use redis::Value;

use crate::{
    SCHEME, fault,
    layout::Layout,
    link::{self, Link, items},
    scripts,
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
}

impl Known {
    pub(crate) fn max_len(&self) -> u64 {
        self.spec.max_len.unwrap_or(defaults::MEMORY_MAX_LEN)
    }

    /// As the scripts take it.
    pub(crate) fn tracked(&self) -> &'static str {
        if self.spec.tracking == queue_core::queue_spec::Tracking::Full { "1" } else { "0" }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Specs(Mutex<HashMap<QueueName, Known>>);

impl Specs {
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    /// As it was known last.
    pub(crate) fn cached(&self, queue: &QueueName) -> Option<Known> {
        self.lock().get(queue).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue as it is now, where `stale` is not the one that stands any more.
    pub(crate) async fn anew(&self, link: &Link, layout: &Layout, stale: &Known) -> Result<Known> {
        let queue = &stale.spec.name;
        self.forget_stale(stale);
        self.known(link, layout, queue).await
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
        let cached = self.lock().get(queue).cloned();
        match cached {
            Some(known) => Ok(known),
            None => self.declare(link, layout, &QueueSpec::new(queue.clone())).await,
        }
    }

    /// Declares a queue, unless it is; answers how it is.
    pub(crate) async fn declare(&self, link: &Link, layout: &Layout, spec: &QueueSpec) -> Result<Known> {
        let base = layout.base(&spec.name);
        let text = serde_json::to_string(spec).map_err(|error| {
            Error::new(ErrorCode::Internal, "the declaration cannot be written").by(SCHEME).caused_by(error)
        })?;
        let fail = |error: redis::RedisError| fault::of(&error, "declare").on(&spec.name);
        if let Some(known) = self.find(link, layout, &spec.name).await?.filter(|known| !known.born.is_empty()) {
            // Whoever declared it may have died before it was in the list; a server that is full takes nothing more.
            let index = redis::cmd("ZADD").arg(layout.queues()).arg(0).arg(spec.name.as_str()).take();
            match link.ask(&index).await {
                Err(error) if error.code() == Some("OOM") => {}
                other => other.map(drop).map_err(fail)?,
            }
            self.lock().insert(known.spec.name.clone(), known.clone());
            return Ok(known);
        }
        let answer = link.run(&scripts::DECLARE, &base, &[&text]).await.map_err(fail)?;
        let broken = |what| fault::broken(what, "declare").on(&spec.name);
        let answer = items(answer).map_err(broken)?;
        let [stands, born, is_new] = <[Value; 3]>::try_from(answer).map_err(|_| broken("three values are missing"))?;
        let index = redis::cmd("ZADD").arg(layout.queues()).arg(0).arg(spec.name.as_str()).take();
        link.ask(&index).await.map_err(fail)?;
        let watched = link.ask(redis::cmd("GET").arg(layout.watched())).await.map_err(fail)?;
        if is_new == Value::Int(1) && watched != Value::Nil {
            let until = link::text(watched).unwrap_or_default();
            let tell = redis::cmd("HSETNX").arg(format!("{base}n")).arg("watched").arg(until).take();
            link.ask(&tell).await.map_err(fail)?;
        }
        let known = read(stands, &born, &spec.name, base)?;
        self.lock().insert(known.spec.name.clone(), known.clone());
        Ok(known)
    }

    /// The queue if it is declared, by whomever.
    pub(crate) async fn find(&self, link: &Link, layout: &Layout, queue: &QueueName) -> Result<Option<Known>> {
        let base = layout.base(queue);
        let fail = |error: redis::RedisError| fault::of(&error, "spec").on(queue);
        // In this order: what is dropped and declared anew in between is of a newer incarnation than the one that is taken for it.
        let born = link.ask(redis::cmd("HGET").arg(format!("{base}n")).arg("born")).await.map_err(fail)?;
        match link.ask(redis::cmd("GET").arg(format!("{base}spec"))).await.map_err(fail)? {
            Value::Nil => Ok(None),
            other => read(other, &born, queue, base).map(Some),
        }
    }
}

fn read(value: Value, born: &Value, queue: &QueueName, base: String) -> Result<Known> {
    let broken = |what| fault::broken(what, "declare").on(queue);
    let text = link::bytes(value).map_err(broken)?;
    let spec = serde_json::from_slice(&text)
        .map_err(|_| broken("its declaration cannot be read: was it written by a newer version?"))?;
    let born = match born {
        Value::BulkString(born) => String::from_utf8_lossy(born).into(),
        _ => Arc::default(),
    };
    Ok(Known { spec, base, text: text.to_vec().into(), born })
}
