//! Signs of life.

use queue_core::{
    event::JobEventKind,
    provider::{Beat, BeatOutcome, Durability, Lease},
};

use super::{Now, State};

impl State {
    /// Whether the start that this beat marked may not be on disk; from now on it is, where it was `kept`.
    pub(crate) fn unsure_of(&mut self, beat: &Beat, kept: bool) -> bool {
        let slot = self.held(beat.receipt).filter(|_| beat.started);
        let Some(entry) = slot.and_then(|slot| self.slots.get_mut(slot)) else { return false };
        if kept {
            entry.row.marking(false);
        }
        entry.row.is_marking()
    }

    /// `ready`: the disk takes what is relied on.
    pub(crate) fn beat(&mut self, beat: &Beat, ready: bool, now: Now) -> BeatOutcome {
        let Some(slot) = self.held(beat.receipt) else { return BeatOutcome::Lost };
        let Some(entry) = self.slots.get_mut(slot) else { return BeatOutcome::Lost };
        // Whoever marks such a start waits for it to be on disk: the job may end this process too.
        let marks = beat.started && entry.orphaned && (!entry.marked || entry.row.is_marking());
        if beat.started {
            entry.mark_started();
        }
        if marks && self.changes.is_some() {
            entry.row.marking(true);
        }
        if !beat.logs.is_empty() {
            entry.log(&beat.logs);
        }
        if let Some(progress) = &beat.progress {
            entry.details_mut().progress = Some(progress.clone());
        }
        let cancel = entry.cancel_requested().cloned();
        let end = entry.turn_at;
        if beat.started || beat.progress.is_some() || !beat.logs.is_empty() {
            self.note(slot);
        }
        if marks && ready {
            self.rely(Some(Durability::Synced));
        }
        if let Some(extend) = beat.extend {
            let earlier = now.after(extend) < end;
            let end = now.after(extend);
            if let Some(entry) = self.slots.get_mut(slot) {
                entry.turn_at = end;
            }
            if earlier {
                // The timer that is set would come too late.
                self.turn(slot, end);
            }
        }
        if beat.progress.is_some() {
            self.emit(slot, JobEventKind::Progress, now);
        }
        let end = self.slots.get(slot).map_or(now.mono, |entry| entry.turn_at);
        let remaining = std::time::Duration::from_nanos(end.saturating_sub(now.mono));
        BeatOutcome::Held(Lease { remaining: Some(remaining), cancel })
    }
}
