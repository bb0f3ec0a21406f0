//! A transport that cannot be closed: nobody answers any more.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, Error, ErrorCode, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin, Topics,
    },
};

#[derive(Debug)]
pub(crate) struct Unclosable(pub(crate) Arc<dyn QueueProvider>);

#[async_trait]
impl QueueProvider for Unclosable {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.0.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.0.declare(spec).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.0.drop_queue(queue, only_if_empty).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.0.publish(queue, batch, options).await
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.0.consumer(queue, options).await
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.0.admin()
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.0.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.0.job_store()
    }

    fn paired(&self) -> Option<PairedStore> {
        self.0.paired()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.0.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.0.unpark(queue, key, n).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.0.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }

    async fn close(&self) -> Result<()> {
        Err(Error::new(ErrorCode::Unavailable, "nobody answers"))
    }
}
