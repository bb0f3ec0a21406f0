//! The same for records and administration.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use queue_core::{
    JobRef, JobStore, QueueName, QueueSpec, Result,
    job::StoreId,
    provider::{
        Cancel, Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport, RedriveSelection,
    },
    queue_spec::Retention,
    stats::QueueStats,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};

use super::{Doubt, Sim};

#[derive(Debug)]
pub(super) struct WitnessStore {
    pub(super) sim: Sim,
    pub(super) inner: Arc<dyn JobStore>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl JobStore for WitnessStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn scope(&self) -> StoreScope {
        self.inner.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.inner.get(jobs).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.inner.list(query, cursor, limit).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        self.inner.watch(what).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        let asked = self.sim.judge(|shadow, at| {
            jobs.iter().for_each(|job| shadow.cancelling(job.id));
            at.mono
        });
        let doubt = Doubt::unless_answered(&self.sim, |shadow| {
            jobs.iter().for_each(|job| shadow.cancel_in_doubt(job.id));
        });
        let answers = self.inner.cancel(jobs, cancel).await;
        doubt.answered();
        self.sim.judge(|shadow, at| {
            for (job, answer) in jobs.iter().zip(&answers) {
                match answer {
                    Ok(outcome) => shadow.cancelled(at, asked, job.id, *outcome),
                    Err(_) => shadow.cancel_in_doubt(job.id),
                }
            }
        });
        answers
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.inner.queue_control(queue).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        let done = self.inner.set_queue_control(queue, control).await;
        self.sim.judge(|shadow, at| match done {
            Ok(()) => shadow.paused(at, queue, control.paused),
            Err(_) => shadow.pause_in_doubt(queue),
        });
        done
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.inner.evict(queue, retention, limit).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        let lead = self.inner.lead(role, candidate, term).await;
        if let Ok(Some(lead)) = &lead {
            self.sim.judge(|shadow, at| shadow.led(at, &format!("{role} of {:?}", self.id()), candidate, lead, term));
        }
        lead
    }
}

#[derive(Debug)]
pub(super) struct WitnessAdmin {
    pub(super) sim: Sim,
    pub(super) inner: Arc<dyn QueueAdmin>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueAdmin for WitnessAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        self.inner.queues(prefix, cursor, limit).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.inner.stats(queues).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let done = self.inner.pause(queue, paused).await;
        self.sim.judge(|shadow, at| match done {
            Ok(()) => shadow.paused(at, queue, paused),
            Err(_) => shadow.pause_in_doubt(queue),
        });
        done
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
        if let (RedriveSelection::Jobs(ids), false) = (&what.which, what.dry_run) {
            self.sim.judge(|shadow, at| ids.iter().for_each(|id| shadow.redriving(at, *id)));
        }
        let report = self.inner.redrive(queue, what).await;
        if let (Err(_), RedriveSelection::Jobs(ids)) = (&report, &what.which) {
            self.sim.judge(|shadow, _| ids.iter().for_each(|id| shadow.redrive_in_doubt(*id)));
        }
        if let (Ok(report), RedriveSelection::Jobs(ids), false) = (&report, &what.which, what.dry_run)
            && let ([id], 1) = (ids.as_slice(), report.redriven)
        {
            self.sim.judge(|shadow, at| shadow.redriven(at, *id));
        }
        report
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
