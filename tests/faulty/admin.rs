//! An admin that has no numbers, or none now.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use queue_core::{
    Error, JobRef, QueueName, QueueSpec, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
};

use super::{Faults, away};

pub(super) struct FaultyAdmin {
    pub(super) inner: Arc<dyn QueueAdmin>,
    pub(super) faults: Faults,
}

impl fmt::Debug for FaultyAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyAdmin")
    }
}

#[async_trait]
impl QueueAdmin for FaultyAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        self.inner.queues(prefix, cursor, limit).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.faults.0.looks.fetch_add(1, Ordering::SeqCst);
        if self.faults.0.no_stats.load(Ordering::SeqCst) {
            return queues.iter().map(|_| Err(Error::unsupported("memory", "stats", "count yourself"))).collect();
        }
        if self.faults.0.stats_away.load(Ordering::SeqCst) {
            return queues.iter().map(|_| Err(away())).collect();
        }
        self.inner.stats(queues).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.inner.pause(queue, paused).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.inner.purge(queue).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.inner.dead(queue, filter, cursor, limit).await
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        self.inner.redrive(queue, what).await
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.inner.spec(queue).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.inner.parked(queue, limit).await
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.inner.position(job).await
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        self.inner.drop_dead(queue, filter).await
    }
}
