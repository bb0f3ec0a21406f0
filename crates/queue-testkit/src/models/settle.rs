//! What becomes of a delivery: what follows is published first, then the original is acknowledged.

use std::time::Duration;

use queue_core::{
    Envelope, Error, JobError,
    provider::{DeadBody, DeadJob, Disposition, Rejection, ReleaseReason, SettleOutcome, Settlement},
};

use super::{
    connection::{broken, unanswered},
    consumer::{ModelConsumer, address},
    faults::spend,
    line::Held,
    message::Reading,
    queue::Letter,
    state::State,
};

/// A bare transport cannot be told that a key is free, so a parked job looks again this often.
const PARK_POLL: Duration = Duration::from_secs(1);

/// How the original ends once its successor is safe.
enum End {
    Acknowledge,
    /// It is already back in its place.
    InPlace,
}

impl ModelConsumer {
    pub(super) fn settle_one(&self, state: &mut State, settlement: &Settlement) -> SettleOutcome {
        if self.link.is_crashed() {
            return SettleOutcome::LeaseLost;
        }
        if !state.shape.has_sessions()
            && let Err(error) = self.link.usable(state, "settle")
        {
            return if state.down {
                SettleOutcome::Unknown(error)
            } else {
                SettleOutcome::NotSettled { then_index: None, error }
            };
        }
        state.refresh(&self.queue);
        let Some(member) = state.members.get(&self.member()) else { return SettleOutcome::LeaseLost };
        match member.recall(&settlement.receipt) {
            Some(past) if *past == settlement.disposition => return SettleOutcome::AlreadySettled,
            Some(_) => return SettleOutcome::Conflict,
            None => {}
        }
        match self.held(state, settlement) {
            Some((envelope, held)) => self.carry_out(state, settlement, &envelope, &held),
            None => SettleOutcome::LeaseLost,
        }
    }

    /// The job, if the receipt is still good.
    fn held(&self, state: &State, settlement: &Settlement) -> Option<(Envelope, Held)> {
        let queue = state.queues.get(&self.queue)?;
        let held = queue.line.look(self.member(), address(&settlement.receipt))?;
        match held.message.read(&queue.spec) {
            Reading::Job(envelope) if envelope.id == settlement.receipt.id => Some((envelope, held)),
            _ => None,
        }
    }

    fn carry_out(&self, state: &mut State, settlement: &Settlement, job: &Envelope, held: &Held) -> SettleOutcome {
        if let Err((then_index, error)) = publish_follow_ups(state, settlement) {
            return SettleOutcome::NotSettled { then_index: Some(then_index), error };
        }
        let end = match self.succeed(state, settlement, job, held) {
            Ok(end) => end,
            Err(error) => return SettleOutcome::NotSettled { then_index: None, error },
        };
        if spend(&mut state.faults.crashes_before_ack) {
            self.link.crash(state);
            return SettleOutcome::Unknown(broken("settle", self.link.scheme()));
        }
        let member = self.member();
        let lost = spend(&mut state.faults.lost_settle_replies);
        // Only sent: if the frame is lost nobody learns of it, and the broker still waits for it.
        let unheard = lost && !state.can.settle_confirmed;
        if let (End::Acknowledge, false, Some(queue)) = (end, unheard, state.queues.get_mut(&self.queue)) {
            queue.line.finish(member, address(&settlement.receipt));
        }
        self.count(state, &settlement.disposition);
        if let Some(member) = state.members.get_mut(&member) {
            member.remember(settlement.receipt, settlement.disposition.clone());
        }
        if lost && !unheard { SettleOutcome::Unknown(unanswered("settle")) } else { SettleOutcome::Settled }
    }

    /// Makes safe whatever the disposition leaves behind.
    fn succeed(&self, state: &mut State, settlement: &Settlement, job: &Envelope, held: &Held) -> Result<End, Error> {
        match &settlement.disposition {
            Disposition::Complete { .. } | Disposition::Cancelled | Disposition::Expired => Ok(End::Acknowledge),
            Disposition::Retry { after, .. } => {
                let next = job.edit(|parts| {
                    parts.attempt = parts.attempt.saturating_add(1);
                    parts.generation = parts.generation.saturating_add(1);
                });
                self.send_copy(state, &next, held, *after, true)
            }
            Disposition::Release { after, reason } => {
                // Elsewhere a copy, which starts with a clean count: a receive that spends no attempt is no crash.
                let in_place = after.is_zero() || *reason == ReleaseReason::NewerFormat;
                let (member, address) = (self.member(), address(&settlement.receipt));
                let queue = state.queues.get_mut(&self.queue).filter(|_| in_place);
                if queue.is_some_and(|queue| queue.line.put_back(member, address, *after)) {
                    return Ok(End::InPlace);
                }
                self.send_copy(state, job, held, *after, held.message.retry)
            }
            Disposition::Park { at_most, .. } => {
                self.send_copy(state, job, held, (*at_most).min(PARK_POLL), held.message.retry)
            }
            Disposition::DeadLetter { error } => self.bury(state, job, error),
        }
    }

    /// Publishes a copy that may run after the delay. The count of starts goes with it.
    fn send_copy(
        &self,
        state: &mut State,
        job: &Envelope,
        held: &Held,
        after: Duration,
        retry: bool,
    ) -> Result<End, Error> {
        let due = (!after.is_zero()).then(|| state.ground.wall() + after);
        let copy = job.edit(|parts| {
            parts.not_before = due;
            parts.deliveries = parts.deliveries.saturating_add(held.starts);
        });
        let letter = Letter { wire: copy.encode(), band: copy.priority.band(), retry, delay: after };
        state.send(&self.queue, letter).map_err(Error::from)?;
        Ok(End::Acknowledge)
    }

    fn bury(&self, state: &mut State, job: &Envelope, error: &JobError) -> Result<End, Error> {
        let dead = DeadJob {
            id: job.id,
            body: DeadBody::Envelope(job.clone()),
            error: error.clone(),
            attempt: job.attempt,
            died_at: state.ground.wall(),
        };
        state.bury(&self.queue, dead)?;
        Ok(End::Acknowledge)
    }

    fn count(&self, state: &mut State, disposition: &Disposition) {
        let Some(queue) = state.queues.get_mut(&self.queue) else { return };
        match disposition {
            Disposition::Complete { .. } => queue.totals.completed += 1,
            Disposition::Retry { .. } | Disposition::DeadLetter { .. } => queue.totals.failed += 1,
            _ => {}
        }
    }
}

/// Checks all before it publishes the first, so that what can never be published leaves nothing behind.
fn publish_follow_ups(state: &mut State, settlement: &Settlement) -> Result<(), (usize, Error)> {
    let at = |index| move |rejection: Rejection| (index, Error::from(rejection));
    for (index, follow_up) in settlement.then.iter().enumerate() {
        state.check(&follow_up.queue, &follow_up.envelope).map_err(at(index))?;
    }
    for (index, follow_up) in settlement.then.iter().enumerate() {
        state.publish(&follow_up.queue, &follow_up.envelope).map_err(at(index))?;
    }
    Ok(())
}
