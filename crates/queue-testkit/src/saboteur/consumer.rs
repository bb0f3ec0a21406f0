//! Defects of fetching, settling, beating and closing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, JobError, JobId, QueueName, QueueProvider, Result,
    provider::{
        Beat, BeatOutcome, CloseReport, Delivery, Disposition, Lease, PublishOptions, ReleaseReason, SettleOutcome,
        Settlement,
    },
};
use tokio::time::sleep;

use super::{Defect, Shared};

#[derive(Debug)]
pub(super) struct SabotagedConsumer {
    inner: Arc<dyn Consumer>,
    provider: Arc<dyn QueueProvider>,
    queue: QueueName,
    lease: Duration,
    shared: Arc<Shared>,
    /// What the last fetch gave out, where it is to be given out again.
    last: Mutex<Vec<Delivery>>,
}

impl SabotagedConsumer {
    pub(super) fn new(
        inner: Arc<dyn Consumer>,
        provider: Arc<dyn QueueProvider>,
        queue: QueueName,
        lease: Duration,
        shared: Arc<Shared>,
    ) -> Self {
        Self { inner, provider, queue, lease, shared, last: Mutex::default() }
    }

    fn is(&self, defect: Defect) -> bool {
        self.shared.is(defect)
    }

    async fn get(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        match self.shared.defect {
            Some(Defect::MaxIgnored) => self.inner.fetch(max.saturating_mul(2), wait).await,
            Some(Defect::FetchReturnsEarly) => self.inner.fetch(max, wait / 10).await,
            Some(Defect::WakeUpLost) => {
                let got = self.inner.fetch(max, Duration::ZERO).await?;
                if !got.is_empty() {
                    return Ok(got);
                }
                sleep(wait).await;
                self.inner.fetch(max, Duration::ZERO).await
            }
            Some(Defect::DeliveredTwice) => {
                let last = std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner));
                if !last.is_empty() {
                    return Ok(last);
                }
                let got = self.inner.fetch(max, wait).await?;
                self.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&got);
                Ok(got)
            }
            _ => self.inner.fetch(max, wait).await,
        }
    }

    /// What a defect makes of a delivery on its way out.
    fn show(&self, delivery: &mut Delivery) {
        let mut state = self.shared.state();
        let id = delivery.envelope.id;
        if self.is(Defect::RetryLeavesPartition) && delivery.envelope.partition().is_some() {
            state.given.insert(id, delivery.envelope.clone());
        }
        if let Some(original) = state.originals.get(&id) {
            delivery.envelope = original.clone();
        }
        match self.shared.defect {
            Some(Defect::RedeliveredNeverSet) => delivery.redelivered = false,
            Some(Defect::AttemptRaisedByLoss) => delivery.attempt += u32::from(delivery.redelivered),
            Some(Defect::CancelNotDelivered) => delivery.lease.cancel = None,
            Some(Defect::RedriveKeepsAttempt) => {
                delivery.attempt = state.died_in.get(&id).copied().unwrap_or(delivery.attempt);
            }
            Some(Defect::EveryDeliveryCounted) => {
                let before = state.delivered.entry(id).or_insert(0);
                delivery.started_before = *before;
                *before += 1;
            }
            _ => {}
        }
    }

    /// What a defect makes of a settlement on its way in.
    fn change(&self, settlement: &Settlement, full: bool) -> Settlement {
        let mut changed = settlement.clone();
        let zero = Duration::ZERO;
        let copied = self.shared.state().given.contains_key(&settlement.receipt.id);
        changed.disposition = match (self.shared.defect, changed.disposition) {
            (Some(Defect::RetryDelayIgnored), Disposition::Retry { error, .. }) => {
                Disposition::Retry { after: zero, error }
            }
            (Some(Defect::RetryKeepsAttempt), Disposition::Retry { after, .. }) => {
                Disposition::Release { after, reason: ReleaseReason::Snooze }
            }
            // Its copy is published elsewhere.
            (Some(Defect::RetryLeavesPartition), Disposition::Retry { .. }) if copied => {
                Disposition::Complete { result: None }
            }
            (Some(Defect::RetryIntoFullLost), Disposition::Retry { .. }) if full => {
                Disposition::Complete { result: None }
            }
            (Some(Defect::ReleaseDelayIgnored), Disposition::Release { reason, .. }) => {
                Disposition::Release { after: zero, reason }
            }
            (Some(Defect::ReleaseRaisesAttempt), Disposition::Release { after, .. }) => {
                Disposition::Retry { after, error: JobError::custom("RELEASED", "handed back") }
            }
            (Some(Defect::ReleaseToTail), Disposition::Release { after, reason }) if after.is_zero() => {
                Disposition::Release { after: Duration::from_millis(1), reason }
            }
            (Some(Defect::ResultLost), Disposition::Complete { .. }) => Disposition::Complete { result: None },
            (Some(Defect::ParkIgnored), Disposition::Park { .. }) => {
                Disposition::Release { after: zero, reason: ReleaseReason::Limited }
            }
            (Some(Defect::AtMostForgotten), Disposition::Park { key, .. }) => {
                Disposition::Park { key, at_most: Duration::from_secs(86_400 * 365) }
            }
            (_, disposition) => disposition,
        };
        if self.is(Defect::FollowUpsDropped) {
            changed.then.clear();
        }
        changed
    }

    /// Whether the queue holds as much as it may.
    async fn full(&self) -> bool {
        let Some(max_len) = self.shared.state().max_len.get(&self.queue).copied() else { return false };
        if !self.is(Defect::RetryIntoFullLost) {
            return false;
        }
        let stats = self.provider.admin().stats(std::slice::from_ref(&self.queue)).await;
        stats.iter().flatten().any(|stats| stats.waiting() >= max_len)
    }

    /// Retries by a copy that has lost its partition.
    async fn copy_out(&self, settlement: &Settlement) {
        let Disposition::Retry { .. } = settlement.disposition else { return };
        let Some(job) = self.shared.state().given.get(&settlement.receipt.id).cloned() else { return };
        let copy = job.edit(|copy| {
            copy.id = JobId::derive(job.id.as_bytes(), 55);
            copy.attempt += 1;
            copy.headers = queue_core::job::RawHeaders::default();
        });
        self.provider.publish(&self.queue, vec![copy], &PublishOptions::default()).await;
    }

    async fn publish_then(&self, settlement: &Settlement, fresh: bool) {
        for follow_up in &settlement.then {
            let id = if fresh { JobId::derive(follow_up.envelope.id.as_bytes(), 99) } else { follow_up.envelope.id };
            let copy = follow_up.envelope.edit(|job| job.id = id);
            self.provider.publish(&follow_up.queue, vec![copy], &PublishOptions::default()).await;
        }
    }

    /// What a defect makes of an answer.
    async fn answer(&self, settlement: &Settlement, outcome: SettleOutcome) -> SettleOutcome {
        match (self.shared.defect, outcome) {
            (Some(Defect::StaleAccepted), SettleOutcome::LeaseLost) => SettleOutcome::Settled,
            (Some(Defect::StaleFollowUps), SettleOutcome::LeaseLost) => {
                self.publish_then(settlement, false).await;
                SettleOutcome::LeaseLost
            }
            (Some(Defect::ReplayIsSettled), SettleOutcome::AlreadySettled) => {
                self.publish_then(settlement, true).await;
                SettleOutcome::Settled
            }
            (Some(Defect::ConflictHidden), SettleOutcome::Conflict) => SettleOutcome::AlreadySettled,
            (Some(Defect::UnfitFollowUpSettles), SettleOutcome::NotSettled { .. }) => {
                let alone = Settlement { then: Vec::new(), ..settlement.clone() };
                self.inner.settle(&[alone]).await.pop().unwrap_or(SettleOutcome::Settled)
            }
            (_, outcome) => outcome,
        }
    }
}

