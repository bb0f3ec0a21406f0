//! Ending deliveries.

use std::ops::Bound;

use queue_core::{
    lifecycle::Trigger,
    provider::{Cancel, Disposition, ParkKey, Receipt, SettleOutcome},
    store::CancelOutcome,
};

use super::{Now, State, entry::Entry};

impl State {
    /// The job that the receipt still holds.
    pub(super) fn held(&self, receipt: Receipt) -> Option<u32> {
        let slot = u32::try_from(receipt.slot).ok()?;
        let entry = self.slots.get(slot)?;
        // Tickets are never given twice, and this one was by the claim: while it stands the job runs.
        (entry.ticket == receipt.epoch && entry.envelope.id == receipt.id).then_some(slot)
    }

    /// What a settlement that comes too late is answered; `None` where the receipt stands.
    pub(crate) fn refuse_stale(&self, receipt: Receipt, disposition: &Disposition) -> Option<SettleOutcome> {
        if self.held(receipt).is_some() {
            return None;
        }
        let slot = u32::try_from(receipt.slot).unwrap_or(u32::MAX);
        let entry = self.slots.get(slot).filter(|entry| entry.envelope.id == receipt.id);
        // After a restart it lies elsewhere.
        let entry = entry.or_else(|| self.entry(self.find(receipt.id)?));
        let settled = match entry {
            Some(entry) => entry.was_settled(receipt.epoch, disposition),
            None => self.was_noted(receipt, disposition),
        };
        Some(match settled {
            Some(true) => SettleOutcome::AlreadySettled,
            Some(false) => SettleOutcome::Conflict,
            None => SettleOutcome::LeaseLost,
        })
    }

    pub(crate) fn settle(&mut self, receipt: Receipt, disposition: &Disposition, now: Now) -> SettleOutcome {
        if let Some(refusal) = self.refuse_stale(receipt, disposition) {
            return refusal;
        }
        let Some(slot) = self.held(receipt) else { return SettleOutcome::LeaseLost };
        let Some(entry) = self.slots.get_mut(slot) else { return SettleOutcome::LeaseLost };
        entry.remember_settlement(receipt.epoch, disposition);
        entry.settle_delivery(disposition);
        keep_outcome(entry, disposition, now);
        let trigger = trigger_of(disposition, entry.cancel_requested().is_some());
        let transition = self.apply(slot, trigger, now);
        debug_assert!(transition.is_some(), "a running job takes {trigger:?}");
        match (disposition, trigger) {
            (Disposition::Retry { after, .. }, Trigger::Retry)
            | (Disposition::Release { after, .. }, Trigger::ReleaseLater) => self.turn(slot, now.after(*after)),
            (Disposition::Park { key, at_most }, Trigger::Park) => self.park(slot, key, now.after(*at_most)),
            _ => {}
        }
        SettleOutcome::Settled
    }

    fn park(&mut self, slot: u32, key: &ParkKey, until: super::Moment) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.details_mut().parked = Some(key.clone());
        self.parked.entry(key.clone()).or_default().insert(entry.rank, slot);
        self.parked_count += 1;
        self.turn(slot, until);
    }

    /// A job is parked no longer.
    pub(super) fn leave_key(&mut self, key: &ParkKey, rank: u64) {
        let Some(line) = self.parked.get_mut(key) else { return };
        self.parked_count -= u64::from(line.remove(&rank).is_some());
        if line.is_empty() {
            self.parked.remove(key);
        }
    }

    /// Lets up to `n` parked jobs of the key run, the oldest first.
    pub(crate) fn unpark(&mut self, key: &ParkKey, n: usize, now: Now) -> usize {
        let mut unparked = 0;
        while unparked < n {
            let oldest = self.parked.get(key).and_then(|line| line.first_key_value());
            let Some(slot) = oldest.map(|(_, slot)| *slot) else { break };
            if self.apply(slot, Trigger::Unpark, now).is_none() {
                break;
            }
            unparked += 1;
        }
        unparked
    }

    /// Keys under which jobs are parked, with how many: the next `limit` after one, by name.
    pub(crate) fn parked_after(&self, key: Option<&ParkKey>, limit: usize) -> Vec<(ParkKey, u64)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let lines = self.parked.range::<ParkKey, _>((from, Bound::Unbounded)).take(limit);
        lines.map(|(key, line)| (key.clone(), line.len() as u64)).collect()
    }

    /// Cancels a waiting job, or asks a running one to stop.
    pub(crate) fn cancel(&mut self, slot: u32, cancel: &Cancel, now: Now) -> CancelOutcome {
        let Some(entry) = self.slots.get_mut(slot) else { return CancelOutcome::NotFound };
        if entry.state.is_terminal() {
            return CancelOutcome::AlreadyTerminal;
        }
        if entry.state == queue_core::lifecycle::JobState::Running {
            let asked = entry.details_mut().cancel.get_or_insert_with(|| cancel.clone());
            asked.grace = asked.grace.min(cancel.grace);
            self.note(slot);
            self.emit(slot, queue_core::event::JobEventKind::CancelRequested, now);
            return CancelOutcome::Requested;
        }
        self.apply(slot, Trigger::Cancel, now);
        CancelOutcome::Cancelled
    }
}

pub(crate) fn keep_outcome(entry: &mut Entry, disposition: &Disposition, now: Now) {
    match disposition {
        Disposition::Complete { result: Some(result) } => entry.details_mut().result = Some(result.clone()),
        Disposition::Retry { error, .. } | Disposition::DeadLetter { error } => entry.fail(error, now.wall),
        _ => {}
    }
}

/// A job that was asked to stop does not come back.
pub(crate) fn trigger_of(disposition: &Disposition, cancel_requested: bool) -> Trigger {
    match disposition {
        Disposition::Complete { .. } => Trigger::Complete,
        Disposition::DeadLetter { .. } => Trigger::Bury,
        Disposition::Cancelled => Trigger::Cancel,
        Disposition::Expired => Trigger::Expire,
        Disposition::Retry { .. } | Disposition::Release { .. } | Disposition::Park { .. } if cancel_requested => {
            Trigger::Cancel
        }
        Disposition::Retry { after, .. } if after.is_zero() => Trigger::RetryNow,
        Disposition::Retry { .. } => Trigger::Retry,
        Disposition::Release { after, .. } if after.is_zero() => Trigger::Release,
        Disposition::Release { .. } => Trigger::ReleaseLater,
        Disposition::Park { .. } => Trigger::Park,
    }
}
