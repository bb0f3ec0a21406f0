//! How a consumer sleeps: with its next claim laid down in the server, to be made when there is something to claim.
//!
//! It waits for half a lease at most. When in that time a claim was made nobody here knows, as its answer may have been long on its way: so
//! leases count from when the wait began, and jobs that come with an answer have at least half of theirs left, unless this process stood still
//! in the meantime. What comes later than that is made sure of before it is given out.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use queue_core::{
    Result,
    provider::{Beat, BeatOutcome, Delivery, Disposition, ReleaseReason, Settlement},
};
use tokio::time::Instant;

use super::{Claimed, RedisConsumer};
use crate::{link, provider::BATCH, scripts, shards};

/// For so long after a look whatever becomes ready sets the marker.
pub(super) const HEEDED: Duration = Duration::from_secs(61);
/// For so long a look that found nothing need not be repeated before the next sleep.
const FRESH: Duration = Duration::from_secs(30);
/// One sleep; it ends before a look has gone out of mind.
const LONGEST: Duration = Duration::from_secs(25);
/// Who has shorter leases than twice this is only woken, and claims himself.
const SHORTEST: Duration = Duration::from_secs(5);
/// An answer may be so late, and a claim that was taken back may take so long to be answered.
const LATE: Duration = Duration::from_millis(50);
const WITHDRAWN: Duration = Duration::from_secs(1);

/// The last look that found nothing.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<Option<Look>>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// When time has something to do.
    due: Option<Instant>,
}

impl Looked {
    fn lock(&self) -> MutexGuard<'_, Option<Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When time has something to do, if there is nothing before that as far as is known.
    pub(super) fn stands(&self) -> Option<Option<Instant>> {
        let now = Instant::now();
        let look = (*self.lock()).filter(|look| now < look.at + FRESH)?;
        (look.due.is_none_or(|due| now < due)).then_some(look.due)
    }

    /// What came of a look that was made no earlier than `at`.
    pub(super) fn note(&self, at: Instant, found: &Claimed) {
        *self.lock() = match found {
            Claimed::Jobs(_) => None,
            Claimed::Nothing { next } => Some(Look { at, due: next.map(|next| Instant::now() + next) }),
        };
    }

    /// What was found holds on where a claim took all that there was: whatever becomes ready sets the marker as before, and nobody need look
    /// again before the next sleep. Time has something to do when that claim said so, of what was put off since, or when its leases end.
    fn outlasts(&self, due: Option<Instant>, leases_end: Instant) {
        if let Some(look) = &mut *self.lock() {
            look.due = look.due.into_iter().chain(due).chain([leases_end]).min();
        }
    }

    fn forget(&self) {
        *self.lock() = None;
    }
}

impl RedisConsumer {
    /// How many more jobs may be out, `max` at most.
    pub(super) fn room(&self, max: usize) -> usize {
        self.demand.load(Ordering::Acquire).saturating_sub(self.outstanding()).min(max)
    }

    /// Sleeps until there may be jobs, and answers what was claimed then; `None` where somebody has to look.
    pub(super) async fn doze(&self, room: usize, due: Option<Instant>, give_up: Instant) -> Result<Option<Claimed>> {
        if self.known.count() > 1 {
            return self.doze_over(due, give_up).await;
        }
        let begun = Instant::now();
        let most = room.min(BATCH);
        let (marker, claims) = (format!("{}m", self.known.base), self.lease / 2 >= SHORTEST);
        let within = due.map_or(give_up, |due| due.min(give_up)).saturating_duration_since(begun).min(LONGEST);
        let (mut sleeper, end) = if claims {
            let within = within.min(self.lease / 2);
            let claim =
                link::script_call(&scripts::CLAIM, &self.known.base, &self.claim_arguments(&self.known, most, HEEDED));
            (self.shared.wakes.sleeper_that_claims(marker, claim, within), begun + within + LATE)
        } else {
            (self.shared.wakes.sleeper(marker), begun + within)
        };
        let answer = loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.closed.load(Ordering::Acquire) || self.shared.is_closed() || self.room(most) < most {
                break None;
            }
            tokio::select! {
                biased;
                answer = sleeper.woken() => break answer,
                () = &mut changed => {}
                () = tokio::time::sleep_until(end) => break None,
            }
        };
        let answer = match answer {
            None => tokio::time::timeout(WITHDRAWN, sleeper.withdraw()).await.ok().flatten(),
            answer => answer,
        };
        let Some(answer) = answer else {
            self.looked.forget();
            return Ok(None);
        };
        let wanted = if self.closed.load(Ordering::Acquire) || self.shared.is_closed() { 0 } else { self.room(most) };
        let due = Self::due(&answer);
        let mut claimed = self.claimed(&self.known, answer, begun)?;
        match &claimed {
            Claimed::Jobs(jobs) if jobs.len() < most && jobs.len() <= wanted => {
                self.looked.outlasts(due, begun + self.lease)
            }
            _ => self.looked.note(begun, &claimed),
        }
        if let Claimed::Jobs(jobs) = &mut claimed {
            self.give_back(jobs.split_off(jobs.len().min(wanted))).await;
            self.plenty.store(jobs.len() == most, Ordering::Relaxed);
            if begun.elapsed() > self.lease * 2 / 3 {
                *jobs = self.still_held(std::mem::take(jobs)).await;
            }
            if jobs.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(claimed))
    }

    /// The same over several shards: a claim for one of them would not be made by the marker of another, so he is only woken.
    async fn doze_over(&self, due: Option<Instant>, give_up: Instant) -> Result<Option<Claimed>> {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if self.closed.load(Ordering::Acquire) || self.shared.is_closed() {
            return Ok(None);
        }
        let markers = self.known.parts().iter().map(|shard| format!("{}m", shard.base));
        let mut sleepers: Vec<_> = markers.map(|marker| self.shared.wakes.sleeper(marker)).collect();
        let end = due.map_or(give_up, |due| due.min(give_up)).min(Instant::now() + LONGEST);
        tokio::select! {
            biased;
            // What is new is in that one, as far as is known.
            place = shards::woken(&mut sleepers) => self.turns.begin_at(place),
            // What was found holds on.
            () = &mut changed => return Ok(None),
            () = tokio::time::sleep_until(end) => {}
        }
        self.looked.forget();
        Ok(None)
    }

    /// What was claimed for who wanted it no more when it was: it is ready again, where it stood.
    async fn give_back(&self, jobs: Vec<Delivery>) {
        if jobs.is_empty() {
            return;
        }
        let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
        let batch: Vec<_> = jobs.iter().map(|job| Settlement::new(job.receipt, release.clone())).collect();
        // What is not settled comes back when its lease ends.
        for outcome in self.settle_part(&self.known, &batch).await.iter().filter(|outcome| !outcome.is_settled()) {
            tracing::debug!(queue = %self.known.spec.name, ?outcome, "what nobody wants any more was not given back");
        }
    }

    /// Those whose lease stands, and a whole one again.
    async fn still_held(&self, jobs: Vec<Delivery>) -> Vec<Delivery> {
        let beats: Vec<Beat> = jobs.iter().map(|job| Beat::extend(job.receipt, self.lease)).collect();
        let outcomes = self.beat_part(&self.known, &beats).await;
        let held = |(job, outcome)| match outcome {
            BeatOutcome::Held(lease) => Some(Delivery { lease, ..job }),
            _ => None,
        };
        jobs.into_iter().zip(outcomes).filter_map(held).collect()
    }
}
