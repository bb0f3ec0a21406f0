//! One queue over several slots, for what one server cannot carry.
//!
//! A shard is a queue of its own to the scripts: lines, leases, records, unique keys and counters are together in its slot, so whatever happens
//! to a job is one step there. The declaration with the queue's own keys, which are those of the first shard, says how many there are; each
//! other has a copy of it and of its incarnation, so that whoever knows the queue by a declaration that does not stand any more is refused.
//! See `docs/adr/0017-redis-shards-a-hot-queue-by-key.md`.

mod seek;
mod split;
mod turns;

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use queue_core::{Error, ErrorCode, QueueName, QueueSpec, Result, config::defaults, queue_spec::Retention};
use redis::{RedisResult, Value};

pub(crate) use self::{
    seek::Found,
    split::in_order,
    turns::{AWAY, Turns, width, woken},
};
use crate::{
    SCHEME, fault,
    layout::Layout,
    link::{self, Link},
    scripts,
    specs::{self, Known},
};

/// A queue of which each shard would bound fewer waiting jobs than this is not spread unless its declaration says so.
const WORTH_A_SHARD: u64 = 1_000;

impl Known {
    /// What it consists of: its shards, or itself.
    pub(crate) fn parts(&self) -> &[Self] {
        if self.shards.is_empty() { std::slice::from_ref(self) } else { &self.shards }
    }

    /// The shard of that number; there is always one.
    pub(crate) fn part(&self, place: u16) -> &Self {
        self.shards.get(usize::from(place) % self.shards.len().max(1)).unwrap_or(self)
    }

    /// How many shards it has.
    pub(crate) fn count(&self) -> usize {
        self.shards.len().max(1)
    }
}

/// A declaration as it is kept: it says how many shards the queue has where these are several.
pub(crate) fn settled(spec: &QueueSpec, usual: u16) -> QueueSpec {
    let worth =
        spec.max_len.map_or(usual, |max_len| u16::try_from(max_len / WORTH_A_SHARD).unwrap_or(usual).min(usual));
    let shards = spec.shards.unwrap_or(worth);
    let mut spec = spec.clone();
    spec.shards = (shards > 1).then_some(shards);
    spec
}

/// The same error as if the declarations had been compared in full, but for shards of which the new one says nothing.
pub(crate) fn conflict(known: &Known, spec: &QueueSpec) -> Option<Error> {
    let mut asked = spec.clone();
    asked.shards = match spec.shards {
        None => known.spec.shards,
        Some(shards) => (shards > 1).then_some(shards),
    };
    known.spec.conflict(&asked)
}

/// What one shard bounds: of what waits as much as leaves the sum what was declared, of what is remembered at least one.
pub(crate) fn share(spec: &QueueSpec, place: u16) -> QueueSpec {
    let count = u64::from(spec.shards.unwrap_or(1));
    let mut spec = spec.clone();
    let max_len = spec.max_len.unwrap_or(defaults::MEMORY_MAX_LEN);
    spec.max_len = Some(max_len / count + u64::from(u64::from(place) < max_len % count));
    spec.retention = share_of(&spec.retention, usize::from(spec.shards.unwrap_or(1)));
    spec
}

/// What one of so many shards remembers: rounded up, so that none forgets at once what is to be remembered.
pub(crate) fn share_of(retention: &Retention, count: usize) -> Retention {
    let share = |whole: u64| whole.div_ceil(count.max(1) as u64);
    Retention { count: share(retention.count), bytes: share(retention.bytes), ..*retention }
}

/// Makes the other shards known to be what they are. False where they are of a later declaration.
pub(crate) async fn copy(link: &Link, layout: &Layout, known: &Known, is_new: bool) -> Result<bool> {
    let fail = |error: redis::RedisError| fault::of(&error, "declare").on(&known.spec.name);
    let others = known.shards.iter().skip(1);
    let copies = others.map(async |shard: &Known| {
        let answer = link.run(&scripts::COPY, &shard.base, &[&*shard.text, shard.born.as_bytes()]).await?;
        if answer == Value::Int(1) || is_new {
            tell_watched(link, layout, &shard.base).await?;
        }
        Ok(answer != Value::Int(-1))
    });
    let copies = try_join_all(copies).await.map_err(fail)?;
    Ok(!copies.contains(&false))
}

