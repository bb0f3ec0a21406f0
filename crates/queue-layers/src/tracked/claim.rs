//! Who may run what the transport delivered.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, JobRef,
    provider::{Delivery, Disposition, Receipt, ReleaseReason, Settlement},
    store::{Claim, Lookup, Verdict},
};

use super::{
    desk::{Desk, Held, acknowledge, give_back, key_of, receipt_of},
    options::BUSY_AT_LEAST,
    rule::Rule,
};

impl Desk {
    /// The deliveries that this worker may run. What becomes of the others is done when it returns.
    pub(super) async fn judge(self: &Arc<Self>, got: Vec<Delivery>) -> Vec<Delivery> {
        let (mut run, mut ends, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for mut delivery in got {
            let stamp = delivery.envelope.store;
            if stamp.is_none() && self.untracked {
                run.push(delivery);
            } else if stamp.is_some_and(|id| id != self.core.store_id()) && self.core.keeps(Rule::ForeignIsLeftAlone) {
                ends.push(self.leave_alone(&delivery));
            } else {
                delivery.envelope = self.core.stamp(delivery.envelope);
                asked.push(delivery);
            }
        }
        self.claim(asked, &mut run, &mut ends).await;
        self.settle_copies(ends).await;
        self.still_held(run)
    }

    /// What was claimed waited until the other copies were settled, and its lease counted on. What it outlasted is given up
    /// unseen: others may have it.
    fn still_held(&self, run: Vec<Delivery>) -> Vec<Delivery> {
        if !self.core.keeps(Rule::LeaseCountsFromTheAsking) {
            return run;
        }
        let (now, held) = (self.core.now(), self.held());
        let left = |mut delivery: Delivery| {
            let Some(until) = held.get(&key_of(&delivery.receipt)).map(|held| held.until) else {
                return Some(delivery);
            };
            let left = until.checked_sub(now).filter(|left| !left.is_zero())?;
            delivery.lease.remaining = delivery.lease.remaining.map(|remaining| remaining.min(left));
            Some(delivery)
        };
        run.into_iter().filter_map(left).collect()
    }

    /// Another store has its record, or will adopt it: running it here would let it run twice.
    fn leave_alone(&self, delivery: &Delivery) -> Settlement {
        let message = "a job of this queue belongs to another store than this consumer's: start it with the same store";
        let error = Error::new(ErrorCode::ForeignStore, message).at("fetch").by(self.core.scheme()).on(&self.queue);
        *self.foreign.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
        give_back(delivery.receipt, self.core.options.busy_at_most, ReleaseReason::Busy)
    }

    async fn claim(self: &Arc<Self>, asked: Vec<Delivery>, run: &mut Vec<Delivery>, ends: &mut Vec<Settlement>) {
        if asked.is_empty() {
            return;
        }
        let core = &self.core;
        let claim = |delivery: &Delivery| {
            let job = JobRef { queue: self.queue.clone(), id: delivery.envelope.id, place: delivery.place };
            let (provider, envelope) = (core.name.clone(), delivery.envelope.clone());
            Claim { provider, job, envelope, worker: self.worker.clone(), lease: self.lease }
        };
        let claims: Vec<Claim> = asked.iter().map(claim).collect();
        let before = core.now();
        let verdicts = self.ask(&claims).await;
        let spent = match core.keeps(Rule::LeaseCountsFromTheAsking) {
            true => core.now().saturating_sub(before),
            false => Duration::ZERO,
        };
        for (delivery, verdict) in asked.into_iter().zip(verdicts) {
            let receipt = delivery.receipt;
            match verdict {
                Verdict::Run { .. } => run.extend(self.take(delivery, &verdict, spent)),
                Verdict::Drop if core.keeps(Rule::OutdatedIsDropped) => ends.push(acknowledge(receipt)),
                Verdict::Drop => ends.push(give_back(receipt, BUSY_AT_LEAST, ReleaseReason::Busy)),
                Verdict::Busy { .. } if !core.keeps(Rule::BusyIsKept) => ends.push(acknowledge(receipt)),
                Verdict::Busy { remaining } => ends.push(self.later(receipt, remaining)),
                Verdict::Unknown(_) if !core.keeps(Rule::NoFenceNoRun) => run.push(delivery),
                Verdict::Unknown(_) if core.keeps(Rule::UnansweredClaimGoesBack) => {
                    ends.push(give_back(receipt, core.options.release_delay, ReleaseReason::Busy));
                }
                Verdict::Unknown(_) => {}
            }
        }
    }

    async fn ask(&self, claims: &[Claim]) -> Vec<Verdict> {
        if self.core.keeps(Rule::ClaimAdopts) {
            return self.claim_in_store(claims).await;
        }
        let mut verdicts = Vec::new();
        for claim in claims {
            match self.core.store.get(std::slice::from_ref(&claim.job)).await.pop() {
                Some(Ok(Lookup::NotFound)) => verdicts.push(Verdict::Drop),
                _ => verdicts.extend(self.claim_in_store(std::slice::from_ref(claim)).await),
            }
        }
        verdicts
    }

    async fn claim_in_store(&self, claims: &[Claim]) -> Vec<Verdict> {
        let core = &self.core;
        fn unanswered(verdict: &Verdict) -> Option<&Error> {
            match verdict {
                Verdict::Unknown(error) => Some(error),
                _ => None,
            }
        }
        core.ask_each(claims.len(), core.store.claim(claims), Verdict::Unknown, unanswered).await
    }

    /// Another has it for now, or it is not due. A parked job's old copy comes to look soon, and is dropped once it is old.
    fn later(&self, receipt: Receipt, remaining: Duration) -> Settlement {
        let most = match self.core.keeps(Rule::BusyIsShort) {
            true => self.core.options.busy_at_most,
            false => Duration::MAX,
        };
        give_back(receipt, remaining.clamp(BUSY_AT_LEAST.min(most), most), ReleaseReason::Busy)
    }

    /// In hand: the worker gets the record's numbers, and what remains of the lease by the local clock.
    fn take(&self, delivery: Delivery, verdict: &Verdict, spent: Duration) -> Option<Delivery> {
        let Verdict::Run { fence, lease, attempt, started_before, redelivered } = verdict else { return None };
        let mut lease = lease.clone();
        lease.remaining = lease.remaining.map(|remaining| remaining.saturating_sub(spent));
        let (started_before, redelivered) = match self.core.keeps(Rule::RecordCountsStarts) {
            true => (*started_before, *redelivered),
            false => (delivery.started_before, delivery.redelivered),
        };
        let receipt = receipt_of(*fence);
        let envelope = delivery.envelope.clone();
        let until = self.lease_end(&lease);
        let held = Held { receipt: delivery.receipt, envelope, attempt: *attempt, started_before, until };
        self.held().insert(key_of(&receipt), held);
        Some(Delivery { receipt, lease, attempt: *attempt, started_before, redelivered, ..delivery })
    }

    /// What was claimed while the consumer was closed goes back at once.
    pub(super) async fn return_unstarted(self: &Arc<Self>, deliveries: Vec<Delivery>) -> usize {
        let release = |delivery: &Delivery| {
            let disposition = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
            Settlement::new(delivery.receipt, disposition)
        };
        let batch: Vec<Settlement> = deliveries.iter().map(release).collect();
        self.settle(&batch).await;
        batch.len()
    }
}
