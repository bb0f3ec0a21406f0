//! The two contracts over the ledger.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use queue_core::{
    Error, ErrorCode, JobStore, Result,
    job::{JobError, JobRef, QueueName, StoreId},
    limit::Limiter,
    provider::{Beat, BeatOutcome, Cancel, Cursor, DeadFilter, DeadJob, Page, ParkKey, SettleOutcome},
    queue_spec::Retention,
    stats::QueueStats,
    store::{
        CancelOutcome, Claim, Fence, JobQuery, JobRecord, Leadership, Lookup, QueueControl, RedriveOutcome, Scope,
        StageOutcome, StagedJob, StoreScope, TrackedOutcome, TrackedSettle, TrackingStore, Verdict, Watch, Watched,
    },
};

use super::{MemoryTracking, Told, ledger::Ledger, tombstones::Kind};
use crate::queue::Now;

impl Ledger {
    fn look_up(&self, job: &JobRef, now: Now) -> Lookup {
        match self.find(&job.queue, job.id).and_then(|slot| self.slots.get(slot)) {
            Some(record) => Lookup::Found(Box::new(record.record(now))),
            None => match self.tombstones.kind(&job.queue, job.id) {
                Some(Kind::Evicted) => Lookup::Gone,
                Some(Kind::Withdrawn) | None => Lookup::NotFound,
            },
        }
    }

    fn list(&self, query: &JobQuery, start: u32, limit: usize, now: Now) -> Page<JobRecord> {
        let mut items = Vec::new();
        let wanted_queue = |queue: &QueueName| query.queue.as_ref().is_none_or(|wanted| wanted == queue);
        for (slot, tracked) in self.slots.iter_from(start) {
            let quick = query.states.is_empty() || query.states.contains(&tracked.job.state);
            if !quick || !wanted_queue(&tracked.queue) {
                continue;
            }
            let record = tracked.record(now);
            if query.matches(&record) {
                if items.len() == limit {
                    return Page { items, next: Some(Cursor(slot.to_string().into())) };
                }
                items.push(record);
            }
        }
        Page { items, next: None }
    }

    fn set_control(&mut self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        let room = self.room(queue);
        if room.control.version != control.version {
            let message = "somebody changed the queue's switches in the meantime: read them again";
            return Err(Error::new(ErrorCode::Conflict, message).at("set_queue_control").on(queue));
        }
        room.control = QueueControl { version: control.version + 1, ..control.clone() };
        Ok(())
    }
}

impl MemoryTracking {
    /// One answer per item, in order, under one lock and at one moment.
    fn each<T, R>(&self, items: &[T], mut act: impl FnMut(&mut Ledger, &T, Now) -> R) -> Vec<R> {
        self.with(|ledger, now| items.iter().map(|item| act(ledger, item, now)).collect())
    }

    /// The same, answered once it is on disk; `unknown` is the answer where the disk refuses.
    async fn each_kept<T, R>(
        &self,
        items: &[T],
        unknown: impl Fn(Error) -> R,
        mut act: impl FnMut(&mut Ledger, &T, Now) -> R,
    ) -> Vec<R> {
        if items.is_empty() {
            return Vec::new();
        }
        let all = |ledger: &mut Ledger, now| items.iter().map(|item| act(ledger, item, now)).collect();
        match self.kept(all).await {
            Ok(answers) => answers,
            Err(error) => items.iter().map(|_| unknown(error.clone())).collect(),
        }
    }

    /// Copies for publication. What comes with an error is on stage all the same, and is handed out later.
    async fn handed_out(&self, act: impl FnOnce(&mut Ledger, Now) -> Vec<StagedJob>) -> Result<Vec<StagedJob>> {
        self.kept_if(|copies| !copies.is_empty(), act).await
    }
}

#[async_trait]
impl JobStore for MemoryTracking {
    fn id(&self) -> StoreId {
        self.shared.id
    }

    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.each(jobs, |ledger, job, now| Ok(ledger.look_up(job, now)))
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let bad = |_| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("list");
        let start = cursor.map_or(Ok(0), |cursor| cursor.0.parse().map_err(bad))?;
        Ok(self.with(|ledger, now| ledger.list(query, start, limit, now)))
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        Ok(self.shared.hub.watch(what))
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.each_kept(jobs, Err, |ledger, job, now| Ok(ledger.cancel(job, cancel, now))).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        Ok(self.with(|ledger, _| ledger.rooms.get(queue).map(|room| room.control.clone())).unwrap_or_default())
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.kept(|ledger, _| ledger.set_control(queue, control)).await?
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.kept_if(|evicted| *evicted > 0, |ledger, now| ledger.evict(queue, retention, limit, now)).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.shared.keeper.begun().await?;
        Ok(self.shared.leaders.lead(role, candidate, term, Now::read(&self.shared.env)))
    }
}

