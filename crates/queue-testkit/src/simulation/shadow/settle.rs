//! What was given back.

use std::time::Duration;

use queue_core::{
    JobId, QueueName,
    provider::{Beat, BeatOutcome, Disposition, ParkKey, Receipt, SettleOutcome, Settlement},
    store::CancelOutcome,
};

use super::{At, Due, Job, Shadow, State};
use crate::{checker::End, simulation::words};

impl Shadow {
    /// Follow-ups are on their way.
    pub(in crate::simulation) fn settling(&mut self, at: At, batch: &[Settlement]) {
        if !self.promises.atomic {
            // It takes effect some time before the answer.
            for settlement in batch {
                self.asked.entry(key(&settlement.receipt)).or_insert(at.mono);
            }
            self.settle_in_doubt(batch);
        }
        for follow_up in batch.iter().flat_map(|settlement| &settlement.then) {
            self.offered(at, &follow_up.queue, std::slice::from_ref(&follow_up.envelope));
        }
    }

    /// The provider answered.
    pub(in crate::simulation) fn settled(&mut self, at: At, batch: &[Settlement], outcomes: &[SettleOutcome]) {
        if batch.len() != outcomes.len() {
            self.wrong(format!("{} deliveries were settled and {} answered", batch.len(), outcomes.len()));
        }
        for (settlement, outcome) in batch.iter().zip(outcomes) {
            self.settlements += 1;
            match outcome {
                SettleOutcome::Settled => self.won(at, settlement),
                SettleOutcome::AlreadySettled | SettleOutcome::Conflict => self.repeated(at, settlement, outcome),
                SettleOutcome::LeaseLost => self.lost(at, settlement),
                SettleOutcome::NotSettled { .. } => {}
                SettleOutcome::Unknown(_) => {
                    if self.holds(&settlement.receipt).is_some() {
                        self.asked.entry(key(&settlement.receipt)).or_insert(at.mono);
                    }
                    self.settle_in_doubt(std::slice::from_ref(settlement));
                }
            }
        }
    }

    fn holds(&self, receipt: &Receipt) -> Option<&super::Hold> {
        match &self.jobs.get(&receipt.id)?.state {
            State::Held(hold) if hold.receipt == *receipt => Some(hold),
            _ => None,
        }
    }

    fn won(&mut self, at: At, settlement: &Settlement) {
        let Settlement { receipt, disposition, then } = settlement;
        let past = self.settled.get(&key(receipt)).cloned();
        let what = words::disposition(disposition);
        if past.is_some() {
            self.wrong_with(receipt.id, format!("settled twice by the same receipt, now as {what}"));
        } else if self.holds(receipt).is_none() && self.asked.contains_key(&key(receipt)) {
            // What followed from it was seen before its answer.
            self.settled.insert(key(receipt), disposition.clone());
        } else if self.holds(receipt).is_none() {
            self.wrong_with(receipt.id, format!("settled as {what} by a receipt that was stale"));
        } else {
            self.settled.insert(key(receipt), disposition.clone());
            let asked = self.asked.get(&key(receipt)).filter(|_| !self.promises.atomic);
            let since = asked.copied().unwrap_or(at.mono);
            self.take_effect(At { mono: since, ..at }, receipt.id, disposition);
            for follow_up in then {
                if self.key_is_free(at, &follow_up.queue, &follow_up.envelope) {
                    self.accepted(at, at.mono, &follow_up.queue, &follow_up.envelope);
                }
            }
        }
    }

    /// A follow-up whose key is held counts as done.
    fn key_is_free(&self, _: At, queue: &QueueName, envelope: &queue_core::Envelope) -> bool {
        let Some(unique) = envelope.unique.as_deref() else { return true };
        !self.keys.contains_key(&(queue.clone(), unique.key.clone()))
    }

    fn take_effect(&mut self, at: At, id: JobId, disposition: &Disposition) {
        let records = self.promises.records;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        // Who gives a job back unstarted says nothing of whether it ends whoever starts it.
        let unstarted = matches!(&job.state, State::Held(hold) if !hold.starts);
        job.orphaned &= unstarted && matches!(disposition, Disposition::Release { .. } | Disposition::Park { .. });
        job.doubts.clear();
        let mut end = End::of(disposition);
        // A job that was asked to stop does not come back.
        if records && job.cancel && !end.is_final() {
            end = End::Cancelled;
        }
        if end.is_final() {
            job.state = State::Ended(end);
            return;
        }
        if job.cancel_doubted {
            job.doubts.push(Disposition::Cancelled);
        }
        job.state = State::Waiting;
        match disposition {
            Disposition::Retry { after, .. } => {
                job.attempt += 1;
                job.retries += 1;
                job.due = Due::after(at, *after);
            }
            Disposition::Release { after, .. } => {
                job.releases += 1;
                job.due = Due::after(at, *after);
            }
            Disposition::Park { key, .. } => {
                job.releases += 1;
                job.parked = records.then(|| key.clone());
                job.due = Due::now(at);
            }
            _ => {}
        }
    }

