//! The records of jobs that another transport carries.

mod admin;
mod claim;
mod jobs;
mod mend;
mod numbers;
mod parts;
mod scripts;
mod settle;
mod stage;
mod store;
mod sweep;
mod wire;

use std::sync::Arc;

use queue_core::{Env, QueueName, Result, job::JobId, provider::Durability};
use redis::{Script, Value};

use crate::{
    RedisOptions, fault,
    layout::Layout,
    link::{self, items},
    provider::Shared,
};
use numbers::Numbers;

#[doc = include_str!("../docs/tracking.md")]
#[derive(Debug, Clone)]
pub struct RedisTracking {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    numbers: Numbers,
    rounds: mend::Rounds,
    silent: sweep::Walks,
    durability: Option<Durability>,
}

impl RedisTracking {
    /// Opens the store of this prefix; whoever else opens it has the same one.
    ///
    /// # Errors
    /// `CONFIG` for a URL that is none, `UNSUPPORTED` for a [`durability`](RedisOptions::durability) that this Redis cannot give,
    /// `AUTHENTICATION`, `UNAVAILABLE`.
    pub async fn connect(options: &RedisOptions, env: &Env) -> Result<Self> {
        // Apart from the queues of a provider that has the same prefix.
        let layout = Layout::new(&format!("{}:track", options.prefix));
        let shared = Box::pin(Shared::connect(options, layout, env)).await?;
        shared.assure(options.durability, "connect").await?;
        let inner = Inner {
            shared: Arc::new(shared),
            numbers: Numbers::default(),
            rounds: mend::Rounds::default(),
            silent: sweep::Walks::default(),
            durability: options.durability,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// Rows of one part of a walk, where it does not matter how many come.
const ROWS: usize = 500;

impl Inner {
    fn base(&self, queue: &QueueName) -> String {
        self.shared.layout.base(queue)
    }

    /// Runs a script of one queue, which answers a list.
    async fn run(
        &self,
        script: &Script,
        queue: &QueueName,
        arguments: &[impl AsRef<[u8]>],
        operation: &'static str,
    ) -> Result<Vec<Value>> {
        let answer = self.shared.link.run(script, self.base(queue), arguments).await;
        let answer = answer.map_err(|error| fault::of(&error, operation).on(queue))?;
        items(answer).map_err(|what| fault::broken(what, operation).on(queue))
    }

    /// The same of a change that is promised to somebody: as safe as the store is to be.
    async fn promise(
        &self,
        script: &Script,
        queue: &QueueName,
        arguments: &[impl AsRef<[u8]>],
        operation: &'static str,
    ) -> Result<Vec<Value>> {
        let answer = self.shared.link.run_assured(script, self.base(queue), arguments, self.durability).await;
        let answer = answer.map_err(|error| fault::of(&error, operation).on(queue))?;
        items(answer).map_err(|what| fault::broken(what, operation).on(queue))
    }

    /// Walks over all rows of a queue, a part of so many at a time: what `pick` takes of them, and where the walk goes on, 0 at its end.
    async fn walk<T>(
        &self,
        queue: &QueueName,
        from: u64,
        rows: usize,
        operation: &'static str,
        mut pick: impl FnMut(JobId, wire::Row) -> Option<T>,
    ) -> Result<(Vec<T>, u64)> {
        let scan = redis::cmd("HSCAN").arg(format!("{}s", self.base(queue))).arg(from).arg("COUNT").arg(rows).take();
        let answer = self.shared.link.ask(&scan).await.map_err(|error| fault::of(&error, operation).on(queue))?;
        let broken = |what| fault::broken(what, operation).on(queue);
        let mut answer = items(answer).map_err(broken)?.into_iter();
        let next = link::text(answer.next().unwrap_or_default()).map_err(broken)?;
        let next = next.parse().map_err(|_| broken("not a cursor"))?;
        let mut pairs = items(answer.next().unwrap_or_default()).map_err(broken)?.into_iter();
        let mut picked = Vec::new();
        while let (Some(id), Some(row)) = (pairs.next(), pairs.next()) {
            let id = link::bytes(id).and_then(|id| crate::record::read_id(&id)).map_err(broken)?;
            match link::bytes(row).and_then(wire::Row::read) {
                Ok(row) => picked.extend(row.and_then(|row| pick(id, row))),
                // It stays for who can.
                Err(what) => tracing::warn!(%queue, job = %id, what, operation, "a row cannot be read"),
            }
        }
        Ok((picked, next))
    }

    /// The server's time, in milliseconds of the epoch.
    async fn now(&self, operation: &'static str) -> Result<u64> {
        let answer = self.shared.link.ask(&redis::cmd("TIME")).await.map_err(|error| fault::of(&error, operation))?;
        let broken = |what| fault::broken(what, operation);
        let time = items(answer).map_err(broken)?;
        let [seconds, micros] = &time[..] else { return Err(broken("not a time")) };
        let (seconds, micros) = (link::number(seconds).map_err(broken)?, link::number(micros).map_err(broken)?);
        Ok(u64::try_from(seconds * 1_000 + micros / 1_000).unwrap_or(0))
    }
}
