//! Memory with topics of a provider's own put in front, as a broker with exchanges has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::Envelope,
    limit::Limiter,
    provider::{Capabilities, ConsumeOptions, ParkKey, PublishOptions, PublishOutcome, QueueAdmin, Rejection, Topics},
};
use queue_memory::MemoryProvider;

#[derive(Debug)]
pub(crate) struct NativeTopics {
    memory: MemoryProvider,
    exchange: Arc<Exchange>,
}

#[derive(Debug)]
struct Exchange {
    memory: MemoryProvider,
    bindings: Mutex<BTreeMap<QueueName, BTreeSet<QueueName>>>,
}

impl NativeTopics {
    pub(crate) fn new(memory: MemoryProvider) -> Self {
        let exchange = Arc::new(Exchange { memory: memory.clone(), bindings: Mutex::default() });
        Self { memory, exchange }
    }
}

#[async_trait]
impl Topics for Exchange {
    async fn subscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.bindings.lock().unwrap().entry(topic.clone()).or_default().insert(queue.clone());
        Ok(())
    }

    async fn unsubscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.bindings.lock().unwrap().entry(topic.clone()).or_default().remove(queue);
        Ok(())
    }

    async fn publish(&self, topic: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let bound = self.bindings.lock().unwrap().get(topic).cloned().unwrap_or_default();
        let mut outcomes = vec![PublishOutcome::Rejected(Rejection::Unroutable); batch.len()];
        for queue in bound {
            outcomes = self.memory.publish(&queue, batch.clone(), options).await;
        }
        outcomes
    }
}

#[async_trait]
impl QueueProvider for NativeTopics {
    fn scheme(&self) -> &'static str {
        self.memory.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.memory.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.memory.declare(spec).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.memory.drop_queue(queue, only_if_empty).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.memory.publish(queue, batch, options).await
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.memory.consumer(queue, options).await
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.memory.admin()
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        Some(Arc::clone(&self.exchange) as Arc<dyn Topics>)
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.memory.job_store()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.memory.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.memory.unpark(queue, key, n).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.memory.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        self.memory.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}
