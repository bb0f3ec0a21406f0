//! The models' own traits. What every provider owes is checked by the conformance suite.

mod every;
mod faults;
mod log;
mod push;
mod visibility;

use std::{sync::Arc, time::Duration};

use queue_core::{
    Consumer, Env, Envelope, ErrorCode, JobError, JobId, Priority, QueueName, QueueProvider, Timestamp,
    job::JobKind,
    provider::{
        ConsumeOptions, DeadFilter, DeadJob, Delivery, Disposition, PublishOptions, PublishOutcome, ReleaseReason,
        SettleOutcome, Settlement,
    },
    stats::QueueStats,
};

use super::{Broker, Connection, LogModel, PushModel, Shape, VisibilityModel};

const START: u64 = 1_700_000_000_000;
const LEASE: Duration = Duration::from_secs(30);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

/// A broker, a client of it, and one queue.
struct Bench {
    broker: Arc<Broker>,
    provider: Arc<Connection>,
    queue: QueueName,
}

impl Bench {
    fn new(shape: impl Into<Shape>) -> Self {
        let broker = Broker::new(Env::seeded(Timestamp::from_millis(START), 7), shape);
        Self { provider: broker.connect(), broker, queue: QueueName::from_static("work") }
    }

    fn now(&self) -> Timestamp {
        self.broker.ground.wall()
    }

    fn job(&self, n: u64) -> Envelope {
        Envelope::builder(id(n), JobKind::from_static("test"), n.to_string(), self.now()).seal()
    }

    async fn put(&self, jobs: impl IntoIterator<Item = Envelope>) -> Vec<PublishOutcome> {
        self.provider.publish(&self.queue, jobs.into_iter().collect(), &PublishOptions::default()).await
    }

    async fn put_all(&self, range: std::ops::Range<u64>) {
        let outcomes = self.put(range.map(|n| self.job(n))).await;
        assert!(outcomes.iter().all(PublishOutcome::is_accepted), "{outcomes:?}");
    }

    async fn consumer(&self, outstanding: usize) -> Arc<dyn Consumer> {
        consumer_of(&self.provider, &self.queue, outstanding).await
    }

    async fn stats(&self) -> QueueStats {
        let admin = self.broker.connect().admin();
        admin.stats(std::slice::from_ref(&self.queue)).await.remove(0).unwrap()
    }

    async fn dead(&self) -> Vec<DeadJob> {
        let admin = self.broker.connect().admin();
        admin.dead(&self.queue, &DeadFilter::default(), None, 100).await.unwrap().items
    }
}

fn id(n: u64) -> JobId {
    JobId::derive(b"model", n)
}

async fn consumer_of(provider: &Arc<Connection>, queue: &QueueName, outstanding: usize) -> Arc<dyn Consumer> {
    let options = ConsumeOptions { lease: LEASE, ..ConsumeOptions::new("worker", outstanding) };
    provider.consumer(queue, options).await.unwrap()
}

/// What is there now.
async fn take(consumer: &Arc<dyn Consumer>, max: usize) -> Vec<Delivery> {
    consumer.fetch(max, Duration::ZERO).await.unwrap()
}

async fn take_one(consumer: &Arc<dyn Consumer>) -> Delivery {
    let mut taken = take(consumer, 1).await;
    assert_eq!(taken.len(), 1);
    taken.remove(0)
}

fn ids(deliveries: &[Delivery]) -> Vec<JobId> {
    deliveries.iter().map(|delivery| delivery.envelope.id).collect()
}

async fn settle(consumer: &Arc<dyn Consumer>, delivery: &Delivery, disposition: Disposition) -> SettleOutcome {
    consumer.settle(&[Settlement::new(delivery.receipt, disposition)]).await.remove(0)
}

fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

fn retry(after: Duration) -> Disposition {
    Disposition::Retry { after, error: JobError::new(ErrorCode::HandlerFailed, "no") }
}

fn release(after: Duration) -> Disposition {
    let reason = if after.is_zero() { ReleaseReason::Shutdown } else { ReleaseReason::Snooze };
    Disposition::Release { after, reason }
}

fn bury() -> Disposition {
    Disposition::DeadLetter { error: JobError::new(ErrorCode::HandlerFailed, "never") }
}

fn with_priority(envelope: &Envelope, level: u8) -> Envelope {
    envelope.edit(|parts| parts.priority = Priority::new(level).unwrap())
}

fn delayed(envelope: &Envelope, delay: Duration) -> Envelope {
    envelope.edit(|parts| parts.not_before = Some(parts.created_at + delay))
}