    fn repeated(&mut self, _: At, settlement: &Settlement, outcome: &SettleOutcome) {
        let past = self.settled.get(&key(&settlement.receipt));
        let same = past == Some(&settlement.disposition);
        let doubted = self.jobs.get(&settlement.receipt.id).is_some_and(|job| !job.doubts.is_empty());
        let conflict = matches!(outcome, SettleOutcome::Conflict);
        let what = words::disposition(&settlement.disposition);
        // Where an answer was lost beneath, this is the first that anybody hears of it.
        let asked = self.asked.contains_key(&key(&settlement.receipt));
        if past.is_none() && (doubted || asked) {
            if !conflict {
                let disposition = settlement.disposition.clone();
                self.settled.insert(key(&settlement.receipt), disposition);
            }
        } else if conflict == same {
            let said = if conflict { "contradicted" } else { "settled already" };
            self.wrong_with(settlement.receipt.id, format!("told that {what} was {said}, which it was not"));
        }
    }

    fn lost(&mut self, at: At, settlement: &Settlement) {
        let doubted = self.jobs.get(&settlement.receipt.id).is_some_and(|job| !job.doubts.is_empty());
        if !doubted && self.holds(&settlement.receipt).is_some_and(|hold| hold.stands(at)) {
            self.wrong_with(settlement.receipt.id, "told that its lease is lost, which stands");
        }
    }

    /// Nobody hears what became of it.
    pub(in crate::simulation) fn settle_in_doubt(&mut self, batch: &[Settlement]) {
        for settlement in batch {
            let current = self.holds(&settlement.receipt).is_some();
            if let Some(job) = self.jobs.get_mut(&settlement.receipt.id)
                && current
                && !job.doubts.contains(&settlement.disposition)
            {
                job.doubts.push(settlement.disposition.clone());
            }
            let then: Vec<_> = settlement.then.iter().map(|follow_up| follow_up.envelope.clone()).collect();
            self.publish_in_doubt(&then);
        }
    }

    /// Signs of life are on their way.
    pub(in crate::simulation) fn beating(&mut self, beats: &[Beat]) {
        for beat in beats.iter().filter(|beat| beat.started) {
            if let Some(Job { state: State::Held(hold), .. }) = self.jobs.get_mut(&beat.receipt.id) {
                hold.starts = true;
            }
        }
    }

    /// A sign of life was answered.
    pub(in crate::simulation) fn beaten(&mut self, at: At, asked: Duration, beats: &[Beat], outcomes: &[BeatOutcome]) {
        if beats.len() != outcomes.len() {
            self.wrong(format!("{} beats were sent and {} answered", beats.len(), outcomes.len()));
        }
        let (slack, records, atomic) = (self.promises.slack, self.promises.records, self.promises.atomic);
        for (beat, outcome) in beats.iter().zip(outcomes) {
            let id = beat.receipt.id;
            // What was asked for and not answered may have ended it.
            let doubted = self.jobs.get(&id).is_some_and(|job| !job.doubts.is_empty());
            let hold = self.holds(&beat.receipt).map(|hold| hold.stands(at) && !doubted);
            match (outcome, hold) {
                (BeatOutcome::Lost, Some(true)) => self.wrong_with(id, "a beat says lost, and its lease stands"),
                // Where a call is many steps, it may have been settled since.
                (BeatOutcome::Held(_), None) if self.promises.atomic => {
                    self.wrong_with(id, "a beat says held, by a receipt that was stale")
                }
                (BeatOutcome::Held(lease), Some(_)) => {
                    let Some(job) = self.jobs.get_mut(&id) else { continue };
                    let untold = records && job.must_tell(asked, atomic) && lease.cancel.is_none();
                    if let State::Held(hold) = &mut job.state {
                        hold.marked |= beat.started;
                        hold.until = lease.remaining.map(|rest| at.mono + rest.saturating_sub(slack));
                    }
                    if untold {
                        self.wrong_with(id, "a beat says nothing of the cancel that was asked for");
                    }
                    let short = beat.extend.is_some_and(|extend| lease.remaining.is_some_and(|rest| rest < extend));
                    if short && self.promises.atomic {
                        self.wrong_with(id, "a beat gives less than the lease that was asked for");
                    }
                }
                (BeatOutcome::Unknown(_), Some(_)) if beat.started => self.start_in_doubt(id),
                _ => {}
            }
        }
    }

