//! Ending deliveries: the store first, then what follows, then the transport.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Envelope, Error, JobRef,
    provider::{Disposition, Receipt, ReleaseReason, SettleOutcome, Settlement},
    store::{TrackedOutcome, TrackedSettle},
};

use super::{
    away::{Asked, Key},
    desk::{Desk, Held, acknowledge, fence_of, give_back, key_of},
    options::IN_PLACE_AT_MOST,
    publish,
    rule::Rule,
};

/// A settlement of a tracked job, with its copy as long as that is in hand.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) settlement: Settlement,
    pub(super) held: Option<Held>,
    /// The copy that carries the job on, made once: a repetition must stage the same.
    successor: Option<Envelope>,
}

impl Pending {
    pub(super) fn key(&self) -> Key {
        key_of(&self.settlement.receipt)
    }

    pub(super) fn copy_receipt(&self) -> Option<Receipt> {
        self.held.as_ref().map(|held| held.receipt)
    }
}

impl Desk {
    pub(super) async fn settle(self: &Arc<Self>, batch: &[Settlement]) -> Vec<SettleOutcome> {
        let mut outcomes: Vec<Option<SettleOutcome>> = batch.iter().map(|_| None).collect();
        let (mut plain, mut tracked) = (Vec::new(), Vec::new());
        for (at, settlement) in batch.iter().enumerate() {
            if self.is_tracked(&settlement.receipt) { tracked.push(at) } else { plain.push(at) }
        }
        if !plain.is_empty() {
            let settlements: Vec<Settlement> = plain.iter().map(|at| batch[*at].clone()).collect();
            for (at, outcome) in plain.into_iter().zip(self.transport.settle(&settlements).await) {
                outcomes[at] = Some(outcome);
            }
        }
        let (mut places, mut pending) = (Vec::new(), Vec::new());
        for at in tracked {
            match self.prepare(&batch[at]).await {
                Ok(prepared) => {
                    places.push(at);
                    pending.push(prepared);
                }
                Err(outcome) => outcomes[at] = Some(outcome),
            }
        }
        for (at, outcome) in places.into_iter().zip(self.carry_out(pending).await) {
            outcomes[at] = Some(outcome);
        }
        let missing = || Error::new(queue_core::ErrorCode::Internal, "no answer came").at("settle");
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| SettleOutcome::Unknown(missing()))).collect()
    }

    /// What can be said without asking the store, or what it is to be asked.
    async fn prepare(&self, settlement: &Settlement) -> Result<Pending, SettleOutcome> {
        let key = key_of(&settlement.receipt);
        if let Some(waiting) = self.waiting_settlement(key) {
            if waiting.disposition == settlement.disposition {
                let message = "it waits for the store, which does not answer";
                return Err(SettleOutcome::Unknown(super::core::unavailable(message, self.core.scheme()).at("settle")));
            }
            if self.held().contains_key(&key) {
                // It will be carried out as it was said first.
                return Err(SettleOutcome::Conflict);
            }
            // Something was said before what waits, and settled: the store knows what.
        }
        let mut settlement = settlement.clone();
        for (index, follow_up) in settlement.then.iter_mut().enumerate() {
            follow_up.envelope = self.core.stamp(follow_up.envelope.clone());
            if self.core.keeps(Rule::FollowUpsAreCheckedFirst) {
                let spec = self.core.spec(&follow_up.queue).await;
                publish::check(&self.core, &spec, &follow_up.envelope).map_err(|error| {
                    let error = error.at("settle").on(&follow_up.queue);
                    SettleOutcome::NotSettled { then_index: Some(index), error }
                })?;
            }
        }
        let held = self.held().get(&key).cloned();
        let successor = held.as_ref().and_then(|held| self.successor(&settlement.disposition, held));
        Ok(Pending { settlement, held, successor })
    }

    /// The copy of the next attempt. `None`: the same copy comes back, or none does.
    fn successor(&self, disposition: &Disposition, held: &Held) -> Option<Envelope> {
        let Disposition::Retry { after, .. } = disposition else { return None };
        if self.is_in_place(*after) {
            return None;
        }
        let due = (!after.is_zero()).then(|| self.core.env.now() + *after);
        Some(held.envelope.edit(|copy| {
            copy.attempt = held.attempt.saturating_add(1);
            copy.generation = copy.generation.saturating_add(1);
            copy.deliveries = held.started_before;
            copy.not_before = due;
        }))
    }

    /// Where each message has its own lease a retry soon is a longer one. At once it is a copy: it joins the tail.
    fn is_in_place(&self, after: Duration) -> bool {
        let core = &self.core;
        core.options.retry_in_place && core.leases_are_per_message() && !after.is_zero() && after <= IN_PLACE_AT_MOST
    }

    /// The steps of the table, in their order, for a batch.
    pub(super) async fn carry_out(self: &Arc<Self>, batch: Vec<Pending>) -> Vec<SettleOutcome> {
        if batch.is_empty() {
            return Vec::new();
        }
        let core = Arc::clone(&self.core);
        if !core.keeps(Rule::StoreSettlesFirst) {
            self.settle_copies(batch.iter().filter_map(|pending| self.end_of(pending)).collect()).await;
        }
        let answers = self.ask_store(&batch).await;
        let (mut copies, mut ends, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
        for (pending, answer) in batch.into_iter().zip(answers) {
            let goes_on = match answer.outcome {
                SettleOutcome::Settled => true,
                SettleOutcome::AlreadySettled => core.keeps(Rule::RepeatGoesOn),
                _ => false,
            };
            if goes_on {
                copies.extend(self.copies_of(&pending, &answer));
                ends.extend(self.end_of(&pending));
            }
            ends.extend(self.conclude(pending, &answer.outcome));
            outcomes.push(answer.outcome);
        }
        // 2 publish · 3 acknowledge · 4 confirm.
        // From here on the copies are owed an end, whatever becomes of the caller; what is not published is promised.
        let ends = Asked::new(self, ends);
        let posted = core.post(&copies).await;
        ends.ask().await;
        core.confirm(&copies, &posted).await;
        outcomes
    }

    /// Step 1.
    async fn ask_store(&self, batch: &[Pending]) -> Vec<TrackedOutcome> {
        let core = &self.core;
        let settles: Vec<TrackedSettle> = batch
            .iter()
            .map(|pending| TrackedSettle {
                fence: fence_of(&pending.settlement.receipt),
                settlement: pending.settlement.clone(),
                successor: pending.successor.clone(),
            })
            .collect();
        let unknown = |error| TrackedOutcome::only(SettleOutcome::Unknown(error));
        fn unanswered(answer: &TrackedOutcome) -> Option<&Error> {
            match &answer.outcome {
                SettleOutcome::Unknown(error) => Some(error),
                _ => None,
            }
        }
        let call = core.store.settle(&settles, core.options.stage_lease);
        core.ask_each(settles.len(), call, unknown, unanswered).await
    }

    /// What the store says is left to publish.
    fn copies_of(&self, pending: &Pending, answer: &TrackedOutcome) -> Vec<(JobRef, Envelope)> {
        let successor = pending.successor.as_ref().filter(|_| answer.successor);
        let successor = successor.map(|copy| (JobRef::new(self.queue.clone(), copy.id), copy.clone()));
        let then = answer.then.iter().filter_map(|index| pending.settlement.then.get(*index));
        let then = then.map(|then| (JobRef::new(then.queue.clone(), then.envelope.id), then.envelope.clone()));
        successor.into_iter().chain(then).collect()
    }

    /// How the copy in hand ends when the store has settled.
    fn end_of(&self, pending: &Pending) -> Option<Settlement> {
        let receipt = pending.copy_receipt()?;
        let capped = |after: Duration| match self.core.transport.capabilities(None).delay_max {
            // It comes back early, and waits as busy for the rest.
            Some(cap) => after.min(cap),
            None => after,
        };
        Some(match &pending.settlement.disposition {
            Disposition::Release { after, reason } => give_back(receipt, capped(*after), *reason),
            Disposition::Retry { after, .. } if pending.successor.is_none() => {
                give_back(receipt, capped(*after), ReleaseReason::Snooze)
            }
            _ => acknowledge(receipt),
        })
    }

    /// Ends the bookkeeping. What else the transport must be told of a copy whose settlement was not won.
    fn conclude(self: &Arc<Self>, pending: Pending, outcome: &SettleOutcome) -> Option<Settlement> {
        let key = pending.key();
        match outcome {
            SettleOutcome::Settled | SettleOutcome::AlreadySettled => {
                self.held().remove(&key);
                None
            }
            SettleOutcome::LeaseLost | SettleOutcome::Conflict => {
                let held = self.held().remove(&key)?;
                self.lost_copy(held.receipt)
            }
            SettleOutcome::Unknown(_) if !self.core.keeps(Rule::NothingIsAcknowledgedWhileAway) => {
                self.held().remove(&key);
                self.end_of(&pending)
            }
            SettleOutcome::Unknown(_) => {
                self.keep_settlement(pending);
                None
            }
            SettleOutcome::NotSettled { .. } => None,
        }
    }
}
