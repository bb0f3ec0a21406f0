//! The jobs that are measured, and the queues they are in.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use queue_core::{
    Env, Failure, Job, JobScheduler, QueueName, QueueProvider, QueueSpec,
    job::{Envelope, JobId, JobKind},
    provider::PublishOptions,
    queue_spec::Tracking,
};
use queue_redis::{RedisOptions, RedisProvider};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use validator::Validate;

use crate::server::Server;

pub(crate) const BATCH: u64 = 100;

/// Does nothing; 200 bytes as JSON.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub(crate) struct Nothing {
    text: String,
}

impl Nothing {
    pub(crate) fn new() -> Self {
        Self { text: "x".repeat(200 - r#"{"text":""}"#.len()) }
    }
}

impl Job for Nothing {
    const KIND: &'static str = "nothing";
    const QUEUE: &'static str = "bench";
    type Output = ();
}

/// The same, with a result of 32 bytes.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub(crate) struct Answered {
    text: String,
}

impl Job for Answered {
    const KIND: &'static str = "answered";
    const QUEUE: &'static str = "bench";
    type Output = String;
}

pub(crate) fn queue() -> QueueName {
    QueueName::from_static("bench")
}

/// A provider on an emptied server, with the queue declared.
pub(crate) async fn provider(server: &Server, tracking: Tracking) -> RedisProvider {
    server.clear().await;
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let mut spec = QueueSpec::new(queue());
    spec.tracking = tracking;
    spec.max_len = Some(100_000_000);
    provider.declare(&spec).await.unwrap();
    provider
}

pub(crate) fn envelopes(count: u64, kind: &'static str) -> Vec<Envelope> {
    let env = Env::system();
    let payload = bytes::Bytes::from(serde_json::to_vec(&Nothing::new()).unwrap());
    assert_eq!(payload.len(), 200);
    let now = env.now();
    let job = |_| {
        let id = JobId::fresh_at(now, &*env.random);
        Envelope::builder(id, JobKind::from_static(kind), payload.clone(), now).seal()
    };
    (0..count).map(job).collect()
}

pub(crate) async fn publish(provider: &RedisProvider, batch: Vec<Envelope>) {
    let outcomes = provider.publish(&queue(), batch, &PublishOptions::default()).await;
    assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{:?}", outcomes[0]);
}

/// So many waiting jobs, four batches at a time.
pub(crate) async fn fill(provider: &RedisProvider, jobs: u64, kind: &'static str) {
    let batches = Arc::new(AtomicU64::new(jobs / BATCH));
    let mut sides = Vec::new();
    for _ in 0..4 {
        let (provider, batches) = (provider.clone(), Arc::clone(&batches));
        sides.push(tokio::spawn(async move {
            while batches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                publish(&provider, envelopes(BATCH, kind)).await;
            }
        }));
    }
    for side in sides {
        side.await.unwrap();
    }
}

/// A worker that does nothing until so many jobs have come.
pub(crate) async fn work_off(queues: &JobScheduler, jobs: u64) {
    let (done, finished) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let count = {
        let (done, finished) = (Arc::clone(&done), Arc::clone(&finished));
        move || {
            if done.fetch_add(1, Ordering::Relaxed) + 1 == jobs {
                finished.notify_one();
            }
        }
    };
    let also = count.clone();
    let running = queues
        .worker()
        .queue("bench", 512)
        .register(move |_: Nothing| {
            count();
            std::future::ready(Ok::<_, Failure>(()))
        })
        .register(move |_: Answered| {
            also();
            std::future::ready(Ok::<_, Failure>("y".repeat(30)))
        })
        .start()
        .await
        .unwrap();
    finished.notified().await;
    // Every settlement is answered, too.
    running.stop().await;
}
