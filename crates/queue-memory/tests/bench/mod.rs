//! What the tests of the provider share.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, JobId, QueueName, QueueProvider, Timestamp,
    job::{Envelope, JobKind},
    provider::{ConsumeOptions, Consumer, Disposition, PublishOptions, PublishOutcome, SettleOutcome, Settlement},
};
use queue_memory::MemoryProvider;

pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(crate) fn queue() -> QueueName {
    QueueName::from_static("q")
}

pub(crate) fn provider() -> MemoryProvider {
    MemoryProvider::with_env(Env::seeded(START, 1))
}

pub(crate) fn job(n: u64) -> Envelope {
    Envelope::builder(JobId::derive(b"job", n), JobKind::from_static("k"), vec![0; 20], START).seal()
}

pub(crate) fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<JobId> {
    numbers.into_iter().map(|n| job(n).id).collect()
}

pub(crate) async fn publish(
    provider: &MemoryProvider,
    jobs: impl IntoIterator<Item = Envelope>,
) -> Vec<PublishOutcome> {
    provider.publish(&queue(), jobs.into_iter().collect(), &PublishOptions::default()).await
}

pub(crate) async fn consumer(provider: &MemoryProvider, outstanding: usize) -> Arc<dyn Consumer> {
    provider.consumer(&queue(), ConsumeOptions::new("test", outstanding)).await.unwrap()
}

/// Takes what is there now, and says what.
pub(crate) async fn fetched(consumer: &dyn Consumer, max: usize) -> Vec<JobId> {
    consumer.fetch(max, Duration::ZERO).await.unwrap().iter().map(|delivery| delivery.envelope.id).collect()
}

/// Takes one job and ends its delivery so.
pub(crate) async fn run_one(consumer: &dyn Consumer, disposition: Disposition) -> (Settlement, SettleOutcome) {
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let settlement = Settlement::new(delivery.receipt, disposition);
    let outcome = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
    (settlement, outcome)
}
