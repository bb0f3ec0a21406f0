//! Who may run a copy, and for how long.

use std::{sync::Arc, time::Duration};

use queue_core::{
    event::JobEventKind,
    lifecycle::{JobState, Trigger},
    provider::{Beat, BeatOutcome, Lease},
    store::{Claim, Fence, Verdict},
};

use super::{
    ledger::{Ledger, Newcomer},
    record::Copy,
};
use crate::queue::{Moment, Now};

impl Ledger {
    pub(super) fn claim(&mut self, claim: &Claim, now: Now) -> Verdict {
        let Some(slot) = self.find(&claim.job.queue, claim.job.id).or_else(|| self.adopt(claim, now)) else {
            return Verdict::Drop;
        };
        self.announce(slot, now);
        if let Some(verdict) = self.refuse_copy(slot, claim, now) {
            return verdict;
        }
        self.free_for(slot, claim, now);
        self.run(slot, claim, now).unwrap_or(Verdict::Drop)
    }

    /// Begins the record of a job that was published while the store was away. `None` where it was here before.
    fn adopt(&mut self, claim: &Claim, now: Now) -> Option<u32> {
        if self.tombstones.kind(&claim.job.queue, claim.job.id).is_some() {
            return None;
        }
        let envelope = claim.envelope.clone();
        let provider = Arc::clone(&claim.provider);
        let newcomer = Newcomer { job: &claim.job, envelope, provider, hold: None, copy: Copy::Sent };
        self.admit(newcomer, now)
    }

    /// What becomes of a copy that must not run now.
    fn refuse_copy(&mut self, slot: u32, claim: &Claim, now: Now) -> Option<Verdict> {
        let record = self.slots.get(slot)?;
        let (state, generation, offered) = (record.job.state, record.generation(), claim.envelope.generation);
        if state.is_terminal() || offered < generation {
            return Some(Verdict::Drop);
        }
        if state == JobState::Running && record.job.turn_at > now.mono {
            return Some(busy(record.job.turn_at, now));
        }
        if state == JobState::Running && record.job.cancel_requested().is_some() {
            // Its worker died before it stopped.
            self.apply(slot, Trigger::Cancel, now);
            return Some(Verdict::Drop);
        }
        if claim.envelope.expires_at.is_some_and(|end| end <= now.wall) {
            self.apply(slot, Trigger::Expire, now);
            return Some(Verdict::Drop);
        }
        let due = if offered > generation {
            claim.envelope.not_before.map(|due| now.moment_of(due))
        } else {
            (record.due.is_some() || record.is_parked()).then_some(record.job.turn_at)
        };
        due.filter(|due| *due > now.mono).map(|due| busy(due, now))
    }

    /// Makes the record ready to be claimed by this copy: it may be newer, and a dead lease is over with.
    fn free_for(&mut self, slot: u32, claim: &Claim, now: Now) {
        let Some(record) = self.slots.get_mut(slot) else { return };
        if claim.envelope.generation > record.generation() {
            // The store was restored from an older state: the copy knows more.
            record.job.attempt = record.job.attempt.max(claim.envelope.attempt);
            record.job.started_count = record.job.started_count.max(claim.envelope.deliveries);
            record.job.envelope = claim.envelope.clone();
        }
        if record.job.state == JobState::Running {
            record.job.orphaned = true;
            self.apply(slot, Trigger::LeaseLost, now);
        }
    }

    fn run(&mut self, slot: u32, claim: &Claim, now: Now) -> Option<Verdict> {
        let record = self.slots.get_mut(slot)?;
        record.place = claim.job.place;
        record.job.marked = false;
        record.job.started_at = Some(now.wall);
        record.worker = Some(Arc::clone(&claim.worker));
        self.apply(slot, Trigger::Claim, now)?;
        let record = self.slots.get_mut(slot)?;
        record.claimed = record.generation();
        // It was delivered, so the transport had it, confirmed or not.
        record.copy = Copy::Sent;
        record.job.turn_at = now.after(claim.lease);
        let job = &record.job;
        let fence = Fence { id: job.envelope.id, epoch: job.ticket, generation: record.claimed };
        let verdict = Verdict::Run {
            fence,
            lease: Lease { remaining: Some(claim.lease), cancel: None },
            attempt: job.attempt,
            started_before: job.started_count,
            redelivered: job.orphaned,
        };
        self.relist(slot);
        Some(verdict)
    }

    pub(super) fn beat(&mut self, fence: Fence, beat: &Beat, now: Now) -> BeatOutcome {
        let Some(slot) = self.find_claimed(fence) else { return BeatOutcome::Lost };
        let Some(record) = self.slots.get_mut(slot).filter(|record| record.is_held_by(fence)) else {
            return BeatOutcome::Lost;
        };
        let job = &mut record.job;
        if beat.started {
            job.mark_started();
        }
        if !beat.logs.is_empty() {
            job.log(&beat.logs);
        }
        if let Some(progress) = &beat.progress {
            job.details_mut().progress = Some(progress.clone());
        }
        if let Some(extend) = beat.extend {
            job.turn_at = now.after(extend);
        }
        let (end, cancel) = (job.turn_at, job.cancel_requested().cloned());
        self.relist(slot);
        if beat.progress.is_some() {
            self.emit(slot, JobEventKind::Progress, beat.progress.clone(), now);
        }
        BeatOutcome::Held(Lease { remaining: Some(left(end, now)), cancel })
    }
}

fn busy(until: Moment, now: Now) -> Verdict {
    Verdict::Busy { remaining: left(until, now) }
}

fn left(until: Moment, now: Now) -> Duration {
    Duration::from_nanos(until.saturating_sub(now.mono))
}
