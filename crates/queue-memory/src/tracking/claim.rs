//! Who may run a copy, and for how long.

use std::{sync::Arc, time::Duration};

use queue_core::{
    event::JobEventKind,
    lifecycle::{JobState, Trigger},
    provider::{Beat, BeatOutcome, Lease},
    store::{Claim, Fence, Verdict},
};

use super::{
    Told,
    ledger::{Ledger, Newcomer},
    record::{Copy, Tracked},
    tombstones::Kind,
};
use crate::queue::{Moment, Now};

/// How soon the copy of a job that was parked for long enough is looked at again: the sweep will have staged the next one.
const LATE: Duration = Duration::from_secs(1);

impl Ledger {
    /// The verdict, and when it may be told. A first claim may be told at once: should it be lost with the process, the job
    /// is a suspect. Who drops a copy, runs one without a record, or runs one again, does what a crash must not undo.
    pub(super) fn claim(&mut self, claim: &Claim, now: Now) -> (Verdict, Told) {
        let known = self.find(&claim.job.queue, claim.job.id);
        let Some(slot) = known.or_else(|| self.adopt(claim, now)) else {
            return (Verdict::Drop, Told::OnceKept);
        };
        self.announce(slot, now);
        let suspect = self.slots.get(slot).is_some_and(|record| record.suspect);
        let verdict = self.refuse_copy(slot, claim, now).unwrap_or_else(|| {
            self.free_for(slot, claim, now);
            self.run(slot, claim, now).unwrap_or(Verdict::Drop)
        });
        let at_once = match &verdict {
            Verdict::Run { redelivered, .. } => known.is_some() && !suspect && !redelivered,
            Verdict::Drop => false,
            Verdict::Busy { .. } | Verdict::Unknown(_) => true,
        };
        (verdict, if at_once { Told::AtOnce } else { Told::OnceKept })
    }

    /// Begins the record of a job that was published while the store was away. `None` where it was here before.
    ///
    /// One that was taken back may have been tried again since, under its id and without the store. What has a unique key
    /// cannot: its copy is that of a follow-up which was not wanted.
    fn adopt(&mut self, claim: &Claim, now: Now) -> Option<u32> {
        match self.tombstones.kind(&claim.job.queue, claim.job.id) {
            Some(Kind::Evicted) => return None,
            Some(Kind::Withdrawn) if claim.envelope.unique.is_some() => return None,
            Some(Kind::Withdrawn) | None => {}
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
        } else if record.is_parked() {
            // Its copy was acknowledged: one that comes late all the same has no place in the transport to go back to. The next
            // one is staged when the job is let go, or by the sweep.
            Some(record.job.turn_at.max(now.after(LATE)))
        } else {
            record.due.map(|_| record.job.turn_at)
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
        let suspect = std::mem::take(&mut record.suspect);
        self.apply(slot, Trigger::Claim, now)?;
        let record = self.slots.get_mut(slot)?;
        record.claimed = record.generation();
        // It was delivered, so the transport had it, confirmed or not.
        record.copy = Copy::Sent;
        record.job.turn_at = now.after(claim.lease);
        record.lease = claim.lease;
        let job = &record.job;
        let fence = Fence { id: job.envelope.id, epoch: job.ticket, generation: record.claimed };
        let verdict = Verdict::Run {
            fence,
            lease: Lease { remaining: Some(claim.lease), cancel: None },
            attempt: job.attempt,
            started_before: job.started_count,
            redelivered: job.orphaned,
        };
        if suspect && !record.job.orphaned {
            // What kills the process at every start must not be a first delivery for ever. A redelivery is none, and its worker
            // marks the start: marked here, it would be a first delivery again for whoever gives it back unstarted.
            record.job.mark_started();
        }
        self.relist(slot);
        Some(verdict)
    }

    pub(super) fn beat(&mut self, fence: Fence, beat: &Beat, now: Now) -> BeatOutcome {
        let held = |record: &Tracked| record.is_held_by(fence);
        let Some(slot) = self.find_claimed(fence).filter(|slot| self.slots.get(*slot).is_some_and(held)) else {
            return BeatOutcome::Lost;
        };
        // Most beats only extend the lease, which no journal keeps.
        let record = if self.slots.get(slot).is_some_and(|record| is_noted(record, beat)) {
            self.slots.get_mut(slot)
        } else {
            self.slots.get_mut_unnoted(slot)
        };
        let Some(record) = record else { return BeatOutcome::Lost };
        record.lease = beat.extend.unwrap_or(record.lease);
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

/// Whether a beat says more than that its worker lives.
fn is_noted(record: &Tracked, beat: &Beat) -> bool {
    beat.started || beat.progress.is_some() || !beat.logs.is_empty() || beat.extend.is_some_and(|it| it != record.lease)
}

fn busy(until: Moment, now: Now) -> Verdict {
    Verdict::Busy { remaining: left(until, now) }
}

fn left(until: Moment, now: Now) -> Duration {
    Duration::from_nanos(until.saturating_sub(now.mono))
}