    /// It may be counted, and may not.
    fn start_in_doubt(&mut self, id: JobId) {
        if let Some(Job { state: State::Held(hold), .. }) = self.jobs.get_mut(&id) {
            hold.forgotten = true;
        }
    }

    /// Somebody asks a job to stop: where a call is many steps it may have stopped long before that is answered.
    pub(in crate::simulation) fn cancelling(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|_| !self.promises.atomic) {
            job.cancels_under_way += 1;
        }
    }

    /// Somebody asked a job to stop then, and was answered.
    pub(in crate::simulation) fn cancelled(&mut self, at: At, asked: Duration, id: JobId, outcome: CancelOutcome) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.cancels_under_way = job.cancels_under_way.saturating_sub(1);
        match outcome {
            CancelOutcome::Cancelled => {
                let over = job.is_over();
                let stands = job.stands(at);
                job.state = State::Ended(End::Cancelled);
                if over {
                    self.wrong_with(id, "cancelled after it had ended");
                } else if stands {
                    self.wrong_with(id, "cancelled as if it waited, and its lease stands");
                }
            }
            CancelOutcome::Requested => {
                job.cancel = true;
                job.cancel_since = at.mono;
                if !matches!(job.state, State::Held(_)) && self.promises.atomic {
                    self.wrong_with(id, "asked to stop as if it ran, and nobody has it");
                }
            }
            // The request may have arrived twice beneath: then it is cancelled, whatever is answered to those who settle it.
            CancelOutcome::AlreadyTerminal if !self.promises.atomic => {
                job.doubts.push(Disposition::Cancelled);
                job.cancel_doubted = true;
            }
            CancelOutcome::AlreadyTerminal => {
                if !job.may_be_over(at) && job.doubts.is_empty() {
                    self.wrong_with(id, "said to have ended, and it has not");
                }
            }
            // Its record begins at its claim where it was published without the store, and what was asked before then may be
            // answered long after.
            CancelOutcome::NotFound if !self.promises.atomic && job.recorded.is_none_or(|since| asked < since) => {}
            CancelOutcome::NotFound => {
                if job.offer == super::Offer::Accepted {
                    self.wrong_with(id, "said not to be there, and it was accepted");
                }
            }
        }
    }

    /// A cancel whose answer nobody hears: it may be asked for.
    pub(in crate::simulation) fn cancel_in_doubt(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.cancels_under_way = job.cancels_under_way.saturating_sub(1);
            job.doubts.push(Disposition::Cancelled);
            job.cancel_doubted = true;
        }
    }

    /// A dead job may have got another life.
    pub(in crate::simulation) fn redrive_in_doubt(&mut self, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.redriving = true;
        }
    }

    /// A dead job is to get another life.
    pub(in crate::simulation) fn redriving(&mut self, at: At, id: JobId) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|_| !self.promises.atomic) {
            (job.redriving, job.reborn, job.ttl_doubted) = (true, false, true);
            job.redrives_asked += 1;
            if matches!(job.state, State::Ended(End::Dead)) {
                job.lift_ttl(at);
            }
        }
    }

    /// A dead job got another life.
    pub(in crate::simulation) fn redriven(&mut self, at: At, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let was_dead = matches!(job.state, State::Ended(End::Dead));
        let seen = std::mem::take(&mut job.reborn);
        if seen || (std::mem::take(&mut job.redriving) && !was_dead) {
            // What followed from it was seen before its answer.
            job.redrives += 1;
            job.lift_ttl(at);
            return;
        }
        let doubted = !job.doubts.is_empty();
        job.state = State::Waiting;
        job.attempt = 1;
        job.begin_again(at);
        job.redrives += 1;
        job.due = Due::now(at);
        let (queue, envelope) = (job.queue.clone(), job.envelope.clone());
        if !was_dead && !doubted {
            self.wrong_with(id, "redriven, and it was not dead");
        }
        self.take_key(at, at.mono, &queue, &envelope);
    }

    /// Jobs parked under the key may run.
    pub(in crate::simulation) fn unparked(&mut self, queue: &QueueName, key: &ParkKey, n: usize) {
        let parked = |job: &&mut super::Job| job.queue == *queue && job.parked.as_ref() == Some(key);
        let mut count = 0;
        for job in self.jobs.values_mut().filter(parked) {
            count += 1;
            if n > 0 {
                // Nobody says which.
                job.fresh = false;
            }
        }
        if n > count && self.promises.atomic {
            self.wrong(format!("{n} jobs were unparked of {queue}, and {count} were parked"));
        }
    }
}

pub(super) fn key(receipt: &Receipt) -> (JobId, u64, u64) {
    (receipt.id, receipt.slot, receipt.epoch)
}
