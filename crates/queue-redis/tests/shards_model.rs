//! A queue over several shards does what one of a single shard does, but for the order over all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use queue_core::{
    Env, Envelope, JobId, JobStore, QueueName, QueueProvider, QueueSpec,
    job::{JobError, JobKind, JobRef, Unique, UniqueKey},
    provider::{
        Cancel, ConsumeOptions, Consumer, Disposition, ParkKey, PublishOptions, PublishOutcome, Redrive, ReleaseReason,
        Settlement,
    },
    store::{JobQuery, Lookup},
};
use queue_redis::{RedisOptions, RedisProvider};
use server::Server;

/// One thing that is done to both queues, with jobs by their numbers among those that were published.
#[derive(Debug, Clone)]
enum Step {
    /// Each with one of a few keys, or none; or one that was published before.
    Publish(Vec<(Option<u8>, Option<usize>)>),
    Cancel(Vec<usize>),
    /// All that is there is taken, and ended in one of so many ways each.
    Work(Vec<u8>),
    Redrive(Option<usize>),
    Unpark,
    Purge,
    Pause(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let job = (proptest::option::of(0..6_u8), proptest::option::weighted(0.2, 0..60_usize));
    prop_oneof![
        4 => proptest::collection::vec(job, 1..15).prop_map(Step::Publish),
        2 => proptest::collection::vec(0..60_usize, 1..5).prop_map(Step::Cancel),
        4 => proptest::collection::vec(0..6_u8, 1..9).prop_map(Step::Work),
        1 => proptest::option::of(0..60_usize).prop_map(Step::Redrive),
        1 => Just(Step::Unpark),
        1 => Just(Step::Purge),
        1 => any::<bool>().prop_map(Step::Pause),
    ]
}

struct Side {
    provider: RedisProvider,
    queue: QueueName,
    store: Arc<dyn JobStore>,
    consumer: Arc<dyn Consumer>,
}

impl Side {
    async fn new(provider: &RedisProvider, name: &str, shards: u16) -> Self {
        let queue = QueueName::new(name).unwrap();
        let mut spec = QueueSpec::new(queue.clone());
        spec.shards = Some(shards);
        provider.declare(&spec).await.unwrap();
        let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 1_000)).await.unwrap();
        Self { provider: provider.clone(), queue, store: provider.job_store().unwrap(), consumer }
    }

    fn job(&self, id: JobId) -> JobRef {
        JobRef::new(self.queue.clone(), id)
    }

    /// What it came to, in words that say nothing of order.
    async fn take(&self, step: &Step, new: &[Envelope], jobs: &[Envelope]) -> Vec<String> {
        let at = |n: usize| jobs.get(n).map(|job| job.id);
        let mut words = match step {
            Step::Publish(_) => {
                let outcomes = self.provider.publish(&self.queue, new.to_vec(), &PublishOptions::default()).await;
                let word = |outcome: &PublishOutcome| match outcome {
                    PublishOutcome::Accepted { .. } => "accepted".to_owned(),
                    PublishOutcome::Duplicate { existing } => format!("duplicate of {}", existing.id),
                    other => panic!("{other:?}"),
                };
                return outcomes.iter().map(word).collect();
            }
            Step::Cancel(which) => {
                let asked: Vec<_> = which.iter().filter_map(|n| Some(self.job(at(*n)?))).collect();
                let outcomes = self.store.cancel(&asked, &Cancel::by("test")).await;
                return outcomes.into_iter().map(|outcome| format!("{:?}", outcome.unwrap())).collect();
            }
            Step::Work(ways) => self.work(ways).await,
            Step::Redrive(which) => {
                let what = which.and_then(at).map_or_else(Redrive::all, Redrive::one);
                vec![format!("{:?}", self.provider.admin().redrive(&self.queue, &what).await.unwrap())]
            }
            Step::Unpark => {
                vec![self.provider.unpark(&self.queue, &ParkKey("key".into()), 100).await.unwrap().to_string()]
            }
            Step::Purge => vec![self.provider.admin().purge(&self.queue).await.unwrap().to_string()],
            Step::Pause(paused) => {
                self.provider.admin().pause(&self.queue, *paused).await.unwrap();
                Vec::new()
            }
        };
        words.sort();
        words
    }

    async fn work(&self, ways: &[u8]) -> Vec<String> {
        let mut settlements = Vec::new();
        let mut words = Vec::new();
        loop {
            let taken = self.consumer.fetch(50, Duration::ZERO).await.unwrap();
            if taken.is_empty() {
                break;
            }
            for delivery in taken {
                let id = delivery.envelope.id;
                let way = ways[usize::from(id.as_bytes()[15]) % ways.len()];
                words.push(format!("{id} attempt {} {way}", delivery.attempt));
                let error = JobError::custom("BAD", "no use");
                let disposition = match way {
                    0 => Disposition::DeadLetter { error },
                    1 => Disposition::Retry { after: Duration::ZERO, error },
                    2 => Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown },
                    3 => Disposition::Park { key: ParkKey("key".into()), at_most: Duration::from_secs(600) },
                    _ => Disposition::Complete { result: Some(id.as_bytes().to_vec().into()) },
                };
                settlements.push(Settlement::new(delivery.receipt, disposition));
            }
        }
        for outcome in self.consumer.settle(&settlements).await {
            assert!(outcome.is_settled(), "{outcome:?}");
        }
        words
    }

    /// All that can be seen of it.
    async fn state(&self, jobs: &[Envelope]) -> (Vec<u64>, Vec<String>, BTreeMap<JobId, String>) {
        let stats = self.provider.admin().stats(std::slice::from_ref(&self.queue)).await.remove(0).unwrap();
        let numbers = vec![
            u64::from(stats.paused),
            stats.pending,
            stats.parked,
            stats.retrying,
            stats.running,
            stats.dead,
            stats.finished,
            stats.submitted_total,
            stats.completed_total,
            stats.failed_total,
        ];
        let refs: Vec<_> = jobs.iter().map(|job| self.job(job.id)).collect();
        let seen = self.store.get(&refs).await.into_iter().map(|found| match found.unwrap() {
            Lookup::Found(record) => {
                let parked = record.parked.is_some();
                format!(
                    "{:?} {parked} {} {:?} {:?}",
                    record.state,
                    record.attempt,
                    record.result,
                    record.error.is_some()
                )
            }
            other => format!("{other:?}"),
        });
        let seen = seen.collect();
        let (mut listed, mut cursor) = (BTreeMap::new(), None);
        loop {
            let page = self.store.list(&JobQuery::queue(self.queue.clone()), cursor, 7).await.unwrap();
            for record in page.items {
                assert!(listed.insert(record.job.id, format!("{:?}", record.state)).is_none(), "it is listed once");
            }
            cursor = page.next;
            if cursor.is_none() {
                return (numbers, seen, listed);
            }
        }
    }
}

