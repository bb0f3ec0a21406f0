//! Administration behind a wire.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    JobRef, QueueName, QueueSpec, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
};

use super::{Call, Line, Silence};
use crate::simulation::words;

#[derive(Debug)]
pub(super) struct AdminWire {
    line: Line,
    inner: Arc<dyn QueueAdmin>,
}

impl AdminWire {
    pub(super) fn new(line: Line, inner: Arc<dyn QueueAdmin>) -> Self {
        Self { line, inner }
    }
}

fn silent<T>(silence: Silence) -> Result<T> {
    Err(silence.error())
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueAdmin for AdminWire {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        let work = || self.inner.queues(prefix, cursor.clone(), limit);
        self.line.carry(Call::of("queues").quiet(), work, silent, words::result).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let silent = |silence: Silence| {
            let error = silence.error();
            queues.iter().map(|_| Err(error.clone())).collect()
        };
        self.line.carry(Call::of("stats").quiet(), || self.inner.stats(queues), silent, |_| "numbers".to_owned()).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let call = Call::of(if paused { "pause" } else { "resume" }).repeats(true);
        self.line.carry(call, || self.inner.pause(queue, paused), silent, words::result).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.line.carry(Call::of("purge"), || self.inner.purge(queue), silent, words::number).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let work = || self.inner.dead(queue, filter, cursor.clone(), limit);
        let tell = |page: &Result<Page<DeadJob>>| words::outcome(page, |page| format!("{} dead", page.items.len()));
        self.line.carry(Call::of("dead").quiet(), work, silent, tell).await
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        let tell = |report: &Result<RedriveReport>| words::outcome(report, |report| format!("{report:?}"));
        self.line.carry(Call::of("redrive"), || self.inner.redrive(queue, what), silent, tell).await
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.line.carry(Call::of("spec").quiet(), || self.inner.spec(queue), silent, words::result).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.line.carry(Call::of("parked").quiet(), || self.inner.parked(queue, limit), silent, words::result).await
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.line.carry(Call::of("position").quiet(), || self.inner.position(job), silent, words::result).await
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        self.line.carry(Call::of("drop_dead"), || self.inner.drop_dead(queue, filter), silent, words::number).await
    }
}
