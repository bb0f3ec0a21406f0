//! A provider that writes down what its consumers bring and what their settlements come to.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Consumer, JobId, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::Envelope,
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Capabilities, CloseReport, ConsumeOptions, Delivery, Lease, PairedStore, ParkKey,
        PublishOptions, PublishOutcome, QueueAdmin, Receipt, SettleOutcome, Settlement, Topics,
    },
};

use super::log::{Log, now};

/// No claim takes longer to be answered: its lease may have begun so long before it is seen.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) inner: Arc<dyn QueueProvider>,
    pub(crate) log: Arc<Log>,
}

#[async_trait]
impl QueueProvider for Tap {
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

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let inner = self.inner.consumer(queue, options).await?;
        Ok(Arc::new(TappedConsumer { inner, log: Arc::clone(&self.log) }))
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
struct TappedConsumer {
    inner: Arc<dyn Consumer>,
    log: Arc<Log>,
}

#[async_trait]
impl Consumer for TappedConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let asked = now();
        let deliveries = self.inner.fetch(max, wait).await?;
        if !deliveries.is_empty() {
            let since = asked.max(now().saturating_sub(nanos(ON_ITS_WAY)));
            self.log.fetched(deliveries.len());
            self.log.held(deliveries.iter().filter_map(|job| held(&job.receipt, &job.lease, since)));
        }
        Ok(deliveries)
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.log.gives_back(batch);
        let outcomes = self.inner.settle(batch).await;
        for (settlement, outcome) in batch.iter().zip(&outcomes) {
            let receipt = settlement.receipt;
            self.log.settled(receipt.id, receipt.epoch, &settlement.disposition, outcome);
        }
        outcomes
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let asked = now();
        let outcomes = self.inner.heartbeat(beats).await;
        self.log.held(beats.iter().zip(&outcomes).filter_map(|(beat, outcome)| match outcome {
            BeatOutcome::Held(lease) => held(&beat.receipt, lease, asked),
            BeatOutcome::Lost | BeatOutcome::Unknown(_) => None,
        }));
        outcomes
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.inner.demand(outstanding).await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.log.closes();
        self.inner.close(deadline).await
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Until when a lease stands that began then, where it has an end of its own.
fn held(receipt: &Receipt, lease: &Lease, since: u64) -> Option<(JobId, u64, u64)> {
    lease.remaining.map(|remaining| (receipt.id, receipt.epoch, since.saturating_add(nanos(remaining))))
}
