//! A tracking store behind a wire.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use queue_core::{
    JobRef, JobStore, QueueName, Result,
    job::{JobError, StoreId},
    limit::Limiter,
    provider::{Beat, BeatOutcome, Cancel, Cursor, DeadFilter, DeadJob, Page, ParkKey, SettleOutcome},
    queue_spec::Retention,
    stats::QueueStats,
    store::{
        CancelOutcome, Claim, Fence, JobQuery, JobRecord, Leadership, Lookup, QueueControl, RedriveOutcome, Scope,
        StageOutcome, StagedJob, StoreScope, TrackedOutcome, TrackedSettle, TrackingStore, Verdict, Watch, Watched,
    },
};

use super::{
    Call, Line,
    store::{StoreWire, each, silent},
};
use crate::simulation::words;

#[derive(Debug)]
pub(super) struct TrackingWire {
    line: Line,
    inner: Arc<dyn TrackingStore>,
    /// The part that everyone has.
    records: StoreWire,
}

impl TrackingWire {
    pub(super) fn new(line: Line, inner: Arc<dyn TrackingStore>) -> Self {
        let records = StoreWire::new(line.clone(), Arc::clone(&inner) as Arc<dyn JobStore>);
        Self { line, inner, records }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl JobStore for TrackingWire {
    fn id(&self) -> StoreId {
        self.records.id()
    }

    fn scope(&self) -> StoreScope {
        self.records.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.records.get(jobs).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.records.list(query, cursor, limit).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        self.records.watch(what).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.records.cancel(jobs, cancel).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.records.queue_control(queue).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.records.set_queue_control(queue, control).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.records.evict(queue, retention, limit).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.records.lead(role, candidate, term).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl TrackingStore for TrackingWire {
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome> {
        let silent = |silence| each(jobs.len(), silence, StageOutcome::Unknown);
        let tell = |answers: &Vec<StageOutcome>| words::items(jobs.iter().map(|job| job.job.id), answers);
        let call = Call::of("stage").repeats(true);
        self.line.carry(call, || self.inner.stage(jobs, stage_lease), silent, tell).await
    }

    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        let tell = |answers: &Vec<Result<()>>| words::items(jobs.iter().map(|(job, _)| job.id), answers);
        self.line.carry(Call::of("confirm").repeats(true), || self.inner.confirm(jobs), silent, tell).await
    }

    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        let tell = |answers: &Vec<Result<bool>>| words::items(jobs.iter().map(|(job, _)| job.id), answers);
        self.line.carry(Call::of("unstage"), || self.inner.unstage(jobs), silent, tell).await
    }

    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        let tell = |answers: &Vec<Result<()>>| words::items(jobs.iter().map(|(job, ..)| job.id), answers);
        self.line.carry(Call::of("refuse").repeats(true), || self.inner.refuse(jobs), silent, tell).await
    }

    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        let silent = |silence| each(claims.len(), silence, Verdict::Unknown);
        let tell = |answers: &Vec<Verdict>| words::items(claims.iter().map(|claim| claim.job.id), answers);
        self.line.carry(Call::of("claim"), || self.inner.claim(claims), silent, tell).await
    }

    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        let silent = |silence| each(beats.len(), silence, BeatOutcome::Unknown);
        let tell = |answers: &Vec<BeatOutcome>| words::items(beats.iter().map(|(fence, _)| fence.id), answers);
        let call = Call::of("beat the store").repeats(true);
        self.line.carry(call, || self.inner.heartbeat(beats), silent, tell).await
    }

    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome> {
        let silent = |silence| each(batch.len(), silence, |error| TrackedOutcome::only(SettleOutcome::Unknown(error)));
        let tell = |answers: &Vec<TrackedOutcome>| words::items(batch.iter().map(|settle| settle.fence.id), answers);
        let call = Call::of("settle in store").repeats(true);
        self.line.carry(call, || self.inner.settle(batch, stage_lease), silent, tell).await
    }

    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        let work = || self.inner.unpark(scope, key, n, stage_lease);
        self.line.carry(Call::of("unpark in store"), work, silent, words::result).await
    }

    async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let work = || self.inner.due(scope, dead_leases, limit, stage_lease);
        let tell = |answer: &Result<Vec<StagedJob>>| {
            words::outcome(answer, |jobs| jobs.iter().map(|job| words::job(job.job.id)).collect::<Vec<_>>().join(" "))
        };
        self.line.carry(Call::of("due").quiet(), work, silent, tell).await
    }

    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let work = || self.inner.silent(scope, at_least, limit, stage_lease);
        self.line.carry(Call::of("silent").quiet(), work, silent, words::result).await
    }

    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        let work = || self.inner.queues(provider, prefix, cursor.clone(), limit);
        self.line.carry(Call::of("queues in store").quiet(), work, silent, words::result).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        let call = Call::of("parked in store").quiet();
        self.line.carry(call, || self.inner.parked(queue, limit), silent, words::result).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let work = || self.inner.dead(queue, filter, cursor.clone(), limit);
        self.line.carry(Call::of("dead in store").quiet(), work, silent, words::result).await
    }

    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        let tell = |answers: &Vec<Result<RedriveOutcome>>| words::items(jobs.iter().map(|(job, _)| job.id), answers);
        let work = || self.inner.redrive(jobs, stage_lease);
        self.line.carry(Call::of("redrive in store"), work, silent, tell).await
    }

    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        let tell = |answers: &Vec<Result<bool>>| words::items(jobs.iter().map(|job| job.id), answers);
        self.line.carry(Call::of("forget in store"), || self.inner.forget_dead(jobs), silent, tell).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let silent = |silence| each(queues.len(), silence, Err);
        let call = Call::of("stats in store").quiet();
        self.line.carry(call, || self.inner.stats(queues), silent, |_| "numbers".to_owned()).await
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let call = Call::of("position in store").quiet();
        self.line.carry(call, || self.inner.position(job), silent, words::result).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.line.carry(Call::of("purge in store"), || self.inner.purge(queue), silent, words::number).await
    }

    async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        self.line.carry(Call::of("drop in store"), || self.inner.drop_queue(queue), silent, words::result).await
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
