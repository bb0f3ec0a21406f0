//! A server, connections to it, and a load that shows whether anything was lost.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use queue_core::{
    Consumer, Env, Envelope, JobId, QueueName, QueueProvider as _, Timestamp,
    job::JobKind,
    provider::{ConsumeOptions, Disposition, PublishOptions, PublishOutcome, SettleOutcome, Settlement},
    stats::QueueStats,
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::Value;
use tokio::time::Instant;

use crate::server::{self, Server};

pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) queue: QueueName,
}

impl Rig {
    /// `None`: there is no Redis here, and none is required.
    pub(crate) fn new() -> Option<Self> {
        if !server::is_installed() {
            let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            assert!(!required, "no redis-server on the path");
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        Some(Self { server: Server::start().unwrap(), queue: QueueName::from_static("faults") })
    }

    pub(crate) async fn connect(&self) -> RedisProvider {
        connect(&self.server.url()).await
    }

    pub(crate) async fn consumer(&self, provider: &RedisProvider, lease: Duration) -> Arc<dyn Consumer> {
        consumer(provider, &self.queue, lease).await
    }

    /// A command, as an operator gives it.
    pub(crate) fn ask(&self, words: &[&[u8]]) -> Value {
        let mut connection = redis::Client::open(self.server.url()).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(std::str::from_utf8(words[0]).unwrap());
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut connection).unwrap()
    }

    /// The same in words.
    pub(crate) fn say(&self, command: &str) -> Value {
        self.ask(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    /// A key of the queue.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("queue:{{{}}}:{name}", self.queue)
    }

    pub(crate) async fn stats(&self, provider: &RedisProvider) -> QueueStats {
        provider.admin().stats(std::slice::from_ref(&self.queue)).await.remove(0).unwrap()
    }
}

pub(crate) async fn connect(url: &str) -> RedisProvider {
    RedisProvider::connect(&RedisOptions::new(url), &Env::system()).await.unwrap()
}

pub(crate) async fn consumer(provider: &RedisProvider, queue: &QueueName, lease: Duration) -> Arc<dyn Consumer> {
    let mut options = ConsumeOptions::new("tester", 1_000);
    options.lease = lease;
    provider.consumer(queue, options).await.unwrap()
}

pub(crate) fn id(n: u64) -> JobId {
    JobId::derive(b"faults", n)
}

pub(crate) fn envelope(n: u64) -> Envelope {
    Envelope::builder(id(n), JobKind::from_static("k"), vec![b'x'; 100], Timestamp::from_millis(1)).seal()
}

pub(crate) fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

pub(crate) async fn publish(provider: &RedisProvider, queue: &QueueName, jobs: Vec<Envelope>) -> Vec<PublishOutcome> {
    provider.publish(queue, jobs, &PublishOptions::default()).await
}

pub(crate) fn accepted(outcomes: &[PublishOutcome]) -> bool {
    outcomes.iter().all(|outcome| matches!(outcome, PublishOutcome::Accepted { .. }))
}

/// Those who publish and those who work. Connected before anything is done to their connections: who connects while they are cut is
/// told so.
pub(crate) struct Pair {
    producer: RedisProvider,
    worker: RedisProvider,
    consumer: Arc<dyn Consumer>,
}

impl Pair {
    pub(crate) async fn of(rig: &Rig) -> Self {
        let (producer, worker) = (rig.connect().await, rig.connect().await);
        let consumer = rig.consumer(&worker, Duration::from_secs(2)).await;
        Self { producer, worker, consumer }
    }
}

/// How a load went.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// How often each job was settled.
    pub(crate) settled: HashMap<JobId, usize>,
    /// Calls that went wrong and were made again.
    pub(crate) troubles: usize,
    /// The longest time from one delivery to the next.
    pub(crate) longest_gap: Duration,
}

/// Publishes so many jobs and completes them, whatever is done meanwhile, each call made again until it succeeds: on two connections,
/// until every job is settled. A panic where that takes longer than 30 s.
pub(crate) async fn load(rig: &Rig, pair: Pair, jobs: u64) -> Load {
    let Pair { producer, worker, consumer } = pair;
    let queue = rig.queue.clone();
    let publishing = tokio::spawn(async move {
        let mut troubles = 0;
        for first in (0..jobs).step_by(10) {
            let batch: Vec<Envelope> = (first..jobs.min(first + 10)).map(envelope).collect();
            // An id is published once, however often it is.
            while !accepted(&publish(&producer, &queue, batch.clone()).await) {
                troubles += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // So that the load lasts as long as what is done to it.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        troubles
    });
    let mut load = Load::default();
    let mut over = HashSet::new();
    let (start, mut last) = (Instant::now(), Instant::now());
    while over.len() < usize::try_from(jobs).unwrap() {
        assert!(start.elapsed() < Duration::from_secs(30), "{} of {jobs} are over", over.len());
        let Ok(deliveries) = consumer.fetch(50, Duration::from_secs(5)).await else {
            load.troubles += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        load.longest_gap = load.longest_gap.max(last.elapsed());
        last = Instant::now();
        let mut left: Vec<Settlement> =
            deliveries.iter().map(|delivery| Settlement::new(delivery.receipt, complete())).collect();
        while !left.is_empty() {
            let mut again = Vec::new();
            for (settlement, outcome) in left.iter().zip(consumer.settle(&left).await) {
                let id = settlement.receipt.id;
                match outcome {
                    SettleOutcome::Settled => *load.settled.entry(id).or_default() += 1,
                    SettleOutcome::AlreadySettled => drop(load.settled.entry(id).or_insert(1)),
                    SettleOutcome::Unknown(_) => again.push(settlement.clone()),
                    SettleOutcome::LeaseLost => continue,
                    other => panic!("{other:?}"),
                }
                if load.settled.contains_key(&id) {
                    over.insert(id);
                }
            }
            load.troubles += again.len();
            left = again;
        }
    }
    load.troubles += publishing.await.unwrap();
    let stats = rig.stats(&worker).await;
    assert_eq!((stats.pending, stats.running, stats.completed_total), (0, 0, jobs), "{stats:?}");
    assert!(load.settled.values().all(|times| *times == 1), "a job was settled twice");
    load
}
