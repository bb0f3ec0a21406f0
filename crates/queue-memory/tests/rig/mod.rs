//! A provider on virtual time, and one queue of it.

#![allow(dead_code, reason = "each test uses its part")]

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, JobId, JobStore, QueueName, QueueProvider, QueueSpec, Timestamp,
    job::{Envelope, JobKind, JobRef},
    provider::{
        ConsumeOptions, Consumer, Delivery, Disposition, PublishOptions, PublishOutcome, SettleOutcome, Settlement,
    },
    store::{JobRecord, Lookup},
};
use queue_memory::MemoryProvider;

pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(crate) struct Rig {
    env: Env,
    pub(crate) provider: MemoryProvider,
    pub(crate) store: Arc<dyn JobStore>,
}

pub(crate) fn queue() -> QueueName {
    QueueName::from_static("q")
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn job(n: u64) -> Envelope {
    Envelope::builder(JobId::derive(b"job", n), JobKind::from_static("k"), vec![0; 200], START).seal()
}

pub(crate) fn reference(n: u64) -> JobRef {
    JobRef::new(queue(), JobId::derive(b"job", n))
}

/// A rig whose queue has this spec.
pub(crate) async fn rig(change: impl FnOnce(&mut QueueSpec)) -> Rig {
    let env = Env::seeded(START, 1);
    let provider = MemoryProvider::with_env(env.clone());
    let mut spec = QueueSpec::new(queue());
    change(&mut spec);
    provider.declare(&spec).await.unwrap();
    let store = provider.job_store().unwrap();
    Rig { env, provider, store }
}

impl Rig {
    /// Since the start.
    pub(crate) fn now(&self) -> Duration {
        self.env.now() - START
    }

    pub(crate) async fn publish(&self, jobs: impl IntoIterator<Item = Envelope>) -> Vec<PublishOutcome> {
        self.provider.publish(&queue(), jobs.into_iter().collect(), &PublishOptions::default()).await
    }

    pub(crate) async fn consumer(&self, outstanding: usize) -> Arc<dyn Consumer> {
        self.provider.consumer(&queue(), ConsumeOptions::new("test", outstanding)).await.unwrap()
    }

    pub(crate) async fn look_up(&self, job: &JobRef) -> Lookup {
        self.store.get(std::slice::from_ref(job)).await.remove(0).unwrap()
    }

    pub(crate) async fn record(&self, n: u64) -> JobRecord {
        match self.look_up(&reference(n)).await {
            Lookup::Found(record) => *record,
            other => panic!("no record of {n}: {other:?}"),
        }
    }

    pub(crate) async fn finished(&self) -> u64 {
        self.provider.admin().stats(&[queue()]).await.remove(0).unwrap().finished
    }
}

pub(crate) async fn settle(consumer: &dyn Consumer, delivery: &Delivery, how: Disposition) -> SettleOutcome {
    consumer.settle(&[Settlement::new(delivery.receipt, how)]).await.remove(0)
}

pub(crate) fn done() -> Disposition {
    Disposition::Complete { result: None }
}

/// Fetches without waiting: the numbers of what came, of the first hundred jobs.
pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    let number = |delivery: &Delivery| (0..100).find(|n| JobId::derive(b"job", *n) == delivery.envelope.id).unwrap();
    deliveries.iter().map(number).collect()
}
