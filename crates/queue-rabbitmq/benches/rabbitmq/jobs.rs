//! The jobs that are measured, and what works them off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use queue_core::{
    Env, Failure, Job, JobScheduler, QueueName, QueueProvider, QueueSpec,
    job::{Envelope, JobId, JobKind},
    provider::{ProviderUrl, PublishOptions},
};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use validator::Validate;

use crate::server::Server;

/// A call answers for all of its jobs at once: the next one waits for the last confirm. Small batches keep about as many jobs under
/// way as the baseline, which replaces each message by itself, and never more.
const BATCH: u64 = 25;
/// Calls under way: with the batches as many jobs as the baseline has.
const CALLS: u64 = 40;

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

pub(crate) fn queue() -> QueueName {
    QueueName::from_static("bench")
}

/// A provider with an empty queue.
pub(crate) async fn provider(server: &Server) -> Arc<dyn QueueProvider> {
    let options = RabbitOptions::read(&ProviderUrl::parse(server.url()).unwrap()).unwrap();
    let provider = RabbitProvider::connect(options, &Env::system()).await.unwrap();
    provider.drop_queue(&queue(), false).await.unwrap();
    Arc::new(provider)
}

fn envelopes(count: u64) -> Vec<Envelope> {
    let env = Env::system();
    let payload = bytes::Bytes::from(serde_json::to_vec(&Nothing::new()).unwrap());
    assert_eq!(payload.len(), 200);
    let now = env.now();
    let job = |_| {
        let id = JobId::fresh_at(now, &*env.random);
        Envelope::builder(id, JobKind::from_static("nothing"), payload.clone(), now).seal()
    };
    (0..count).map(job).collect()
}

/// Jobs a second.
pub(crate) async fn publish(provider: &Arc<dyn QueueProvider>, jobs: u64) -> f64 {
    let batches = Arc::new(AtomicU64::new(jobs / BATCH));
    let started = Instant::now();
    let mut sides = Vec::new();
    for _ in 0..CALLS {
        let (provider, batches) = (Arc::clone(provider), Arc::clone(&batches));
        sides.push(tokio::spawn(async move {
            while batches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let outcomes = provider.publish(&queue(), envelopes(BATCH), &PublishOptions::default()).await;
                assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{:?}", outcomes[0]);
            }
        }));
    }
    for side in sides {
        side.await.unwrap();
    }
    jobs as f64 / started.elapsed().as_secs_f64()
}

pub(crate) async fn declare(provider: &Arc<dyn QueueProvider>) {
    provider.declare(&QueueSpec::new(queue())).await.unwrap();
}

/// Jobs a second of a worker that does nothing, until so many have come and are settled.
pub(crate) async fn work_off(queues: &JobScheduler, jobs: u64) -> f64 {
    let (done, finished) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let count = {
        let finished = Arc::clone(&finished);
        move || {
            if done.fetch_add(1, Ordering::Relaxed) + 1 == jobs {
                finished.notify_one();
            }
        }
    };
    let started = Instant::now();
    let running = queues
        .worker()
        .queue("bench", 512)
        .register(move |_: Nothing| {
            count();
            std::future::ready(Ok::<_, Failure>(()))
        })
        .start()
        .await
        .unwrap();
    finished.notified().await;
    let rate = jobs as f64 / started.elapsed().as_secs_f64();
    // Every settlement is sent, too.
    running.stop().await;
    rate
}
