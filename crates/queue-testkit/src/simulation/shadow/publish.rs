//! What was put in.

use std::time::Duration;

use queue_core::{
    Envelope, JobId, QueueName,
    provider::{PublishOutcome, Rejection},
};

use super::{At, Due, Job, KeyHold, Offer, Shadow, State};
use crate::simulation::words;

impl Shadow {
    /// Jobs are on their way: they may be claimed before anybody is answered.
    pub(in crate::simulation) fn offered(&mut self, at: At, queue: &QueueName, batch: &[Envelope]) {
        for envelope in batch {
            match self.jobs.get_mut(&envelope.id) {
                None => {
                    self.jobs.insert(envelope.id, Job::offered(at, queue, envelope));
                }
                // It is surely not there: this one counts.
                Some(job) if job.offer == Offer::Refused => *job = Job::offered(at, queue, envelope),
                // Either may be the one that counts.
                Some(job) if job.offer == Offer::Unknown => job.blur(Due::of(at, envelope)),
                Some(_) => {}
            }
        }
    }

    /// The provider answered a call that began then: whatever waited for room was carried out some time between.
    pub(in crate::simulation) fn published(
        &mut self,
        at: At,
        began: Duration,
        queue: &QueueName,
        batch: &[Envelope],
        outcomes: &[PublishOutcome],
    ) {
        if batch.len() != outcomes.len() {
            self.wrong(format!("{} jobs were published and {} answered", batch.len(), outcomes.len()));
        }
        for (envelope, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                PublishOutcome::Accepted { .. } => self.accepted(at, began, queue, envelope),
                PublishOutcome::Duplicate { existing } => self.duplicate((at, began), queue, envelope, existing.id),
                PublishOutcome::Rejected(rejection) => self.refused(envelope.id, rejection),
                PublishOutcome::Unknown(_) => self.publish_in_doubt(std::slice::from_ref(envelope)),
            }
        }
    }

    /// A job is there, as far as its submitter was told or because it follows from another.
    pub(super) fn accepted(&mut self, at: At, began: Duration, queue: &QueueName, envelope: &Envelope) {
        let place = self.next_place;
        let dedup = self.promises.dedup;
        let Some(job) = self.jobs.get_mut(&envelope.id) else { return };
        // Claimed before its publisher was answered, its place is not known yet.
        if job.place != u64::MAX {
            if !dedup && job.offer == Offer::Accepted {
                self.wrong_with(
                    envelope.id,
                    "published twice where ids are not deduplicated: a fault of the simulation",
                );
            }
            return;
        }
        job.offer = Offer::Accepted;
        job.place = place;
        job.accepted_at = at.mono;
        // Who waited came in some time before the answer, and nobody knows when.
        job.fresh &= began == at.mono;
        self.next_place += 1;
        self.take_key(at, began, queue, envelope);
    }

    /// It took its key some time between then and now.
    pub(super) fn take_key(&mut self, at: At, began: Duration, queue: &QueueName, envelope: &Envelope) {
        let Some(unique) = envelope.unique.as_deref().filter(|_| self.promises.records) else { return };
        let name = (queue.clone(), unique.key.clone());
        // Asked for before without an answer, nobody knows since when it counts.
        let doubted = self.jobs.get(&envelope.id).is_some_and(|job| job.asked_before);
        if let Some(holder) = self.keys.get(&name).cloned()
            && holder.job != envelope.id
            && self.surely_holds(at, &holder)
        {
            // Before the holder was there it may have been free; and who was asked for before may have come and gone by then.
            if began < holder.since || doubted {
                return;
            }
            let text = format!("accepted while {} holds its unique key", words::job(holder.job));
            self.wrong_with(envelope.id, text);
        }
        let window = |window| if doubted { at.mono } else { at.mono + window };
        let until = unique.window.map(window);
        let kept = unique.window.map(|window| at.wall + window);
        let surely = until.zip(unique.window).map(|(until, window)| until.min(began + window));
        self.keys.insert(name, KeyHold { job: envelope.id, since: at.mono, until, surely, kept, doubted });
    }

    fn surely_holds(&self, at: At, holder: &KeyHold) -> bool {
        if let Some(until) = holder.surely {
            return at.mono < until && self.jobs.get(&holder.job).is_some_and(|job| job.offer == Offer::Accepted);
        }
        self.jobs.get(&holder.job).is_some_and(|job| !job.may_be_over(at) && !self.is_cut(&job.queue))
    }

    fn duplicate(&mut self, (at, began): (At, Duration), queue: &QueueName, envelope: &Envelope, existing: JobId) {
        if let Some(job) = self.jobs.get_mut(&envelope.id) {
            job.offer = job.offer.max(Offer::Refused);
        }
        let Some(unique) = envelope.unique.as_deref() else {
            self.wrong_with(envelope.id, "refused as a duplicate, and has no unique key");
            return;
        };
        let Some(holder) = self.jobs.get(&existing).filter(|_| existing != envelope.id) else {
            self.wrong_with(envelope.id, "its duplicate is no other job");
            return;
        };
        let same =
            holder.queue == *queue && holder.envelope.unique.as_deref().is_some_and(|theirs| theirs.key == unique.key);
        let name = (queue.clone(), unique.key.clone());
        let window =
            self.keys.get(&name).filter(|hold| hold.job == existing).and_then(|hold| Some((hold.until?, hold.doubted)));
        // Who waited may have been answered long before, and the holder may have ended since.
        let free = match window {
            Some((_, true)) => false,
            Some((until, false)) => began > until,
            None => match holder.envelope.unique.as_deref().and_then(|theirs| theirs.window) {
                Some(window) => self.unanswered_window_is_over(holder, window, began),
                None => holder.is_over() && holder.doubts.is_empty() && began == at.mono,
            },
        };
        if !same {
            self.wrong_with(envelope.id, format!("{} does not have its unique key", words::job(existing)));
        } else if free && self.promises.atomic {
            self.wrong_with(envelope.id, format!("{} has ended and still holds the unique key", words::job(existing)));
        }
    }

    /// Its window goes on after its end. Where its publisher was not answered nobody was told when it began, but for that it
    /// did before the first claim. A broker that was killed since counts it by the wall clock, and another life begins it anew.
    fn unanswered_window_is_over(&self, holder: &Job, window: Duration, began: Duration) -> bool {
        let same_count = self.killed_at.is_none_or(|killed| killed < holder.accepted_at);
        let one_life = !holder.redriving && holder.redrives.max(holder.redrives_asked) == 0;
        same_count && one_life && holder.recorded.is_some_and(|first| first + window < began)
    }

    fn refused(&mut self, id: JobId, rejection: &Rejection) {
        let cut = self.jobs.get(&id).is_some_and(|job| self.is_cut(&job.queue));
        let Some(job) = self.jobs.get_mut(&id) else { return };
        // A refusal of a repetition says nothing of the first.
        if job.offer == Offer::Unknown && !job.asked_before {
            job.offer = Offer::Refused;
        }
        if !cut && !matches!(rejection, Rejection::Full | Rejection::Unavailable(_)) {
            let text = format!("refused for no reason: {rejection:?}");
            self.wrong_with(id, text);
        }
    }

    /// The call that was to publish them is not answered to anybody any more.
    pub(in crate::simulation) fn publish_in_doubt(&mut self, batch: &[Envelope]) {
        for envelope in batch {
            if let Some(job) = self.jobs.get_mut(&envelope.id) {
                job.asked_before = true;
                if job.offer == Offer::Refused {
                    job.offer = Offer::Unknown;
                }
            }
        }
    }
}

