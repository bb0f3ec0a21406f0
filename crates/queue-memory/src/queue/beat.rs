//! Signs of life.

use queue_core::{
    event::JobEventKind,
    provider::{Beat, BeatOutcome, Durability, Lease},
};

use super::{Now, State};

impl State {
    pub(crate) fn beat(&mut self, beat: &Beat, now: Now) -> BeatOutcome {
        let Some(slot) = self.held(beat.receipt) else { return BeatOutcome::Lost };
        let Some(entry) = self.slots.get_mut(slot) else { return BeatOutcome::Lost };
        let orphaned = entry.orphaned;
        if beat.started {
            entry.mark_started();
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
        if beat.started && orphaned {
            // Whoever asks runs the job once this is known, also if the job ends the process.
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
