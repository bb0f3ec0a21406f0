//! Defects of topics.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Envelope, QueueName, QueueProvider, Result,
    provider::{PublishOptions, PublishOutcome, Rejection, Topics},
};

use super::{Defect, Shared};

#[derive(Debug)]
pub(super) struct SabotagedTopics {
    pub(super) inner: Arc<dyn Topics>,
    pub(super) provider: Arc<dyn QueueProvider>,
    pub(super) shared: Arc<Shared>,
}

impl SabotagedTopics {
    fn is(&self, defect: Defect) -> bool {
        self.shared.is(defect)
    }

    /// Who is subscribed, as far as it went through here.
    fn subscribed(&self, topic: &QueueName) -> Vec<QueueName> {
        let state = self.shared.state();
        state.subscribed.iter().filter(|(known, _)| known == topic).map(|(_, queue)| queue.clone()).collect()
    }

    /// One publish a queue, and the last answer that was not `Accepted`.
    async fn one_by_one(
        &self,
        queues: &[QueueName],
        batch: &[Envelope],
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let mut worst = vec![PublishOutcome::Accepted { place: 0 }; batch.len()];
        for queue in queues {
            let outcomes = self.provider.publish(queue, batch.to_vec(), options).await;
            for (worst, outcome) in worst.iter_mut().zip(outcomes).filter(|(_, outcome)| !outcome.is_accepted()) {
                *worst = outcome;
            }
        }
        worst
    }
}

#[async_trait]
impl Topics for SabotagedTopics {
    async fn subscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.inner.subscribe(topic, queue).await?;
        self.shared.state().subscribed.insert((topic.clone(), queue.clone()));
        Ok(())
    }

    async fn unsubscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        if self.is(Defect::UnsubscribeIgnored) {
            return Ok(());
        }
        self.inner.unsubscribe(topic, queue).await?;
        self.shared.state().subscribed.remove(&(topic.clone(), queue.clone()));
        Ok(())
    }

    async fn publish(&self, topic: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let queues = self.subscribed(topic);
        let plain = batch.iter().all(|job| job.unique.is_none());
        match self.shared.defect {
            Some(Defect::TopicReachesOne) if plain && queues.len() > 1 => {
                return self.one_by_one(&queues[..1], &batch, options).await;
            }
            Some(Defect::TopicHalfDone) if queues.len() > 1 => {
                return self.one_by_one(&queues, &batch, options).await;
            }
            _ => {}
        }
        let mut outcomes = self.inner.publish(topic, batch, options).await;
        if self.is(Defect::TopicLostSilently) {
            let lost =
                |outcome: &&mut PublishOutcome| matches!(outcome, PublishOutcome::Rejected(Rejection::Unroutable));
            outcomes.iter_mut().filter(lost).for_each(|outcome| *outcome = PublishOutcome::Accepted { place: 0 });
        }
        outcomes
    }
}