fn envelopes(step: &Step, jobs: &mut Vec<Envelope>, env: &Env) -> Vec<Envelope> {
    let Step::Publish(batch) = step else { return Vec::new() };
    let known: HashMap<usize, Envelope> = jobs.iter().cloned().enumerate().collect();
    let envelope = |(key, again): &(Option<u8>, Option<usize>)| {
        if let Some(again) = again.and_then(|again| known.get(&again)) {
            return again.clone();
        }
        let job = Envelope::builder(JobId::fresh(env), JobKind::from_static("test.job"), "{}", env.now()).seal();
        let unique = key.map(|key| Unique { key: UniqueKey::new(format!("key {key}")).unwrap(), window: None });
        let job = job.edit(|parts| parts.unique = unique.map(Box::new));
        jobs.push(job.clone());
        job
    };
    batch.iter().map(envelope).collect()
}

async fn run(provider: &RedisProvider, case: u64, shards: u16, steps: &[Step]) {
    let env = Env::system();
    let one = Side::new(provider, &format!("one.{case}"), 1).await;
    let many = Side::new(provider, &format!("many.{case}"), shards).await;
    let mut jobs = Vec::new();
    for step in steps {
        let new = envelopes(step, &mut jobs, &env);
        assert_eq!(one.take(step, &new, &jobs).await, many.take(step, &new, &jobs).await, "{step:?}");
        assert_eq!(one.state(&jobs).await, many.state(&jobs).await, "after {step:?}");
    }
}

#[test]
fn many_shards_do_what_one_does() {
    if !server::is_installed() {
        assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
        eprintln!("LEFT OUT: no redis-server on the path");
        return;
    }
    let server = Server::start().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let provider = runtime.block_on(RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system())).unwrap();
    let case = std::cell::Cell::new(0);
    let config =
        ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(shards in 2..9_u16, steps in proptest::collection::vec(step(), 1..25))| {
        case.set(case.get() + 1);
        runtime.block_on(run(&provider, case.get(), shards, &steps));
    });
}
