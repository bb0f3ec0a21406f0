//! What may be asked of queues over AMQP alone: counts of what is ready, purging, and the dead letters. The management plugin is
//! not needed, and what only it could tell is refused.

mod dead;
pub(crate) mod letter;
mod scan;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use lapin::{
    options::{QueueDeclareOptions, QueuePurgeOptions},
    types::{FieldTable, ShortString},
};
use queue_core::{
    Error, ErrorCode, QueueName, QueueSpec, Result,
    job::JobRef,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
};
use tokio::sync::Mutex;

use crate::{SCHEME, layout::BANDS, link::Lane, provider::Shared};

/// Queues that are counted at once: each has a channel meanwhile, and one whose leader is busy holds up no more than its place.
const COUNTED_AT_ONCE: usize = 16;

/// Pairing it with a store gives what it lacks.
const STORE: &str = "name a store with `store=`, so that the tracking layer does it";

#[derive(Debug)]
pub(crate) struct RabbitAdmin {
    base: Arc<Shared>,
    /// Who looks at dead letters holds them meanwhile: two at once would each see a part.
    looking: Mutex<()>,
}

impl RabbitAdmin {
    pub(crate) fn new(base: Arc<Shared>) -> Self {
        Self { base, looking: Mutex::new(()) }
    }

    async fn channel(&self, operation: &'static str) -> Result<Lane> {
        self.base.open(operation)?;
        self.base.work.connection(operation)?.channel(operation).await
    }

    async fn numbers(&self, queue: &QueueName) -> Result<QueueStats> {
        self.counted(queue).await.map_err(|error| error.on(queue))
    }

    async fn counted(&self, queue: &QueueName) -> Result<QueueStats> {
        // A queue that is not there ends the channel, so each has its own.
        let channel = self.channel("stats").await?;
        let mut stats = QueueStats::empty(queue.clone());
        // What is out is not told, nor what waits on the ladder.
        stats.exact = false;
        for band in 0..BANDS {
            stats.pending += count(&channel, self.base.layout.ready(queue, band), "stats").await?;
        }
        stats.dead = count(&channel, self.base.layout.dead(queue), "stats").await?;
        Ok(stats)
    }
}

/// How many messages of a queue are ready. None also where the queue's leader is busy for longer than a quarter of a second, or away:
/// RabbitMQ does not say that it does not know.
async fn count(lane: &Lane, name: ShortString, operation: &'static str) -> Result<u64> {
    let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let found = lane.answer(operation, lane.queue_declare(name, passive, FieldTable::default())).await?;
    Ok(u64::from(found.message_count()))
}

/// Nothing, where the queue is not there.
fn or_nothing<T: Default>(found: Result<T>) -> Result<T> {
    match found {
        Err(error) if error.code() == ErrorCode::NotFound => Ok(T::default()),
        found => found,
    }
}

#[async_trait]
impl QueueAdmin for RabbitAdmin {
    async fn queues(&self, _: &str, _: Option<Cursor>, _: usize) -> Result<Page<QueueName>> {
        Err(Error::unsupported(SCHEME, "queues", "AMQP cannot list queues: look into RabbitMQ's management interface"))
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let asked: Vec<_> = queues.iter().map(|queue| self.numbers(queue)).collect();
        stream::iter(asked).buffered(COUNTED_AT_ONCE).collect().await
    }

    async fn pause(&self, queue: &QueueName, _: bool) -> Result<()> {
        Err(Error::unsupported(SCHEME, "pause", STORE).on(queue))
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let purge = async || {
            let channel = self.channel("purge").await?;
            let mut purged = 0;
            for band in 0..BANDS {
                let name = self.base.layout.ready(queue, band);
                let answer = channel.queue_purge(name, QueuePurgeOptions::default());
                purged += u64::from(channel.answer("purge", answer).await?);
            }
            Ok(purged)
        };
        or_nothing(purge().await).map_err(|error| error.on(queue))
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let from = dead::position(cursor.as_ref()).map_err(|error| error.on(queue))?;
        let _turn = self.looking.lock().await;
        let channel = self.channel("dead").await?;
        let listed = dead::list(&self.base, channel, queue, filter, from, limit).await;
        listed.map_err(|error| error.on(queue))
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        dead::check(what).map_err(|error| error.on(queue))?;
        let _turn = self.looking.lock().await;
        let channel = self.channel("redrive").await?;
        match dead::redrive(&self.base, channel, queue, what).await {
            Err(error) if RedriveReport::before(&error).is_some() => Err(error.on(queue)),
            done => or_nothing(done).map_err(|error| error.on(queue)),
        }
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.base.open("spec")?;
        // What was only used stands with the defaults, of which nobody knows whether they were declared.
        let declared = self.base.specs.get(queue).filter(|known| known.declared);
        Ok(declared.map(|known| (*known.spec).clone()))
    }

    async fn parked(&self, queue: &QueueName, _: usize) -> Result<Vec<(ParkKey, u64)>> {
        Err(Error::unsupported(SCHEME, "parked", STORE).on(queue))
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        Err(Error::unsupported(SCHEME, "position", STORE).on(&job.queue))
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let _turn = self.looking.lock().await;
        let channel = self.channel("drop_dead").await?;
        or_nothing(dead::drop_matching(&self.base, channel, queue, filter).await).map_err(|error| error.on(queue))
    }
}
