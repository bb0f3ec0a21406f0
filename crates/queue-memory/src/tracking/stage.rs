//! Before and after the transport: stage, confirm, or take back.

use std::{sync::Arc, time::Duration};

use queue_core::{
    job::{JobError, JobRef},
    lifecycle::{JobState, Trigger},
    provider::Rejection,
    store::{StageOutcome, StagedJob},
};

use super::{
    ledger::{Ledger, Newcomer},
    record::{Copy, Origin},
    tombstones::Kind,
};
use crate::queue::Now;

impl Ledger {
    pub(super) fn stage(&mut self, staged: &StagedJob, lease: Duration, now: Now) -> StageOutcome {
        let StagedJob { provider, job, envelope, hold, max_len, .. } = staged;
        if let Some(slot) = self.find(&job.queue, job.id) {
            return self.stage_known(slot, staged, lease, now);
        }
        // A withdrawn one may be tried again under its id: nothing was promised.
        if self.tombstones.stone(job) == Some(Kind::Evicted) {
            return StageOutcome::Known;
        }
        if let Some(existing) = self.holder(&job.queue, envelope, now) {
            return StageOutcome::Duplicate { existing };
        }
        let bound = max_len.map_or(self.max_waiting, |max_len| max_len.min(self.max_waiting));
        if self.room(&job.queue).waiting() >= bound {
            return StageOutcome::Rejected(Rejection::Full);
        }
        let until = now.after(hold.unwrap_or(lease));
        let copy = Copy::Staged { until, origin: Origin::Fresh };
        let newcomer = Newcomer { job, envelope: envelope.clone(), provider: Arc::clone(provider), hold: *hold, copy };
        let Some(slot) = self.admit(newcomer, now) else { return StageOutcome::Rejected(Rejection::Full) };
        if hold.is_some() {
            // Nobody publishes it now, so nobody can refuse it.
            self.announce(slot, now);
        }
        StageOutcome::Staged
    }

    fn stage_known(&mut self, slot: u32, staged: &StagedJob, lease: Duration, now: Now) -> StageOutcome {
        let Some(record) = self.slots.get_mut(slot) else { return StageOutcome::Known };
        let (generation, offered) = (record.generation(), staged.envelope.generation);
        if record.job.state == JobState::Dead && offered > generation {
            return self.stage_redriven(slot, staged, lease, now);
        }
        match &mut record.copy {
            Copy::Staged { until, origin } if generation == offered && record.job.state.is_waiting() => {
                // Two publishers may be at it: what one is refused the other may have published.
                *origin = Origin::Promised;
                *until = now.after(lease).max(*until);
                self.announce(slot, now);
                self.relist(slot);
                StageOutcome::Again
            }
            _ => StageOutcome::Known,
        }
    }

    /// A newer copy of a dead job gives it another life.
    fn stage_redriven(&mut self, slot: u32, staged: &StagedJob, lease: Duration, now: Now) -> StageOutcome {
        let StagedJob { job, envelope, hold, .. } = staged;
        if let Some(existing) = self.holder(&job.queue, envelope, now) {
            return StageOutcome::Duplicate { existing };
        }
        let Some(died) = self.slots.get(slot).map(|record| record.job.changed_at) else { return StageOutcome::Known };
        self.room(&job.queue).dead.remove(&(died, slot));
        if let Some(record) = self.slots.get_mut(slot) {
            // Its time to live is the new life's.
            record.job.envelope = envelope.clone();
        }
        self.apply(slot, Trigger::Redrive, now);
        if let Some(unique) = envelope.unique.as_deref() {
            self.room(&job.queue).hold(unique, job.id, now);
        }
        if let Some(record) = self.slots.get_mut(slot) {
            let until = now.after(hold.unwrap_or(lease));
            record.copy = Copy::Staged { until, origin: Origin::Redriven };
        }
        self.relist(slot);
        StageOutcome::Staged
    }

    pub(super) fn confirm(&mut self, job: &JobRef, generation: u32, now: Now) {
        let Some(slot) = self.staged_slot(job, generation) else { return };
        if let Some(record) = self.slots.get_mut(slot) {
            record.place = job.place;
        }
        self.sent(slot);
        self.announce(slot, now);
    }

    /// The transport has the newest copy.
    pub(super) fn sent(&mut self, slot: u32) {
        if let Some(record) = self.slots.get_mut(slot) {
            record.copy = Copy::Sent;
        }
        self.relist(slot);
    }

    /// The job, if this very copy is staged and unconfirmed.
    pub(super) fn staged_slot(&self, job: &JobRef, generation: u32) -> Option<u32> {
        let slot = self.find(&job.queue, job.id)?;
        let record = self.slots.get(slot)?;
        let staged = matches!(record.copy, Copy::Staged { .. }) && record.generation() == generation;
        (staged && !record.job.state.is_terminal()).then_some(slot)
    }

    pub(super) fn unstage(&mut self, job: &JobRef, generation: u32, now: Now) -> bool {
        let Some(slot) = self.find(&job.queue, job.id) else {
            // Taken back before, and the reply was lost; or never written.
            return self.tombstones.kind(&job.queue, job.id) != Some(Kind::Evicted);
        };
        let staged = self.staged_slot(job, generation).and_then(|slot| self.slots.get(slot));
        match staged.map(|record| record.copy) {
            Some(Copy::Staged { origin: Origin::Fresh, .. }) => {
                self.withdraw(slot, now);
                true
            }
            Some(Copy::Staged { origin: Origin::Redriven, .. }) => {
                // Dead as before, with the error it died of.
                self.apply(slot, Trigger::Bury, now);
                true
            }
            _ => false,
        }
    }

    fn withdraw(&mut self, slot: u32, now: Now) {
        let Some((job, envelope)) = self.forget(slot) else { return };
        if let Some(unique) = envelope.unique.as_deref() {
            self.room(&job.queue).withdraw(unique, job.id);
        }
        self.room(&job.queue).submitted -= 1;
        self.tombstones.lay(job, Kind::Withdrawn, now);
    }

    pub(super) fn refuse(&mut self, job: &JobRef, generation: u32, error: &JobError, now: Now) {
        let Some(slot) = self.staged_slot(job, generation) else { return };
        self.announce(slot, now);
        if let Some(record) = self.slots.get_mut(slot) {
            record.job.fail(error, now.wall);
        }
        self.apply(slot, Trigger::Bury, now);
    }
}
