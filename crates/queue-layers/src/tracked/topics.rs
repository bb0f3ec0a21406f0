//! Native topics of the transport: their copies are adopted at the claim.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Envelope, Error, QueueName, Result,
    provider::{PublishOptions, PublishOutcome, Rejection, Topics},
};

use super::core::Core;

/// A topic's publish is one call of the broker, so nothing can be staged for each queue before it: jobs are stamped, and their
/// records begin when they are claimed. A unique key, which needs the store first, is refused.
#[derive(Debug)]
pub(super) struct TrackedTopics {
    pub(super) core: Arc<Core>,
    pub(super) topics: Arc<dyn Topics>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Topics for TrackedTopics {
    async fn subscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.topics.subscribe(topic, queue).await
    }

    async fn unsubscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.topics.unsubscribe(topic, queue).await
    }

    async fn publish(&self, topic: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let mut outcomes: Vec<Option<PublishOutcome>> = batch.iter().map(|_| None).collect();
        let (mut places, mut going) = (Vec::new(), Vec::new());
        for (at, envelope) in batch.into_iter().enumerate() {
            if envelope.unique.is_some() {
                let instead = "publish jobs with a unique key to a queue, not to a topic";
                let error = Error::unsupported(self.core.scheme(), "publish", instead).on(topic);
                outcomes[at] = Some(PublishOutcome::Rejected(Rejection::Denied(error)));
            } else {
                places.push(at);
                going.push(self.core.stamp(envelope));
            }
        }
        if !going.is_empty() {
            for (at, outcome) in places.into_iter().zip(self.topics.publish(topic, going, options).await) {
                outcomes[at] = Some(outcome);
            }
        }
        let missing = || PublishOutcome::Unknown(super::core::unavailable("no answer came", self.core.scheme()));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }
}
