//! One broker, one store, and processes that come and go.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod unclosable;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue_core::{
    Consumer, Env, Envelope, JobId, JobRef, JobStore, QueueName, QueueProvider, Timestamp,
    job::JobKind,
    lifecycle::JobState,
    provider::{
        Beat, ConsumeOptions, Delivery, Disposition, FollowUp, PublishOptions, PublishOutcome, SettleOutcome,
        Settlement,
    },
    store::{JobRecord, Lookup},
};
use queue_layers::{Options, Tracked, tracked::Rule};
use queue_memory::MemoryTracking;
use queue_testkit::{
    faults::FaultyStore,
    fuse::Fuse,
    models::{Broker, Connection, LogModel, PushModel, Shape, VisibilityModel},
};

pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The three shapes of brokers.
pub(crate) fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

pub(crate) struct Bed {
    pub(crate) env: Env,
    pub(crate) broker: Arc<Broker>,
    pub(crate) store: MemoryTracking,
    pub(crate) queue: QueueName,
}

/// A process: its connection to the broker, its way to the store, and the layer.
pub(crate) struct Process {
    pub(crate) connection: Arc<Connection>,
    pub(crate) faults: FaultyStore,
    pub(crate) fuse: Fuse,
    pub(crate) tracked: Arc<Tracked>,
    env: Env,
    queue: QueueName,
}

impl Bed {
    pub(crate) fn new(shape: impl Into<Shape>) -> Self {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 11);
        let store = MemoryTracking::with_env(env.clone());
        Self { broker: Broker::new(env.clone(), shape), store, env, queue: QueueName::from_static("work") }
    }

    /// The same, with a store that keeps a journal on a disk in memory.
    pub(crate) fn journaled(shape: impl Into<Shape>) -> Self {
        let bed = Self::new(shape);
        let journal = queue_memory::JournalOptions::on_disk(&queue_memory::ModelDisk::new(), true);
        let store = MemoryTracking::open(&journal, bed.env.clone(), queue_memory::TrackingLimits::default()).unwrap();
        Self { store, ..bed }
    }

    pub(crate) fn process(&self) -> Process {
        self.process_with(Options::default(), None)
    }

    pub(crate) fn without(&self, rule: Option<Rule>) -> Process {
        self.process_with(Options::default(), rule)
    }

    pub(crate) fn process_with(&self, options: Options, rule: Option<Rule>) -> Process {
        let (connection, fuse) = (self.broker.connect(), Fuse::new());
        let faults = FaultyStore::new(self.store.clone());
        let transport = fuse.transport(Arc::clone(&connection) as Arc<dyn QueueProvider>);
        let mut tracked = Tracked::with_options(transport, fuse.store(faults.clone()), &self.env, options);
        if let Some(rule) = rule {
            tracked = tracked.without(rule);
        }
        let (env, queue) = (self.env.clone(), self.queue.clone());
        Process { connection, faults, fuse, tracked: Arc::new(tracked), env, queue }
    }

    pub(crate) fn job(&self, text: &str) -> Envelope {
        let id = JobId::fresh(&self.env);
        Envelope::builder(id, JobKind::from_static("test"), text.as_bytes().to_vec(), self.env.now()).seal()
    }

    pub(crate) fn reference(&self, id: JobId) -> JobRef {
        JobRef::new(self.queue.clone(), id)
    }

    pub(crate) async fn record(&self, id: JobId) -> JobRecord {
        match self.store.get(&[self.reference(id)]).await.remove(0).unwrap() {
            Lookup::Found(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn state(&self, id: JobId) -> JobState {
        self.record(id).await.state
    }

    /// What the broker has, waiting or out.
    pub(crate) async fn copies(&self) -> u64 {
        let stats = self.broker.connect().admin().stats(std::slice::from_ref(&self.queue)).await.remove(0);
        stats.map_or(0, |stats| stats.waiting() + stats.running)
    }
}

/// What a worker saw of each job: the attempts of its runs.
pub(crate) type Runs = BTreeMap<String, Vec<u32>>;

impl Process {
    pub(crate) async fn publish(&self, job: &Envelope) -> PublishOutcome {
        self.tracked.publish(&self.queue, vec![job.clone()], &PublishOptions::default()).await.remove(0)
    }

    pub(crate) async fn accepted(&self, job: &Envelope) {
        let outcome = self.publish(job).await;
        assert!(outcome.is_accepted(), "{outcome:?}");
    }

    pub(crate) async fn consumer(&self) -> Arc<dyn Consumer> {
        self.consumer_of(16).await
    }

    pub(crate) async fn consumer_of(&self, outstanding: usize) -> Arc<dyn Consumer> {
        let options = ConsumeOptions { lease: LEASE, ..ConsumeOptions::new("worker", outstanding) };
        self.tracked.consumer(&self.queue, options).await.unwrap()
    }

    /// Fetches one, with maintenance beside it.
    pub(crate) async fn take(&self, consumer: &Arc<dyn Consumer>) -> Delivery {
        for _ in 0..600 {
            if let Some(delivery) = consumer.fetch(1, secs(1)).await.unwrap_or_default().pop() {
                return delivery;
            }
            let _ = self.tracked.maintain(true).await;
        }
        panic!("nothing comes");
    }

    /// A worker that completes whatever comes for so long, with maintenance beside it. What it ran, by payload.
    pub(crate) async fn work_for(&self, time: Duration) -> Runs {
        let consumer = self.consumer().await;
        let runs = self.work_on(&consumer, time).await;
        consumer.close(secs(1)).await;
        runs
    }

    pub(crate) async fn work_on(&self, consumer: &Arc<dyn Consumer>, time: Duration) -> Runs {
        let end = self.env.clock.monotonic() + time;
        let mut runs = Runs::new();
        while self.env.clock.monotonic() < end {
            let _ = self.tracked.maintain(true).await;
            let Ok(got) = consumer.fetch(16, secs(1)).await else {
                tokio::time::sleep(secs(1)).await;
                continue;
            };
            for delivery in got {
                let name = String::from_utf8_lossy(&delivery.envelope.payload).into_owned();
                runs.entry(name).or_default().push(delivery.attempt);
                settle(consumer, &delivery, complete()).await;
            }
        }
        runs
    }

    pub(crate) async fn maintain_for(&self, time: Duration) {
        let end = self.env.clock.monotonic() + time;
        while self.env.clock.monotonic() < end {
            let _ = self.tracked.maintain(true).await;
            tokio::time::sleep(secs(1)).await;
        }
    }

    /// As `kill -9` ends it.
    pub(crate) fn crash(&self) {
        self.connection.crash();
        self.faults.outage(true);
    }
}

pub(crate) fn complete() -> Disposition {
    Disposition::Complete { result: Some("done".into()) }
}

pub(crate) async fn settle(
    consumer: &Arc<dyn Consumer>,
    delivery: &Delivery,
    disposition: Disposition,
) -> SettleOutcome {
    consumer.settle(&[Settlement::new(delivery.receipt, disposition)]).await.remove(0)
}

pub(crate) async fn beat(consumer: &Arc<dyn Consumer>, delivery: &Delivery) -> queue_core::provider::BeatOutcome {
    consumer.heartbeat(&[Beat::extend(delivery.receipt, LEASE)]).await.remove(0)
}

/// What follows a job, under an id that follows from its own.
pub(crate) fn follow_up(bed: &Bed, parent: &Delivery, text: &str) -> FollowUp {
    let id = JobId::derive(parent.envelope.id.as_bytes(), 0);
    FollowUp { queue: bed.queue.clone(), envelope: bed.job(text).edit(|job| job.id = id) }
}
