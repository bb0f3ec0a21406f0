//! Defects that only time, crashes and interleavings bring to light: what the saboteur's layer has no name for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, JobId, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Capabilities, CloseReport, ConsumeOptions, Delivery, Disposition, PairedStore, ParkKey,
        PublishOptions, PublishOutcome, QueueAdmin, SettleOutcome, Settlement, Topics,
    },
};

use super::world::{Graft, Plant};

/// A defect to be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weed {
    /// A claim says that it is leased, and nothing ends the lease: a job may run for ever without one.
    ActiveWithoutLease,
    /// Each retry is counted as two attempts.
    AttemptCountedTwice,
    /// What was scheduled is given out to two consumers when it is due.
    PromotedTwice,
    /// A retry acknowledges the original, and then publishes its copy.
    AcknowledgedBeforeSuccessor,
    /// What follows could not be published, and the job is settled all the same.
    SettledDespiteSuccessor,
    /// A settlement that was not carried out is answered as if it had been, once in a while.
    SettlementForgotten,
    /// A claim is taken for free again when its lease is renewed late in its life.
    RenewedTooLate,
}

impl Weed {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::ActiveWithoutLease,
        Self::AttemptCountedTwice,
        Self::PromotedTwice,
        Self::AcknowledgedBeforeSuccessor,
        Self::SettledDespiteSuccessor,
        Self::SettlementForgotten,
        Self::RenewedTooLate,
    ];
}

impl Plant for Weed {
    fn sow(&self) -> Arc<dyn Graft> {
        Arc::new(Root { weed: *self, soil: Arc::default() })
    }
}

/// What a weed remembers.
#[derive(Debug, Default)]
struct Soil {
    retries: BTreeMap<JobId, u32>,
    again: Vec<Delivery>,
    given: BTreeMap<JobId, Envelope>,
    settled: u64,
}

#[derive(Debug, Clone)]
struct Root {
    weed: Weed,
    soil: Arc<Mutex<Soil>>,
}

impl Root {
    fn soil(&self) -> MutexGuard<'_, Soil> {
        self.soil.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Graft for Root {
    fn around(&self, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(WeedyProvider { root: self.clone(), inner: provider })
    }
}

#[derive(Debug)]
struct WeedyProvider {
    root: Root,
    inner: Arc<dyn QueueProvider>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueProvider for WeedyProvider {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.inner.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.inner.declare(spec).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.inner.drop_queue(queue, only_if_empty).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.inner.publish(queue, batch, options).await
    }

    async fn consumer(&self, queue: &QueueName, mut options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let lease = options.lease;
        if self.root.weed == Weed::ActiveWithoutLease {
            options.lease = Duration::from_secs(86_400);
        }
        let inner = self.inner.consumer(queue, options).await?;
        let provider = Arc::clone(&self.inner);
        Ok(Arc::new(WeedyConsumer { root: self.root.clone(), inner, provider, queue: queue.clone(), lease }))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.inner.admin()
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.inner.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.inner.job_store()
    }

    fn paired(&self) -> Option<PairedStore> {
        self.inner.paired()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.inner.unpark(queue, key, n).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.inner.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct WeedyConsumer {
    root: Root,
    inner: Arc<dyn Consumer>,
    provider: Arc<dyn QueueProvider>,
    queue: QueueName,
    lease: Duration,
}

impl WeedyConsumer {
    fn is(&self, weed: Weed) -> bool {
        self.root.weed == weed
    }

    fn show(&self, delivery: &mut Delivery) {
        let mut soil = self.root.soil();
        let id = delivery.envelope.id;
        soil.given.insert(id, delivery.envelope.clone());
        match self.root.weed {
            Weed::ActiveWithoutLease => delivery.lease.remaining = Some(self.lease),
            Weed::AttemptCountedTwice => delivery.attempt += soil.retries.get(&id).copied().unwrap_or(0),
            Weed::PromotedTwice if delivery.envelope.not_before.is_some() && delivery.attempt == 1 => {
                soil.again.push(delivery.clone());
            }
            _ => {}
        }
    }

    async fn settle_one(&self, settlement: &Settlement) -> Option<SettleOutcome> {
        let id = settlement.receipt.id;
        let done = Settlement::new(settlement.receipt, Disposition::Complete { result: None });
        if let (Weed::AcknowledgedBeforeSuccessor, Disposition::Retry { after, .. }) =
            (self.root.weed, &settlement.disposition)
        {
            let job = self.root.soil().given.get(&id).cloned()?;
            let outcome = self.inner.settle(&[done]).await.pop();
            if matches!(outcome, Some(SettleOutcome::Settled)) {
                tokio::time::sleep((*after).max(Duration::from_millis(1))).await;
                let copy = job.edit(|job| job.attempt += 1);
                self.provider.publish(&self.queue, vec![copy], &PublishOptions::default()).await;
            }
            return outcome;
        }
        let forgets = {
            let mut soil = self.root.soil();
            soil.settled += 1;
            self.is(Weed::SettlementForgotten) && soil.settled.is_multiple_of(11)
        };
        if forgets {
            return Some(SettleOutcome::Settled);
        }
        let outcome = self.inner.settle(std::slice::from_ref(settlement)).await.pop()?;
        match outcome {
            SettleOutcome::Settled if matches!(settlement.disposition, Disposition::Retry { .. }) => {
                *self.root.soil().retries.entry(id).or_default() += 1;
                Some(outcome)
            }
            SettleOutcome::NotSettled { .. } if self.is(Weed::SettledDespiteSuccessor) => {
                self.inner.settle(&[done]).await.pop()
            }
            outcome => Some(outcome),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Consumer for WeedyConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        if self.is(Weed::PromotedTwice) {
            let again = std::mem::take(&mut self.root.soil().again);
            if !again.is_empty() {
                return Ok(again);
            }
        }
        let mut got = self.inner.fetch(max, wait).await?;
        got.iter_mut().for_each(|delivery| self.show(delivery));
        Ok(got)
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for settlement in batch {
            outcomes.extend(self.settle_one(settlement).await);
        }
        outcomes
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let mut beats = beats.to_vec();
        if self.is(Weed::RenewedTooLate) {
            beats.iter_mut().for_each(|beat| beat.extend = beat.extend.map(|lease| lease / 8));
        }
        if self.is(Weed::ActiveWithoutLease) {
            beats.iter_mut().for_each(|beat| beat.extend = None);
        }
        let outcomes = self.inner.heartbeat(&beats).await;
        let shown = outcomes.into_iter().map(|outcome| match outcome {
            BeatOutcome::Held(mut lease) if self.is(Weed::ActiveWithoutLease) => {
                lease.remaining = Some(self.lease);
                BeatOutcome::Held(lease)
            }
            outcome => outcome,
        });
        shown.collect()
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.inner.demand(outstanding).await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.inner.close(deadline).await
    }
}
