//! The tracking store at its plainest: one map, one lock, every rule written out once.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use queue_core::{
    Env, Envelope, Error, ErrorCode, JobError, JobRef, QueueName, Result, Timestamp,
    job::{JobId, StoreId, UniqueKey},
    lifecycle::JobState,
    provider::{
        Beat, BeatOutcome, Cancel, Cursor, DeadBody, DeadFilter, DeadJob, Disposition, Lease, Page, ParkKey, Rejection,
        SettleOutcome,
    },
    queue_spec::Retention,
    stats::QueueStats,
    store::{
        CancelOutcome, Claim, Fence, JobQuery, JobRecord, JobStore, Leadership, Lookup, QueueControl, RedriveOutcome,
        Scope, StageOutcome, StagedJob, StoreScope, TrackedOutcome, TrackedSettle, TrackingStore, Verdict, Watch,
        Watched,
    },
};

type Moment = Duration;
type Id = (QueueName, JobId);

#[derive(Debug)]
struct Job {
    record: JobRecord,
    envelope: Envelope,
    /// Until then its publisher, or a sweep, is at work.
    staged: Option<Moment>,
    swept: bool,
    /// Who holds it; kept when a dead lease is swept.
    fence: Option<Fence>,
    lease_ends: Moment,
    due: Moment,
    parked_until: Option<Moment>,
    started: bool,
    orphaned: bool,
    cancel: Option<Cancel>,
    settled: Option<(Fence, String)>,
    since: Moment,
    provider: Arc<str>,
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<Id, Job>,
    keys: BTreeMap<(QueueName, UniqueKey), JobId>,
    submitted: BTreeMap<QueueName, u64>,
    epoch: u64,
}

#[derive(Debug)]
pub(crate) struct ReferenceStore {
    env: Env,
    state: Mutex<State>,
}

fn id_of(job: &JobRef) -> Id {
    (job.queue.clone(), job.id)
}

fn print(settle: &TrackedSettle) -> String {
    format!("{:?}", settle.settlement.disposition)
}

impl Job {
    fn stage(&mut self, envelope: Envelope, until: Moment) {
        self.envelope = envelope;
        self.staged = Some(until);
        self.swept = false;
    }

    fn finish(&mut self, state: JobState, at: Timestamp) {
        self.record.state = state;
        self.record.finished_at = Some(at);
        self.staged = None;
        self.record.parked = None;
        self.parked_until = None;
    }

    fn next_copy(&mut self, until: Moment) -> StagedJob {
        let next = self.envelope.edit(|job| job.generation += 1);
        self.stage(next, until);
        self.swept = true;
        self.staged_job()
    }

    fn staged_job(&self) -> StagedJob {
        StagedJob::new(Arc::clone(&self.provider), self.record.job.clone(), self.envelope.clone())
    }
}

impl State {
    fn insert(&mut self, provider: &Arc<str>, job: &JobRef, envelope: &Envelope, env: &Env) -> &mut Job {
        let now = env.clock.monotonic();
        let state = JobState::initial(envelope.not_before, env.now());
        let record = JobRecord::new(job.clone(), envelope.clone(), state, env.now());
        let due = now + envelope.not_before.map_or(Duration::ZERO, |due| env.now().until(due));
        if let Some(unique) = &envelope.unique {
            self.keys.insert((job.queue.clone(), unique.key.clone()), job.id);
        }
        let fresh = Job {
            record,
            envelope: envelope.clone(),
            staged: None,
            swept: false,
            fence: None,
            lease_ends: now,
            due,
            parked_until: None,
            started: false,
            orphaned: false,
            cancel: None,
            settled: None,
            since: now,
            provider: Arc::clone(provider),
        };
        *self.submitted.entry(job.queue.clone()).or_default() += 1;
        self.jobs.entry(id_of(job)).or_insert(fresh)
    }

    fn stage(&mut self, staged: &StagedJob, until: Moment, env: &Env) -> StageOutcome {
        if let Some(known) = self.jobs.get(&id_of(&staged.job)) {
            let again = known.staged.is_some() && known.envelope.generation == staged.envelope.generation;
            return if again { StageOutcome::Again } else { StageOutcome::Known };
        }
        if let Some(unique) = &staged.envelope.unique
            && let Some(holder) = self.keys.get(&(staged.job.queue.clone(), unique.key.clone()))
            && let Some(job) = self.jobs.get(&(staged.job.queue.clone(), *holder))
            && !job.record.state.is_terminal()
        {
            return StageOutcome::Duplicate { existing: job.record.job.clone() };
        }
        let waits = |job: &&Job| job.record.job.queue == staged.job.queue && job.record.state.is_waiting();
        if staged.max_len.is_some_and(|max| self.jobs.values().filter(waits).count() as u64 >= max) {
            return StageOutcome::Rejected(Rejection::Full);
        }
        let job = self.insert(&staged.provider, &staged.job, &staged.envelope, env);
        job.staged = Some(staged.hold.map_or(until, |hold| env.clock.monotonic() + hold));
        StageOutcome::Staged
    }