/// Has a queue that is new tell its events at once where somebody watches all.
pub(crate) async fn tell_watched(link: &Link, layout: &Layout, base: &str) -> RedisResult<()> {
    let watched = link.ask(redis::cmd("GET").arg(layout.watched())).await?;
    if watched != Value::Nil {
        let until = link::text(watched).unwrap_or_default();
        link.ask(redis::cmd("HSETNX").arg(format!("{base}n")).arg("watched").arg(until)).await?;
    }
    Ok(())
}

/// Gives the other shards the switches of the first. The error is the first that one of them met; the others have them.
pub(crate) async fn switch(link: &Link, known: &Known, version: u64, paused: bool) -> RedisResult<()> {
    let arguments = [version.to_string(), u8::from(paused).to_string()];
    let others = known.shards.iter().skip(1);
    let switched = others.map(|shard| link.run(&scripts::SWITCH, &shard.base, &arguments));
    join_all(switched).await.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

/// Where copies of a declaration are looked for by who knows of none: such neighbours are on different servers where there are several.
const LOOKED_AT: u16 = 4;

/// The declaration of a queue of which the first shard has none, by the copies that others have: its server lost it, or a drop was cut off
/// half way. Who knows how many shards it had asks all of them, and hears where one does not answer.
pub(crate) async fn left(link: &Link, layout: &Layout, queue: &QueueName, had: Option<u16>) -> Result<Option<Known>> {
    // A queue that is new must not wait for a server that is away, and that has nothing to do with it.
    let patience = if had.is_some() { Duration::MAX } else { Duration::from_secs(1) };
    let looks = (1..had.unwrap_or(LOOKED_AT)).map(async |place| {
        let look = tokio::time::timeout(patience, specs::read_at(link, layout, queue, place)).await;
        look.unwrap_or(Ok(None))
    });
    let mut newest: Option<Known> = None;
    for (copy, place) in join_all(looks).await.into_iter().zip(1..) {
        match copy {
            Ok(Some(copy))
                if copy.count() > place && newest.as_ref().is_none_or(|newest| newest.age() < copy.age()) =>
            {
                newest = Some(copy);
            }
            Err(error) if had.is_some() && error.code() != ErrorCode::Undecodable => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(newest)
}

/// Removes a queue with everything in it, but for what was declared since. The first goes before the others: without it the queue is none, and
/// nothing new comes in by it. Those that tell who finds a part of it how many there are go last.
pub(crate) async fn drop_all(link: &Link, known: &Known, only_if_empty: bool) -> RedisResult<Dropped> {
    let flag = if only_if_empty { "1" } else { "0" };
    let run =
        async |shard: &Known| link.run(&scripts::DROP, &shard.base, &[flag.as_bytes(), known.born.as_bytes()]).await;
    let [first, others @ ..] = known.parts() else { return Ok(Dropped::All) };
    if only_if_empty {
        let fields = ["p", "s", "t", "r"];
        let waits = others.iter().map(async |shard: &Known| {
            let count = redis::cmd("HMGET").arg(format!("{}n", shard.base)).arg(&fields).take();
            let counts = link::items(link.ask(&count).await?).unwrap_or_default();
            Ok::<_, redis::RedisError>(counts.iter().any(|count| link::number(count).is_ok_and(|count| count > 0)))
        });
        if try_join_all(waits).await?.contains(&true) {
            return Ok(Dropped::Nothing);
        }
    }
    match run(first).await? {
        Value::Int(0) => return Ok(Dropped::Nothing),
        Value::Int(2) => return Ok(Dropped::Another),
        _ => {}
    }
    let (last, rest) = others.split_at(others.len().min(usize::from(LOOKED_AT) - 1));
    let mut dropped = Dropped::All;
    for part in [rest, last] {
        let answers: RedisResult<Vec<Value>> = join_all(part.iter().map(run)).await.into_iter().collect();
        if answers?.contains(&Value::Int(0)) {
            dropped = Dropped::Some;
        }
    }
    Ok(dropped)
}

/// How much of a queue was dropped.
pub(crate) enum Dropped {
    All,
    /// Jobs came into a shard while others were dropped.
    Some,
    Nothing,
    /// It was declared anew since it was known.
    Another,
}

/// That a job came into a queue while it was dropped.
pub(crate) fn came_meanwhile() -> Error {
    Error::new(ErrorCode::Conflict, "a job came in meanwhile: the queue stays").at("drop_queue").by(SCHEME)
}

#[cfg(test)]
mod tests;