#[async_trait]
impl Consumer for SabotagedConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut got = self.get(max, wait).await?;
        got.iter_mut().for_each(|delivery| self.show(delivery));
        if self.is(Defect::OrderReversed) {
            got.reverse();
        }
        Ok(got)
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        if self.is(Defect::SettleDropped) {
            let mut state = self.shared.state();
            let first = |settlement: &Settlement| state.dropped.insert(settlement.receipt);
            let said: Vec<bool> = batch.iter().map(first).collect();
            let words = said
                .into_iter()
                .map(|first| if first { SettleOutcome::Settled } else { SettleOutcome::AlreadySettled });
            return words.collect();
        }
        let full = self.full().await;
        let mut changed: Vec<Settlement> = batch.iter().map(|settlement| self.change(settlement, full)).collect();
        let lost = (self.is(Defect::BatchSettleLost) && changed.len() > 1).then(|| changed.pop()).is_some();
        let mut outcomes = Vec::with_capacity(batch.len());
        for (settlement, outcome) in changed.iter().zip(self.inner.settle(&changed).await) {
            outcomes.push(self.answer(settlement, outcome).await);
        }
        if self.is(Defect::RetryLeavesPartition) {
            for settlement in batch {
                self.copy_out(settlement).await;
            }
        }
        if lost {
            outcomes.push(SettleOutcome::Settled);
        }
        if self.is(Defect::SettleOutcomesSwapped) {
            outcomes.reverse();
        }
        outcomes
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let mut changed = beats.to_vec();
        for beat in &mut changed {
            match self.shared.defect {
                Some(Defect::NeverExtended) => beat.extend = None,
                Some(Defect::BeatAlwaysExtends) => beat.extend = beat.extend.or(Some(self.lease)),
                Some(Defect::StartedNotCounted) => beat.started = false,
                Some(Defect::ProgressLost) => beat.progress = None,
                Some(Defect::LogsLost) => beat.logs.clear(),
                _ => {}
            }
        }
        let outcomes = self.inner.heartbeat(&changed).await;
        let shown = beats.iter().zip(outcomes).map(|(beat, outcome)| match outcome {
            BeatOutcome::Lost if self.is(Defect::HeldAlways) => {
                BeatOutcome::Held(Lease { remaining: beat.extend, cancel: None })
            }
            BeatOutcome::Held(lease) if self.is(Defect::NeverExtended) => {
                BeatOutcome::Held(Lease { remaining: beat.extend.or(lease.remaining), ..lease })
            }
            BeatOutcome::Held(lease) if self.is(Defect::CancelNotDelivered) => {
                BeatOutcome::Held(Lease { cancel: None, ..lease })
            }
            outcome => outcome,
        });
        shown.collect()
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        let ignored = (self.is(Defect::DemandIgnored) && outstanding > 0) || self.is(Defect::DemandZeroIgnored);
        if ignored { Ok(()) } else { self.inner.demand(outstanding).await }
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        match self.shared.defect {
            Some(Defect::CloseIgnored) => return CloseReport::default(),
            Some(Defect::CloseNeverWaits) => return self.inner.close(Duration::ZERO).await,
            Some(Defect::CloseLosesBuffer) => {
                // As if it had prefetched them: leased here, and forgotten.
                let _ = self.inner.fetch(1_000, Duration::ZERO).await;
                return self.inner.close(Duration::ZERO).await;
            }
            _ => {}
        }
        self.inner.close(deadline).await
    }
}
