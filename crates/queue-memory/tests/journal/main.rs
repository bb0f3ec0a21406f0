//! What outlives the process.

#![cfg(feature = "journal")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod model;
mod recovery;
mod settled;
mod suspects;
mod trouble;

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, JobId, QueueName, QueueProvider, QueueSpec, Timestamp,
    job::{Envelope, JobKind, JobRef},
    provider::{
        ConsumeOptions, Consumer, Delivery, Disposition, Durability, PublishOptions, PublishOutcome, SettleOutcome,
        Settlement,
    },
    stats::QueueStats,
    store::{JobRecord, Lookup},
};
use queue_memory::{JournalOptions, MemoryProvider, ModelDisk};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn queue() -> QueueName {
    QueueName::from_static("q")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn id(n: u64) -> JobId {
    JobId::derive(b"job", n)
}

fn job(n: u64) -> Envelope {
    Envelope::builder(id(n), JobKind::from_static("k"), n.to_le_bytes().to_vec(), START).seal()
}

fn number(delivery: &Delivery) -> u64 {
    u64::from_le_bytes(delivery.envelope.payload[..].try_into().unwrap())
}

fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(number).collect()
}

fn done() -> Disposition {
    Disposition::Complete { result: None }
}

/// A provider on a disk.
struct Rig {
    env: Env,
    disk: ModelDisk,
    provider: MemoryProvider,
}

impl Rig {
    fn new() -> Self {
        Self::on(ModelDisk::new(), Env::seeded(START, 1))
    }

    fn on(disk: ModelDisk, env: Env) -> Self {
        let options = JournalOptions::on_disk(&disk, true);
        let provider = MemoryProvider::open(&options, env.clone()).unwrap();
        Self { env, disk, provider }
    }

    async fn with_queue(change: impl FnOnce(&mut QueueSpec)) -> Self {
        let rig = Self::new();
        let mut spec = QueueSpec::new(queue());
        change(&mut spec);
        rig.provider.declare(&spec).await.unwrap();
        rig
    }

    /// Ends as by `kill -9`, and begins again.
    fn crash(self) -> Self {
        self.crash_after(Duration::ZERO)
    }

    /// The same, on a wall clock that went on meanwhile.
    fn crash_after(self, pause: Duration) -> Self {
        self.provider.abandon();
        Self::on(ModelDisk::with(self.disk.contents()), Env::seeded(self.env.now() + pause, 2))
    }

    /// Ends in order, and begins again.
    async fn restart(self) -> Self {
        self.provider.close().await.unwrap();
        let disk = ModelDisk::with(self.disk.contents());
        Self::on(disk, self.env.clone())
    }

    async fn publish(&self, jobs: impl IntoIterator<Item = Envelope>) -> Vec<PublishOutcome> {
        self.provider.publish(&queue(), jobs.into_iter().collect(), &PublishOptions::default()).await
    }

    async fn accepted(&self, jobs: impl IntoIterator<Item = Envelope>) {
        let outcomes = self.publish(jobs).await;
        assert!(outcomes.iter().all(PublishOutcome::is_accepted), "{outcomes:?}");
    }

    async fn consumer(&self, outstanding: usize) -> Arc<dyn Consumer> {
        let options = ConsumeOptions { lease: seconds(3_600), ..ConsumeOptions::new("w", outstanding) };
        self.provider.consumer(&queue(), options).await.unwrap()
    }

    async fn fetch(&self, max: usize) -> Vec<Delivery> {
        self.consumer(max).await.fetch(max, Duration::ZERO).await.unwrap()
    }

    async fn fetched(&self, max: usize) -> Vec<u64> {
        numbers(&self.fetch(max).await)
    }

    async fn look_up(&self, n: u64) -> Lookup {
        let job = JobRef::new(queue(), id(n));
        self.provider.job_store().unwrap().get(&[job]).await.remove(0).unwrap()
    }

    async fn record(&self, n: u64) -> JobRecord {
        match self.look_up(n).await {
            Lookup::Found(record) => *record,
            other => panic!("no record of {n}: {other:?}"),
        }
    }

    async fn stats(&self) -> QueueStats {
        self.provider.admin().stats(&[queue()]).await.remove(0).unwrap()
    }
}

async fn settle(consumer: &dyn Consumer, delivery: &Delivery, how: Disposition) -> SettleOutcome {
    consumer.settle(&[Settlement::new(delivery.receipt, how)]).await.remove(0)
}
