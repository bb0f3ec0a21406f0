//! A provider behind a wire.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, LeaseModel, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin,
        Rejection, Topics,
    },
};

use super::{Call, Line, Silence, admin::AdminWire, consumer::ConsumerWire, store::StoreWire};
use crate::simulation::words;

#[derive(Debug)]
pub(in crate::simulation) struct Wire {
    line: Line,
    inner: Arc<dyn QueueProvider>,
    /// Nothing is between it and the process.
    outer: bool,
    /// A copy of a request makes no copy of a job.
    dedup: bool,
    sessions: bool,
}

impl Wire {
    pub(super) fn new(line: Line, inner: Arc<dyn QueueProvider>, outer: bool) -> Self {
        let can = inner.capabilities(None);
        let sessions = matches!(can.lease, LeaseModel::Session { .. });
        Self { line, outer, dedup: can.dedup_by_id.is_supported(), sessions, inner }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueProvider for Wire {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.inner.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        let call = Call::of("declare").repeats(true).quiet();
        self.line.carry(call, || self.inner.declare(spec), |silence| Err(silence.error()), words::result).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        let work = || self.inner.drop_queue(queue, only_if_empty);
        self.line.carry(Call::of("drop_queue"), work, |silence| Err(silence.error()), words::result).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let silent = |silence| {
            let outcome = match silence {
                Silence::Refused(error) => PublishOutcome::Rejected(Rejection::Unavailable(error)),
                Silence::Lost(error) => PublishOutcome::Unknown(error),
            };
            vec![outcome; batch.len()]
        };
        let work = || self.inner.publish(queue, batch.clone(), options);
        let tell = |outcomes: &Vec<PublishOutcome>| words::published(&batch, outcomes);
        let outcomes = self.line.carry(Call::of("publish").repeats(self.dedup), work, silent, tell).await;
        if !self.outer {
            let taken = batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_accepted());
            self.line.life.sim().judge(|shadow, _| shadow.copies_published(taken.map(|(copy, _)| copy)));
        }
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let work = || self.inner.consumer(queue, options.clone());
        // Who does not hear of it has no consumer: it is dropped, and its session ends.
        let call = Call::of("consumer");
        let tell = |answer: &Result<Arc<dyn Consumer>>| words::outcome(answer, |_| "open".to_owned());
        let inner = self.line.carry(call, work, |silence| Err(silence.error()), tell).await?;
        Ok(Arc::new(ConsumerWire::new(self.line.clone(), inner, self.outer, self.sessions)))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(AdminWire::new(self.line.clone(), self.inner.admin()))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.inner.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        let inner = self.inner.job_store()?;
        Some(Arc::new(StoreWire::new(self.line.clone(), inner)))
    }

    fn paired(&self) -> Option<PairedStore> {
        self.inner.paired()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        let work = || self.inner.unpark(queue, key, n);
        self.line.carry(Call::of("unpark"), work, |silence| Err(silence.error()), words::number).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        let call = Call::of("maintain").repeats(true).quiet();
        let tell = |answer: &Result<Duration>| words::outcome(answer, |next| format!("again in {next:?}"));
        self.line.carry(call, || self.inner.maintain(leading), |silence| Err(silence.error()), tell).await
    }

    async fn ping(&self) -> Result<()> {
        let call = Call::of("ping").quiet();
        self.line.carry(call, || self.inner.ping(), |silence| Err(silence.error()), words::result).await
    }

    async fn close(&self) -> Result<()> {
        self.line.carry(Call::of("close"), || self.inner.close(), |silence| Err(silence.error()), words::result).await
    }
}