#[async_trait]
impl TrackingStore for MemoryTracking {
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome> {
        self.each_kept(jobs, StageOutcome::Unknown, |ledger, job, now| ledger.stage(job, stage_lease, now)).await
    }

    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        // Not waited for: should it be lost, a second copy is published, and dropped at its claim. So a disk that refuses
        // does not stand in its way either.
        let closed = self.shared.keeper.ready().err().filter(|error| error.code() == ErrorCode::Closed);
        self.each(jobs, |ledger, (job, generation), now| match &closed {
            Some(error) => Err(error.clone()),
            None => {
                ledger.confirm(job, *generation, now);
                Ok(())
            }
        })
    }

    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        self.each_kept(jobs, Err, |ledger, (job, generation), now| Ok(ledger.unstage(job, *generation, now))).await
    }

    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        let refuse = |ledger: &mut Ledger, (job, generation, error): &(JobRef, u32, JobError), now| {
            ledger.refuse(job, *generation, error, now);
            Ok(())
        };
        self.each_kept(jobs, Err, refuse).await
    }

    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        if let Err(error) = self.shared.keeper.ready() {
            return claims.iter().map(|_| Verdict::Unknown(error.clone())).collect();
        }
        let (verdicts, mark) = self.noted(|ledger, now| {
            let verdicts: Vec<(Verdict, Told)> = claims.iter().map(|claim| ledger.claim(claim, now)).collect();
            let waits = verdicts.iter().any(|(_, told)| *told == Told::OnceKept);
            (verdicts, if waits { Told::OnceKept } else { Told::AtOnce })
        });
        let refusal = self.shared.keeper.committed(mark).await.err();
        let verdicts = verdicts.into_iter().map(|(verdict, told)| match &refusal {
            Some(error) if told == Told::OnceKept => Verdict::Unknown(error.clone()),
            _ => verdict,
        });
        verdicts.collect()
    }

    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        // A worker that only lives and tells goes on while the disk refuses; the count of a start must be on disk first.
        let refusal = self.shared.keeper.ready().err();
        let (outcomes, mark) = self.noted(|ledger, now| {
            let beat = |(fence, beat): &(Fence, Beat)| match &refusal {
                Some(error) if beat.started => BeatOutcome::Unknown(error.clone()),
                _ => ledger.beat(*fence, beat, now),
            };
            let outcomes: Vec<BeatOutcome> = beats.iter().map(beat).collect();
            let waits = refusal.is_none() && beats.iter().any(|(_, beat)| beat.started);
            (outcomes, if waits { Told::OnceKept } else { Told::AtOnce })
        });
        let refusal = self.shared.keeper.committed(mark).await.err();
        let outcomes = outcomes.into_iter().zip(beats).map(|(outcome, (_, beat))| match &refusal {
            Some(error) if beat.started => BeatOutcome::Unknown(error.clone()),
            _ => outcome,
        });
        outcomes.collect()
    }

    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome> {
        let unknown = |error| TrackedOutcome::only(SettleOutcome::Unknown(error));
        self.each_kept(batch, unknown, |ledger, item, now| ledger.settle(item, stage_lease, now)).await
    }

    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        self.handed_out(|ledger, now| ledger.unpark(scope, key, n, stage_lease, now)).await
    }

    async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.handed_out(|ledger, now| ledger.due(scope, dead_leases, limit, stage_lease, now)).await
    }

    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.handed_out(|ledger, now| ledger.silent(scope, at_least, limit, stage_lease, now)).await
    }

    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        Ok(self.with(|ledger, _| ledger.queues(provider, prefix, cursor.as_ref(), limit)))
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        Ok(self.with(|ledger, _| ledger.parked(queue, limit)))
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.with(|ledger, _| ledger.dead(queue, filter, cursor.as_ref(), limit))
    }

    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>> {
        let redrive = |ledger: &mut Ledger, (job, payload): &(JobRef, Option<Bytes>), now| {
            Ok(ledger.redrive(job, payload.as_ref(), stage_lease, now))
        };
        self.each_kept(jobs, Err, redrive).await
    }

    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        self.each_kept(jobs, Err, |ledger, job, now| Ok(ledger.forget_dead(job, now))).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.each(queues, |ledger, queue, _| Ok(ledger.stats(queue)))
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        Ok(self.with(|ledger, _| ledger.position(job)))
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.kept(|ledger, now| ledger.purge(queue, now)).await
    }

    async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        self.kept(|ledger, _| ledger.drop_queue(queue)).await
    }

    /// Its scope is one process, and so is that of whoever counts without it.
    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }

    async fn close(&self) -> Result<()> {
        Self::close(self).await
    }
}
