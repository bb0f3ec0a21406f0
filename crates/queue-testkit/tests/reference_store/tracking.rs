//! The calls of the layer.

use super::{rules::within, *};
use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, JobError, Result,
    lifecycle::JobState,
    provider::{Beat, BeatOutcome, Cursor, DeadBody, DeadFilter, DeadJob, Lease, Page, ParkKey},
    stats::QueueStats,
    store::{
        Claim, RedriveOutcome, Scope, StageOutcome, StagedJob, TrackedOutcome, TrackedSettle, TrackingStore, Verdict,
    },
};

fn dead_job(job: &Job) -> Option<DeadJob> {
    let (record, body) = (&job.record, DeadBody::Envelope(job.envelope.clone()));
    let died_at = record.finished_at.filter(|_| record.state == JobState::Dead)?;
    Some(DeadJob { id: record.job.id, body, error: record.error.clone()?, attempt: record.attempt, died_at })
}

fn place_of(dead: &DeadJob) -> String {
    format!("{:020}.{}", dead.died_at.as_millis(), dead.id)
}

#[async_trait]
impl TrackingStore for ReferenceStore {
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome> {
        let until = self.monotonic() + stage_lease;
        let mut state = self.lock();
        jobs.iter().map(|job| state.stage(job, until, &self.env)).collect()
    }

    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        let mut state = self.lock();
        let confirm = |(job, generation): &(JobRef, u32)| {
            let place = job.place;
            if let Some(job) = state.jobs.get_mut(&id_of(job))
                && job.envelope.generation == *generation
            {
                job.staged = None;
                job.record.job.place = place;
            }
            Ok(())
        };
        jobs.iter().map(confirm).collect()
    }

    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        let mut state = self.lock();
        let unstage = |(job, generation): &(JobRef, u32)| {
            let id = id_of(job);
            let untouched = state
                .jobs
                .get(&id)
                .is_some_and(|job| job.staged.is_some() && !job.swept && job.envelope.generation == *generation);
            if untouched {
                state.jobs.remove(&id);
            }
            Ok(untouched)
        };
        jobs.iter().map(unstage).collect()
    }

    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        let mut state = self.lock();
        let refuse = |(job, generation, error): &(JobRef, u32, JobError)| {
            if let Some(job) = state.jobs.get_mut(&id_of(job))
                && job.envelope.generation == *generation
            {
                job.record.error = Some(error.clone());
                job.finish(JobState::Dead, self.env.now());
            }
            Ok(())
        };
        jobs.iter().map(refuse).collect()
    }

    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        let mut state = self.lock();
        claims.iter().map(|claim| state.claim(claim, &self.env)).collect()
    }

    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        let now = self.monotonic();
        let mut state = self.lock();
        let beat = |(fence, beat): &(Fence, Beat)| {
            let Some(job) = state.by_fence(fence).filter(|job| job.fence == Some(*fence)) else {
                return BeatOutcome::Lost;
            };
            if beat.started && !job.started {
                job.started = true;
                job.record.started_count += 1;
            }
            if let Some(extend) = beat.extend {
                job.lease_ends = now + extend;
            }
            if beat.progress.is_some() {
                job.record.progress.clone_from(&beat.progress);
            }
            job.record.logs.extend(beat.logs.iter().cloned());
            BeatOutcome::Held(Lease { remaining: Some(job.lease_ends.saturating_sub(now)), cancel: job.cancel.clone() })
        };
        beats.iter().map(beat).collect()
    }

    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome> {
        let mut state = self.lock();
        let settle = |settle: &TrackedSettle| {
            let outcome = state.settle(settle, stage_lease, &self.env);
            if !outcome.is_settled() {
                return TrackedOutcome::only(outcome);
            }
            let staged = |job: Option<&Job>, copy: &Envelope| {
                job.is_some_and(|job| job.staged.is_some() && job.envelope.generation == copy.generation)
            };
            let own = state.jobs.values().find(|job| job.record.job.id == settle.fence.id);
            let successor = settle.successor.as_ref().is_some_and(|copy| staged(own, copy));
            let then = settle.settlement.then.iter().enumerate();
            let then = then
                .filter(|(_, then)| staged(state.jobs.get(&(then.queue.clone(), then.envelope.id)), &then.envelope));
            TrackedOutcome { outcome, successor, then: then.map(|(index, _)| index).collect() }
        };
        batch.iter().map(settle).collect()
    }

    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        let until = self.monotonic() + stage_lease;
        let mut state = self.lock();
        let parked = state
            .jobs
            .values_mut()
            .filter(|job| within(scope, &job.record.job.queue) && job.record.parked.as_ref() == Some(key));
        let unpark = |job: &mut Job| {
            job.record.parked = None;
            job.parked_until = None;
            job.next_copy(until)
        };
        Ok(parked.take(n).map(unpark).collect())
    }

    async fn due(&self, scope: &Scope, dead: bool, limit: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        let now = self.monotonic();
        Ok(self.lock().due(scope, dead, limit, now + stage_lease, now))
    }

    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let now = self.monotonic();
        let mut state = self.lock();
        let silent = |job: &&mut Job| {
            let ready = job.record.state == JobState::Pending && job.staged.is_none() && job.parked_until.is_none();
            ready && job.since + at_least <= now && within(scope, &job.record.job.queue)
        };
        let silent = state.jobs.values_mut().filter(silent).take(limit);
        Ok(silent.map(|job| job.next_copy(now + stage_lease)).collect())
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        let mut keys: BTreeMap<ParkKey, u64> = BTreeMap::new();
        for key in self.lock().of(queue).filter_map(|job| job.record.parked.clone()) {
            *keys.entry(key).or_default() += 1;
        }
        let mut keys: Vec<(ParkKey, u64)> = keys.into_iter().collect();
        keys.sort_by_key(|(_, jobs)| std::cmp::Reverse(*jobs));
        keys.truncate(limit);
        Ok(keys)
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        if cursor.as_ref().is_some_and(|cursor| !cursor.0.starts_with(char::is_numeric)) {
            return Err(Error::new(ErrorCode::Validation, "this cursor is of another listing"));
        }
        let state = self.lock();
        let mut dead: Vec<DeadJob> = state.of(queue).filter_map(dead_job).collect();
        dead.sort_by_key(|dead| (dead.died_at, dead.id));
        dead.retain(|dead| {
            let DeadBody::Envelope(envelope) = &dead.body else { return false };
            let shown = cursor.as_ref().is_some_and(|cursor| place_of(dead).as_str() <= &*cursor.0);
            !shown && filter.matches(&dead.error.code, Some(&envelope.kind), dead.died_at)
        });
        let more = dead.len() > limit;
        dead.truncate(limit);
        let next = dead.last().filter(|_| more).map(|last| Cursor(place_of(last).into()));
        Ok(Page { items: dead, next })
    }

    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>> {
        let until = self.monotonic() + stage_lease;
        let mut state = self.lock();
        jobs.iter().map(|(job, payload)| Ok(state.redrive(job, payload.as_ref(), until, &self.env))).collect()
    }

    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        let mut state = self.lock();
        let forget = |job: &JobRef| {
            let dead = state.jobs.get(&id_of(job)).is_some_and(|job| job.record.state == JobState::Dead);
            if dead {
                state.jobs.remove(&id_of(job));
            }
            Ok(dead)
        };
        jobs.iter().map(forget).collect()
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let state = self.lock();
        let stats = |queue: &QueueName| {
            let count = |wanted: JobState| state.of(queue).filter(|job| job.record.state == wanted).count() as u64;
            let mut stats = QueueStats::empty(queue.clone());
            stats.pending = count(JobState::Pending);
            stats.parked = state.of(queue).filter(|job| job.record.parked.is_some()).count() as u64;
            let ready = |job: &&Job| job.record.state == JobState::Pending && job.record.parked.is_none();
            let longest = state.of(queue).filter(ready).map(|job| self.monotonic() - job.since).max();
            stats.oldest_pending = longest.map(|longest| {
                let longest = u64::try_from(longest.as_millis()).unwrap();
                queue_core::Timestamp::from_millis(self.env.now().as_millis() - longest)
            });
            stats.scheduled = count(JobState::Scheduled);
            stats.retrying = count(JobState::Retrying);
            stats.running = count(JobState::Running);
            stats.dead = count(JobState::Dead);
            stats.completed_total = count(JobState::Completed);
            stats.finished = count(JobState::Completed) + count(JobState::Cancelled) + count(JobState::Expired);
            stats.submitted_total = state.submitted.get(queue).copied().unwrap_or_default();
            Ok(stats)
        };
        queues.iter().map(stats).collect()
    }

    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        let state = self.lock();
        let its = state.jobs.values().filter(|job| *job.provider == *provider).map(|job| &job.record.job.queue);
        let mut queues: Vec<QueueName> = its.filter(|queue| queue.as_str().starts_with(prefix)).cloned().collect();
        queues.sort_unstable();
        queues.dedup();
        queues.retain(|queue| cursor.as_ref().is_none_or(|cursor| queue.as_str() > &*cursor.0));
        let more = queues.len() > limit;
        queues.truncate(limit);
        let next = queues.last().filter(|_| more).map(|last| Cursor(last.as_str().into()));
        Ok(Page { items: queues, next })
    }

    fn limiter(&self) -> Option<Arc<dyn queue_core::limit::Limiter>> {
        None
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let state = self.lock();
        let place = |job: &Job| (std::cmp::Reverse(job.envelope.priority), job.since);
        let ready = |job: &&Job| job.record.state == JobState::Pending && job.record.parked.is_none();
        let Some(own) = state.jobs.get(&id_of(job)).filter(ready) else { return Ok(None) };
        Ok(Some(state.of(&job.queue).filter(ready).filter(|other| place(other) < place(own)).count() as u64))
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let (now, mut state) = (self.env.now(), self.lock());
        let waiting = state.jobs.values_mut().filter(|job| job.record.job.queue == *queue);
        let waiting: Vec<&mut Job> = waiting.filter(|job| job.record.state.is_waiting()).collect();
        let number = waiting.len() as u64;
        waiting.into_iter().for_each(|job| job.finish(JobState::Cancelled, now));
        Ok(number)
    }

    async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        let mut state = self.lock();
        state.jobs.retain(|(of, _), _| of != queue);
        state.keys.retain(|(of, _), _| of != queue);
        state.submitted.remove(queue);
        state.controls.remove(queue);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
