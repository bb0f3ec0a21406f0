//! Defects of administration.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    JobError, JobRef, QueueName, QueueSpec, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
};

use super::{Defect, Shared};

#[derive(Debug)]
pub(super) struct SabotagedAdmin {
    pub(super) inner: Arc<dyn QueueAdmin>,
    pub(super) shared: Arc<Shared>,
}

impl SabotagedAdmin {
    fn is(&self, defect: Defect) -> bool {
        self.shared.is(defect)
    }
}

#[async_trait]
impl QueueAdmin for SabotagedAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        let prefix = if self.is(Defect::PrefixIgnored) { "" } else { prefix };
        self.inner.queues(prefix, cursor, limit).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let mut answers = self.inner.stats(queues).await;
        if self.is(Defect::StatsOffByOne) {
            answers.iter_mut().flatten().for_each(|stats| stats.pending += 1);
        }
        answers
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let ignored = self.is(if paused { Defect::PauseIgnored } else { Defect::ResumeIgnored });
        if ignored { Ok(()) } else { self.inner.pause(queue, paused).await }
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        if self.is(Defect::PurgeRemovesNothing) {
            let stats = self.inner.stats(std::slice::from_ref(queue)).await;
            return Ok(stats.iter().flatten().map(QueueStats::waiting).sum());
        }
        self.inner.purge(queue).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let all = DeadFilter::default();
        let filter = if self.is(Defect::DeadFilterIgnored) { &all } else { filter };
        let mut page = self.inner.dead(queue, filter, cursor, limit).await?;
        if self.is(Defect::DeadErrorForgotten) {
            page.items.iter_mut().for_each(|job| job.error = JobError::custom("UNKNOWN", ""));
        }
        Ok(page)
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        let mut what = what.clone();
        match self.shared.defect {
            Some(Defect::DryRunActs) => what.dry_run = false,
            Some(Defect::EditIgnored) => what.payload = None,
            Some(Defect::RedriveLoses) if !what.dry_run => {
                let counted = self.inner.redrive(queue, &Redrive { dry_run: true, ..what }).await?;
                self.inner.drop_dead(queue, &DeadFilter::default()).await?;
                return Ok(RedriveReport { redriven: counted.matched, ..counted });
            }
            Some(Defect::RedriveKeepsAttempt) => {
                let dead = self.inner.dead(queue, &DeadFilter::default(), None, 1_000).await?;
                self.shared.state().died_in.extend(dead.items.iter().map(|job| (job.id, job.attempt)));
            }
            _ => {}
        }
        self.inner.redrive(queue, &what).await
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.inner.spec(queue).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        let mut keys = self.inner.parked(queue, limit).await?;
        if self.is(Defect::ParkedNotListed) {
            keys.retain(|(_, jobs)| *jobs == 1);
            keys.sort();
        }
        Ok(keys)
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let position = self.inner.position(job).await?;
        Ok(match self.shared.defect {
            Some(Defect::PositionOffByOne) => position.map(|ahead| ahead + 1),
            Some(Defect::PositionOfAnything) => position.or(Some(0)),
            _ => position,
        })
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let all = DeadFilter::default();
        self.inner.drop_dead(queue, if self.is(Defect::DropDeadIgnoresFilter) { &all } else { filter }).await
    }
}
