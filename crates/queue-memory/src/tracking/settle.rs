//! Ending a claim, with all that follows from it in the same write.

use std::{sync::Arc, time::Duration};

use queue_core::{
    job::JobRef,
    lifecycle::{JobState, Trigger},
    provider::{Cancel, Disposition, FollowUp, ParkKey, SettleOutcome},
    store::{CancelOutcome, TrackedOutcome, TrackedSettle},
};

use super::{
    ledger::{Ledger, Newcomer},
    record::{Copy, Origin},
    tombstones::Kind,
};
use crate::queue::{Now, keep_outcome, trigger_of};

impl Ledger {
    pub(super) fn settle(&mut self, item: &TrackedSettle, lease: Duration, now: Now) -> TrackedOutcome {
        let outcome = self.settle_once(item, lease, now);
        if !outcome.is_settled() {
            return TrackedOutcome::only(outcome);
        }
        let staged = |job: &JobRef, generation| self.staged_slot(job, generation).is_some();
        let successor = item.successor.as_ref().is_some_and(|successor| {
            let slot = self.find_claimed(item.fence).and_then(|slot| self.slots.get(slot));
            slot.is_some_and(|record| staged(&record.reference(), successor.generation))
        });
        let then = item.settlement.then.iter().enumerate().filter(|(_, FollowUp { queue, envelope })| {
            staged(&JobRef::new(queue.clone(), envelope.id), envelope.generation)
        });
        let then = then.map(|(index, _)| index).collect();
        TrackedOutcome { outcome, successor, then }
    }

    fn settle_once(&mut self, item: &TrackedSettle, lease: Duration, now: Now) -> SettleOutcome {
        let (fence, disposition) = (item.fence, &item.settlement.disposition);
        let Some(slot) = self.find_claimed(fence) else { return SettleOutcome::LeaseLost };
        let Some(record) = self.slots.get_mut(slot) else { return SettleOutcome::LeaseLost };
        if !record.is_held_by(fence) {
            return match record.job.was_settled(fence.epoch, disposition) {
                Some(true) => SettleOutcome::AlreadySettled,
                Some(false) => SettleOutcome::Conflict,
                None => SettleOutcome::LeaseLost,
            };
        }
        let (provider, queue) = (Arc::clone(&record.provider), record.queue.clone());
        record.job.remember_settlement(fence.epoch, disposition);
        record.job.settle_delivery(disposition);
        keep_outcome(&mut record.job, disposition, now);
        let trigger = trigger_of(disposition, record.job.cancel_requested().is_some());
        self.apply(slot, trigger, now);
        self.room(&queue).note(disposition);
        self.succeed(slot, item, lease, now);
        match (disposition, trigger) {
            (Disposition::Retry { after, .. }, Trigger::Retry)
            | (Disposition::Release { after, .. }, Trigger::ReleaseLater) => {
                let at = now.after(*after);
                self.wait_until(slot, now.wall + *after, at);
                self.hold_until(slot, at);
            }
            (Disposition::Park { key, at_most }, Trigger::Park) => self.park(slot, key, *at_most, now),
            _ => {}
        }
        for follow_up in &item.settlement.then {
            self.follow(follow_up, &provider, lease, now);
        }
        SettleOutcome::Settled
    }

    /// Stages the copy that carries a job which goes on. One that the sweep staged for the lease while it was dead has the
    /// same generation, and serves as well.
    fn succeed(&mut self, slot: u32, item: &TrackedSettle, lease: Duration, now: Now) {
        let Some(successor) = item.successor.as_ref() else { return };
        let Some(record) = self.slots.get_mut(slot).filter(|record| record.job.state.is_waiting()) else { return };
        record.job.envelope = successor.clone();
        record.copy = Copy::Staged { until: now.after(lease), lease, origin: Origin::Promised };
        self.relist(slot);
    }

    fn park(&mut self, slot: u32, key: &ParkKey, at_most: Duration, now: Now) {
        let Some(record) = self.slots.get_mut(slot) else { return };
        record.job.details_mut().parked = Some(key.clone());
        record.job.turn_at = now.after(at_most);
        record.copy = Copy::Sent;
        let (place, queue) = ((record.job.ticket, slot), record.queue.clone());
        self.room(&queue).parked.entry(key.clone()).or_default().insert(place);
        self.relist(slot);
    }

    /// Stages a follow-up, unless it, or another with its unique key, exists: then its work is done or under way.
    fn follow(&mut self, follow_up: &FollowUp, provider: &Arc<str>, lease: Duration, now: Now) {
        let FollowUp { queue, envelope } = follow_up;
        let job = JobRef::new(queue.clone(), envelope.id);
        if self.find(queue, envelope.id).is_some() || self.tombstones.stone(&job).is_some() {
            return;
        }
        if self.holder(queue, envelope, now).is_some() {
            // Should its copy be on its way all the same, it must find that it is not wanted.
            self.tombstones.lay(job, Kind::Withdrawn, now);
            return;
        }
        let due = envelope.not_before.map_or(now.mono, |due| now.moment_of(due));
        let copy = Copy::Staged { until: now.after(lease).max(due), lease, origin: Origin::Promised };
        let (envelope, provider) = (envelope.clone(), Arc::clone(provider));
        let newcomer = Newcomer { job: &job, envelope, provider, hold: None, copy };
        if let Some(slot) = self.admit(newcomer, now) {
            self.announce(slot, now);
        }
    }

    pub(super) fn cancel(&mut self, job: &JobRef, cancel: &Cancel, now: Now) -> CancelOutcome {
        let Some(slot) = self.find(&job.queue, job.id) else {
            return match self.tombstones.kind(&job.queue, job.id) {
                Some(Kind::Evicted) => CancelOutcome::AlreadyTerminal,
                Some(Kind::Withdrawn) | None => CancelOutcome::NotFound,
            };
        };
        let Some(record) = self.slots.get_mut(slot) else { return CancelOutcome::NotFound };
        match record.job.state {
            state if state.is_terminal() => CancelOutcome::AlreadyTerminal,
            JobState::Running => {
                let asked = record.job.details_mut().cancel.get_or_insert_with(|| cancel.clone());
                asked.grace = asked.grace.min(cancel.grace);
                self.emit(slot, queue_core::event::JobEventKind::CancelRequested, None, now);
                CancelOutcome::Requested
            }
            _ => {
                self.apply(slot, Trigger::Cancel, now);
                CancelOutcome::Cancelled
            }
        }
    }
}
