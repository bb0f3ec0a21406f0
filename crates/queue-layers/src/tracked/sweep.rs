//! What is owed in the background.

use std::time::Duration;

use queue_core::{
    Envelope, Error, JobError, JobRef, Result, config::defaults, provider::PublishOutcome, queue_spec::Tracking,
    store::StagedJob,
};

use super::{
    core::{Core, is_for_good},
    rule::Rule,
};

/// How many finished jobs of a queue one round forgets.
const EVICT_AT_ONCE: usize = 1_000;

impl Core {
    pub(super) async fn maintain(&self, leading: bool) -> Result<Duration> {
        let next = self.transport.maintain(leading).await;
        self.flush().await;
        self.note_owed().await;
        if !leading || self.store_is_away().await {
            return next.map(|next| next.min(defaults::MAINTENANCE_TICK));
        }
        let more = self.sweep().await?;
        self.reconcile().await?;
        self.evict().await?;
        let next = next?;
        Ok(if more { Duration::ZERO } else { next.min(defaults::MAINTENANCE_TICK) })
    }

    /// Publishes what is due and nobody published. `true`: there is more.
    async fn sweep(&self) -> Result<bool> {
        let answered = self.health.answered_for(self.now());
        let dead_leases = answered >= self.longest_lease() || !self.keeps(Rule::DeadLeasesWait);
        let (scope, limit) = (self.scope(None), self.options.sweep_batch);
        let due = self.ask(self.store.due(&scope, dead_leases, limit, self.options.stage_lease)).await?;
        let more = due.len() >= limit;
        self.publish_promised(due).await;
        Ok(more)
    }

    /// Copies of accepted jobs: tried again until the transport has them, or refuses them for good. Those that it has taken now.
    pub(super) async fn publish_promised(&self, staged: Vec<StagedJob>) -> Vec<JobRef> {
        if staged.is_empty() {
            return Vec::new();
        }
        let copies: Vec<(JobRef, Envelope)> = staged.into_iter().map(|staged| (staged.job, staged.envelope)).collect();
        let outcomes = self.post(&copies).await;
        self.confirm(&copies, &outcomes).await;
        let mut refused = Vec::new();
        let mut given_up = Vec::new();
        for ((job, copy), outcome) in copies.iter().zip(&outcomes) {
            let Some(PublishOutcome::Rejected(rejection)) = outcome else { continue };
            if is_for_good(rejection) && self.keeps(Rule::RefusedForGoodIsDead) {
                let error = Error::from(rejection.clone());
                tracing::warn!(%job, %error, "the transport refuses a promised job for good: it is dead");
                let error = JobError::new(error.code(), error.message().to_owned()).permanent();
                refused.push((job.clone(), copy.generation, error));
            } else if !self.keeps(Rule::SweepTriesAgain) {
                given_up.push((job.clone(), copy.generation));
            }
        }
        if !refused.is_empty() {
            self.ask_all(refused.len(), self.store.refuse(&refused)).await;
        }
        if !given_up.is_empty() {
            self.ask_all(given_up.len(), self.store.confirm(&given_up)).await;
        }
        let taken = copies.into_iter().zip(outcomes);
        let taken = taken.filter(|(_, outcome)| matches!(outcome, Some(PublishOutcome::Accepted { .. })));
        taken.map(|((job, _), _)| job).collect()
    }

    async fn evict(&self) -> Result<()> {
        for spec in self.known_queues().into_iter().filter(|spec| spec.tracking == Tracking::Full) {
            let retention = self.retention(&spec).await?;
            self.ask(self.store.evict(&spec.name, &retention, EVICT_AT_ONCE)).await?;
        }
        Ok(())
    }
}
