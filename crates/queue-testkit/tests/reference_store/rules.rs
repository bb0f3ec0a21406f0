//! What a call makes of the jobs.

use super::*;
use bytes::Bytes;
use queue_core::{
    Timestamp,
    lifecycle::JobState,
    provider::{Disposition, Lease, Rejection, SettleOutcome},
    store::{Claim, RedriveOutcome, Scope, StageOutcome, StagedJob, TrackedSettle, Verdict},
};

fn print(settle: &TrackedSettle) -> String {
    format!("{:?}", settle.settlement.disposition)
}

impl Job {
    pub(super) fn stage(&mut self, envelope: Envelope, until: Moment) {
        self.envelope = envelope;
        self.staged = Some(until);
        self.swept = false;
    }

    pub(super) fn finish(&mut self, state: JobState, at: Timestamp) {
        self.record.state = state;
        self.record.finished_at = Some(at);
        self.staged = None;
        self.record.parked = None;
        self.parked_until = None;
    }

    pub(super) fn next_copy(&mut self, until: Moment) -> StagedJob {
        let next = self.envelope.edit(|job| job.generation += 1);
        self.stage(next, until);
        self.swept = true;
        self.staged_job()
    }

    pub(super) fn record(&self, env: &Env) -> JobRecord {
        let mut record = self.record.clone();
        let left = self.lease_ends.saturating_sub(env.clock.monotonic());
        record.lease_ends = (record.state == JobState::Running).then(|| env.now() + left);
        record
    }

    pub(super) fn staged_job(&self) -> StagedJob {
        StagedJob::new(Arc::clone(&self.provider), self.record.job.clone(), self.envelope.clone())
    }
}

impl State {
    pub(super) fn insert(&mut self, provider: &Arc<str>, job: &JobRef, envelope: &Envelope, env: &Env) -> &mut Job {
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

    pub(super) fn stage(&mut self, staged: &StagedJob, until: Moment, env: &Env) -> StageOutcome {
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

    pub(super) fn claim(&mut self, claim: &Claim, env: &Env) -> Verdict {
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
            return Verdict::Busy { remaining: until.saturating_sub(now).max(Duration::from_secs(1)) };
        } else if now < job.due {
            return Verdict::Busy { remaining: job.due - now };
        }
        let redelivered = job.record.state == JobState::Running || job.orphaned;
        let fence = Fence { id: claim.job.id, epoch, generation: job.envelope.generation };
        job.fence = Some(fence);
        job.lease_ends = now + claim.lease;
        job.staged = None;
        job.started = false;
        job.orphaned = redelivered;
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

    pub(super) fn by_fence(&mut self, fence: &Fence) -> Option<&mut Job> {
        self.jobs.values_mut().find(|job| job.record.job.id == fence.id)
    }

    pub(super) fn settle(&mut self, settle: &TrackedSettle, stage_lease: Duration, env: &Env) -> SettleOutcome {
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
        let given_back =
            matches!(settle.settlement.disposition, Disposition::Release { .. } | Disposition::Park { .. });
        job.orphaned &= given_back && !job.started;
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

    pub(super) fn of(&self, queue: &QueueName) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(move |job| job.record.job.queue == *queue)
    }

    pub(super) fn redrive(
        &mut self,
        job: &JobRef,
        payload: Option<&Bytes>,
        until: Moment,
        env: &Env,
    ) -> RedriveOutcome {
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

    pub(super) fn due(
        &mut self,
        scope: &Scope,
        dead: bool,
        limit: usize,
        until: Moment,
        now: Moment,
    ) -> Vec<StagedJob> {
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

pub(super) fn within(scope: &Scope, queue: &QueueName) -> bool {
    scope.queues.as_ref().is_none_or(|queues| queues.contains(queue))
}