impl Job {
    fn offered(at: At, queue: &QueueName, envelope: &Envelope) -> Self {
        Self {
            queue: queue.clone(),
            attempt: envelope.attempt,
            due: Due::of(at, envelope),
            fresh: envelope.not_before.is_none(),
            envelope: envelope.clone(),
            offer: Offer::Unknown,
            asked_before: false,
            state: State::Waiting,
            place: u64::MAX,
            accepted_at: at.mono,
            over_at: envelope.expires_at.map(|end| at.mono + at.wall.until(end)),
            parked: None,
            cancel: false,
            cancel_since: Duration::ZERO,
            cancel_doubted: false,
            cancels_under_way: 0,
            started_lost: 0,
            started_kept: 0,
            orphaned: false,
            doubts: Vec::new(),
            claims: 0,
            suspect: false,
            recorded: None,
            retries: 0,
            releases: 0,
            losses: 0,
            redrives: 0,
            redrives_asked: 0,
            runs: 0,
            ttl_lifted: false,
            ttl_doubted: false,
            blurred: false,
            redriving: false,
            reborn: false,
        }
    }

    fn blur(&mut self, due: Due) {
        self.blurred = true;
        self.fresh = false;
        self.due.mono = self.due.mono.min(due.mono);
        self.due.wall = self.due.wall.zip(due.wall).map(|(one, other)| one.min(other));
    }
}

impl Due {
    fn of(at: At, envelope: &Envelope) -> Self {
        match envelope.not_before {
            Some(due) => {
                Self { mono: at.mono + at.wall.until(due), wall: Some(due), kept: due, earliest: Duration::MAX }
            }
            None => Self::now(at),
        }
    }
}