    fn claim(&mut self, claim: &Claim, env: &Env) -> Verdict {
        let now = env.clock.monotonic();
        if !self.jobs.contains_key(&id_of(&claim.job)) {
            self.insert(&claim.provider, &claim.job, &claim.envelope, env);
        }
        self.epoch += 1;
        let epoch = self.epoch;
        let Some(job) = self.jobs.get_mut(&id_of(&claim.job)) else { return Verdict::Drop };
        let running = job.record.state == JobState::Running && now < job.lease_ends;
        if !running && job.envelope.expires_at.is_some_and(|expires| expires <= env.now()) {
            job.finish(JobState::Expired, env.now());
        }
        if job.record.state.is_terminal() || claim.envelope.generation < job.envelope.generation {
            return Verdict::Drop;
        }
        if claim.envelope.generation > job.envelope.generation {
            job.envelope = claim.envelope.clone();
            job.record.attempt = claim.envelope.attempt;
        } else if running {
            return Verdict::Busy { remaining: job.lease_ends - now };
        } else if let Some(until) = job.parked_until {
            return Verdict::Busy { remaining: until.saturating_sub(now) };
        } else if now < job.due {
            return Verdict::Busy { remaining: job.due - now };
        }
        let redelivered = job.record.state == JobState::Running || job.orphaned;
        let fence = Fence { id: claim.job.id, epoch, generation: job.envelope.generation };
        job.fence = Some(fence);
        job.lease_ends = now + claim.lease;
        job.staged = None;
        job.started = false;
        job.orphaned = false;
        job.record.job.place = claim.job.place;
        job.record.state = JobState::Running;
        job.record.worker = Some(claim.worker.clone());
        Verdict::Run {
            fence,
            lease: Lease { remaining: Some(claim.lease), cancel: job.cancel.clone() },
            attempt: job.record.attempt,
            started_before: job.record.started_count,
            redelivered,
        }
    }

    fn by_fence(&mut self, fence: &Fence) -> Option<&mut Job> {
        self.jobs.values_mut().find(|job| job.record.job.id == fence.id)
    }

    fn settle(&mut self, settle: &TrackedSettle, stage_lease: Duration, env: &Env) -> SettleOutcome {
        let now = env.clock.monotonic();
        let Some(job) = self.by_fence(&settle.fence) else { return SettleOutcome::LeaseLost };
        let provider = Arc::clone(&job.provider);
        if let Some((fence, before)) = &job.settled
            && *fence == settle.fence
        {
            return if *before == print(settle) { SettleOutcome::AlreadySettled } else { SettleOutcome::Conflict };
        }
        if job.fence != Some(settle.fence) {
            return SettleOutcome::LeaseLost;
        }
        job.fence = None;
        job.since = now;
        job.orphaned = false;
        job.record.started_count -= u32::from(std::mem::take(&mut job.started));
        job.staged = None;
        job.settled = Some((settle.fence, print(settle)));
        match &settle.settlement.disposition {
            Disposition::Complete { result } => {
                job.record.result.clone_from(result);
                job.finish(JobState::Completed, env.now());
            }
            Disposition::DeadLetter { error } => {
                job.record.error = Some(error.clone());
                job.finish(JobState::Dead, env.now());
            }
            Disposition::Cancelled => job.finish(JobState::Cancelled, env.now()),
            Disposition::Expired => job.finish(JobState::Expired, env.now()),
            Disposition::Retry { after, error } => {
                job.record.error = Some(error.clone());
                job.record.attempt += 1;
                job.record.state = if after.is_zero() { JobState::Pending } else { JobState::Retrying };
                job.due = now + *after;
                if let Some(successor) = &settle.successor {
                    job.stage(successor.clone(), now + stage_lease);
                }
            }
            Disposition::Release { after, .. } => {
                job.record.state = if after.is_zero() { JobState::Pending } else { JobState::Scheduled };
                job.due = now + *after;
            }
            Disposition::Park { key, at_most } => {
                job.record.state = JobState::Pending;
                job.record.parked = Some(key.clone());
                job.parked_until = Some(now + *at_most);
            }
        }
        for then in &settle.settlement.then {
            let job = JobRef::new(then.queue.clone(), then.envelope.id);
            let staged = StagedJob::new(Arc::clone(&provider), job, then.envelope.clone());
            self.stage(&staged, now + stage_lease, env);
        }
        SettleOutcome::Settled
    }

