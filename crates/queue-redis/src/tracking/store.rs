//! The two contracts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use queue_core::{
    JobStore, QueueName, Result,
    job::{JobError, JobRef, StoreId},
    limit::Limiter,
    provider::{Beat, BeatOutcome, Cancel, Cursor, DeadFilter, DeadJob, Page, ParkKey},
    queue_spec::Retention,
    stats::QueueStats,
    store::{
        CancelOutcome, Claim, Fence, JobQuery, JobRecord, Leadership, Lookup, QueueControl, RedriveOutcome, Scope,
        StageOutcome, StagedJob, StoreScope, TrackedOutcome, TrackedSettle, TrackingStore, Verdict, Watch, Watched,
    },
};

use super::RedisTracking;
use crate::{events, limiter::RedisLimiter};

#[async_trait]
impl JobStore for RedisTracking {
    fn id(&self) -> StoreId {
        self.inner.shared.store
    }

    fn scope(&self) -> StoreScope {
        StoreScope::Shared
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.inner.get(jobs).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.inner.list(query, cursor, limit).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        events::watch(Arc::clone(&self.inner.shared), Arc::new(self.clone()), what).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.inner.cancel(jobs, cancel).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.inner.queue_control(queue).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.inner.set_queue_control(queue, control).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.inner.evict(queue, retention, limit).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.inner.shared.lead(role, candidate, term).await
    }
}

#[async_trait]
impl TrackingStore for RedisTracking {
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome> {
        self.inner.stage(jobs, stage_lease).await
    }

    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        self.inner.confirm(jobs).await
    }

    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        self.inner.unstage(jobs).await
    }

    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        self.inner.refuse(jobs).await
    }

    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        self.inner.claim(claims).await
    }

    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        self.inner.heartbeat(beats).await
    }

    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome> {
        self.inner.settle(batch, stage_lease).await
    }

    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        self.inner.unpark(scope, key, n, stage_lease).await
    }

    async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.inner.due(scope, dead_leases, limit, stage_lease).await
    }

    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.inner.silent(scope, at_least, limit, stage_lease).await
    }

    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        self.inner.queues(provider, prefix, cursor, limit).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.inner.parked(queue, limit).await
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

    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>> {
        self.inner.redrive(jobs, stage_lease).await
    }

    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        self.inner.forget_dead(jobs).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let mut answers = Vec::with_capacity(queues.len());
        for queue in queues {
            answers.push(self.inner.stats(queue).await);
        }
        answers
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.inner.position(job).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.inner.purge(queue).await
    }

    async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        self.inner.drop_queue(queue).await
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        Some(Arc::new(RedisLimiter::new(Arc::clone(&self.inner.shared))))
    }

    async fn close(&self) -> Result<()> {
        self.inner.shared.close().await;
        Ok(())
    }
}