    fn of(&self, queue: &QueueName) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(move |job| job.record.job.queue == *queue)
    }

    fn redrive(&mut self, job: &JobRef, payload: Option<&Bytes>, until: Moment, env: &Env) -> RedriveOutcome {
        let Some(dead) = self.jobs.get(&id_of(job)).filter(|job| job.record.state == JobState::Dead) else {
            return RedriveOutcome::NotDead;
        };
        if let Some(unique) = dead.envelope.unique.clone() {
            let key = (job.queue.clone(), unique.key.clone());
            if let Some(holder) = self.keys.get(&key).and_then(|holder| self.jobs.get(&(job.queue.clone(), *holder)))
                && holder.record.job.id != job.id
                && !holder.record.state.is_terminal()
            {
                return RedriveOutcome::Duplicate { existing: holder.record.job.clone() };
            }
            self.keys.insert(key, job.id);
        }
        let Some(dead) = self.jobs.get_mut(&id_of(job)) else { return RedriveOutcome::NotDead };
        dead.envelope = dead.envelope.edit(|copy| {
            copy.attempt = 1;
            copy.deliveries = 0;
            copy.not_before = None;
            copy.expires_at = copy.expires_at.filter(|end| *end > env.now());
            if let Some(payload) = payload {
                copy.payload = payload.clone();
            }
        });
        dead.record.state = JobState::Pending;
        dead.record.attempt = 1;
        dead.record.started_count = 0;
        dead.record.finished_at = None;
        dead.cancel = None;
        dead.due = env.clock.monotonic();
        RedriveOutcome::Staged(dead.next_copy(until))
    }

    fn due(&mut self, scope: &Scope, dead: bool, limit: usize, until: Moment, now: Moment) -> Vec<StagedJob> {
        let mut found = Vec::new();
        for job in self.jobs.values_mut() {
            if found.len() == limit || !within(scope, &job.record.job.queue) || job.record.state.is_terminal() {
                continue;
            }
            if job.staged.is_some_and(|staged| staged <= now) {
                job.staged = Some(until);
                job.swept = true;
                found.push(job.staged_job());
            } else if job.parked_until.is_some_and(|parked| parked <= now) {
                job.parked_until = None;
                job.record.parked = None;
                found.push(job.next_copy(until));
            } else if dead && job.record.state == JobState::Running && job.lease_ends <= now {
                // The fence stays until someone claims.
                job.record.state = JobState::Pending;
                job.orphaned = true;
                found.push(job.next_copy(until));
            }
        }
        found
    }
}

fn dead_job(job: &Job) -> Option<DeadJob> {
    let (record, body) = (&job.record, DeadBody::Envelope(job.envelope.clone()));
    let died_at = record.finished_at.filter(|_| record.state == JobState::Dead)?;
    Some(DeadJob { id: record.job.id, body, error: record.error.clone()?, attempt: record.attempt, died_at })
}

fn place_of(dead: &DeadJob) -> String {
    format!("{:020}.{}", dead.died_at.as_millis(), dead.id)
}

fn within(scope: &Scope, queue: &QueueName) -> bool {
    scope.queues.as_ref().is_none_or(|queues| queues.contains(queue))
}

impl ReferenceStore {
    pub(crate) fn new(env: Env) -> Self {
        Self { env, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn monotonic(&self) -> Moment {
        self.env.clock.monotonic()
    }
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
        Ok(())
    }
}

fn no<T>(operation: &'static str) -> Result<T> {
    Err(Error::unsupported("reference", operation, "use a real store"))
}

#[async_trait]
impl JobStore for ReferenceStore {
    fn id(&self) -> StoreId {
        StoreId(NonZeroU64::MIN)
    }

    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let state = self.lock();
        let look_up = |job: &JobRef| match state.jobs.get(&id_of(job)) {
            Some(found) => Ok(Lookup::Found(Box::new(found.record.clone()))),
            None => Ok(Lookup::NotFound),
        };
        jobs.iter().map(look_up).collect()
    }

    async fn list(&self, _query: &JobQuery, _cursor: Option<Cursor>, _limit: usize) -> Result<Page<JobRecord>> {
        no("list")
    }

    async fn watch(&self, _what: Watch) -> Result<BoxStream<'static, Watched>> {
        no("watch")
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        let mut state = self.lock();
        let cancel = |job: &JobRef| {
            let Some(job) = state.jobs.get_mut(&id_of(job)) else { return Ok(CancelOutcome::NotFound) };
            match job.record.state {
                JobState::Running => {
                    job.cancel = Some(cancel.clone());
                    Ok(CancelOutcome::Requested)
                }
                state if state.is_terminal() => Ok(CancelOutcome::AlreadyTerminal),
                _ => {
                    job.finish(JobState::Cancelled, self.env.now());
                    Ok(CancelOutcome::Cancelled)
                }
            }
        };
        jobs.iter().map(cancel).collect()
    }

    async fn queue_control(&self, _queue: &QueueName) -> Result<QueueControl> {
        no("queue_control")
    }

    async fn set_queue_control(&self, _queue: &QueueName, _control: &QueueControl) -> Result<()> {
        no("set_queue_control")
    }

    async fn evict(&self, _queue: &QueueName, _retention: &Retention, _limit: usize) -> Result<usize> {
        no("evict")
    }

    async fn lead(&self, _role: &str, _candidate: &str, _term: Duration) -> Result<Option<Leadership>> {
        no("lead")
    }
}
