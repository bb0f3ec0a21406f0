//! Whose next claim is laid down in the server while he sleeps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use queue_core::{
    Consumer, Env, Envelope, JobId, QueueName, QueueProvider, QueueSpec, Timestamp,
    job::{JobKind, JobRef, Priority},
    provider::{Cancel, ConsumeOptions, Delivery, PublishOptions},
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::aio::MultiplexedConnection;
use server::Server;
use tokio::{task::JoinHandle, time::Instant};

struct Rig {
    provider: RedisProvider,
    redis: MultiplexedConnection,
    queue: QueueName,
    server: Server,
}

/// Longer than any wake-up takes, and far shorter than a sleep.
const SOON: Duration = Duration::from_secs(3);

fn job(priority: u8, n: u64) -> Envelope {
    let id = JobId::derive(b"doze", n);
    let mut parts = Envelope::builder(id, JobKind::from_static("k"), "{}", Timestamp::from_millis(1));
    parts.priority = Priority::new(priority).unwrap();
    parts.seal()
}

impl Rig {
    async fn new() -> Option<Self> {
        if !server::is_installed() {
            server::require();
            return None;
        }
        let server = Server::start().unwrap();
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
        let queue = QueueName::from_static("q");
        provider.declare(&QueueSpec::new(queue.clone())).await.unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        let redis = client.get_multiplexed_async_connection().await.unwrap();
        Some(Self { provider, redis, queue, server })
    }

    /// Of a process of its own.
    async fn consumer(&self, outstanding: usize) -> Arc<dyn Consumer> {
        let provider = RedisProvider::connect(&RedisOptions::new(self.server.url()), &Env::system()).await.unwrap();
        provider.consumer(&self.queue, ConsumeOptions::new("worker", outstanding)).await.unwrap()
    }

    async fn publish(&self, priority: u8, jobs: std::ops::Range<u64>) {
        let jobs = jobs.map(|n| job(priority, n)).collect();
        let outcomes = self.provider.publish(&self.queue, jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{outcomes:?}");
    }

    /// Those that sleep do not hear of what comes next.
    async fn be_quiet(&mut self) {
        let _: i64 = redis::cmd("HDEL").arg("queue:{q}:n").arg("sleeping").query_async(&mut self.redis).await.unwrap();
    }
}

/// Sleeps, as soon as this returns.
async fn sleeps(consumer: &Arc<dyn Consumer>, max: usize) -> JoinHandle<Vec<Delivery>> {
    let consumer = Arc::clone(consumer);
    let asleep = tokio::spawn(async move { consumer.fetch(max, Duration::from_secs(30)).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    asleep
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_for_who_closes_goes_back_at_once() {
    let Some(mut rig) = Rig::new().await else { return };
    let (one, other) = (rig.consumer(10).await, rig.consumer(10).await);
    let asleep = sleeps(&one, 10).await;
    rig.be_quiet().await;
    rig.publish(5, 0..10).await;
    let closed = one.close(SOON).await;
    assert_eq!(closed.still_open, 0);
    assert_eq!(tokio::time::timeout(SOON, asleep).await.unwrap().unwrap().len(), 0, "after it was closed");
    let jobs = other.fetch(10, SOON).await.unwrap();
    let expected: Vec<_> = (0..10).map(|n| JobId::derive(b"doze", n)).collect();
    assert_eq!(jobs.iter().map(|job| job.receipt.id).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_claimed_than_is_asked_for_by_now() {
    let Some(mut rig) = Rig::new().await else { return };
    let (one, other) = (rig.consumer(10).await, rig.consumer(10).await);
    let asleep = sleeps(&one, 10).await;
    rig.be_quiet().await;
    rig.publish(5, 0..10).await;
    one.demand(3).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, asleep).await.unwrap().unwrap().len(), 3);
    assert_eq!(other.fetch(10, SOON).await.unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_sleep_wake_when_a_long_pause_ends() {
    let Some(rig) = Rig::new().await else { return };
    let admin = rig.provider.admin();
    // Nobody has looked while it was not paused, or that is long ago.
    admin.pause(&rig.queue, true).await.unwrap();
    rig.publish(5, 0..3).await;
    let mut asleep = Vec::new();
    for _ in 0..3 {
        asleep.push(sleeps(&rig.consumer(1).await, 1).await);
    }
    assert!(asleep.iter().all(|asleep| !asleep.is_finished()));
    admin.pause(&rig.queue, false).await.unwrap();
    for asleep in asleep {
        let jobs = tokio::time::timeout(SOON, asleep).await;
        assert_eq!(jobs.expect("one sleeps on, and a job waits").unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sleeps_behind_a_record_that_he_cannot_read() {
    let Some(mut rig) = Rig::new().await else { return };
    rig.publish(9, 0..1).await;
    rig.publish(5, 1..2).await;
    let (key, id) = ("queue:{q}:j", JobId::derive(b"doze", 0));
    let mut row: Vec<u8> = redis::cmd("HGET").arg(key).arg(id.as_bytes()).query_async(&mut rig.redis).await.unwrap();
    // What a newer version says behind head and kind.
    row[19 + 2] = 0x80;
    let _: i64 = redis::cmd("HSET").arg(key).arg(id.as_bytes()).arg(&row).query_async(&mut rig.redis).await.unwrap();
    let consumer = rig.consumer(1).await;
    let begun = Instant::now();
    let jobs = consumer.fetch(1, Duration::from_secs(30)).await.unwrap();
    assert_eq!(jobs[0].receipt.id, JobId::derive(b"doze", 1));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_lease_counts_from_before_its_claim_however_late_the_answer_is_read() {
    let Some(rig) = Rig::new().await else { return };
    const STOOD: Duration = Duration::from_secs(3);
    let mut options = ConsumeOptions::new("worker", 1);
    options.lease = Duration::from_secs(10);
    let consumer = rig.provider.consumer(&rig.queue, options).await.unwrap();
    let asleep = sleeps(&consumer, 1).await;
    let (url, queue) = (rig.server.url(), rig.queue.clone());
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let provider = RedisProvider::connect(&RedisOptions::new(url), &Env::system()).await.unwrap();
            let outcomes = provider.publish(&queue, vec![job(5, 0)], &PublishOptions::default()).await;
            assert!(outcomes[0].is_accepted(), "{outcomes:?}");
            tokio::time::sleep(STOOD).await;
        });
    });
    // This process stands still, while its claim is made.
    elsewhere.join().unwrap();
    let jobs = tokio::time::timeout(SOON, asleep).await.unwrap().unwrap();
    let left = jobs[0].lease.remaining.unwrap();
    assert!(left <= Duration::from_secs(10) - STOOD, "{left:?}");
    assert!(left >= Duration::from_secs(5), "{left:?}");
}

/// Calls of scripts so far.
async fn calls(redis: &mut MultiplexedConnection) -> u64 {
    let said: String = redis::cmd("INFO").arg("commandstats").query_async(redis).await.unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap();
    line.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_took_all_there_was_sleeps_again_without_a_look() {
    let Some(mut rig) = Rig::new().await else { return };
    let consumer = rig.consumer(10).await;
    // So that the server knows the scripts.
    rig.publish(5, 9..10).await;
    assert_eq!(consumer.fetch(10, SOON).await.unwrap().len(), 1);
    let mut asleep = sleeps(&consumer, 10).await;
    for n in 0..3 {
        let before = calls(&mut rig.redis).await;
        rig.publish(5, n..n + 1).await;
        let jobs = tokio::time::timeout(SOON, asleep).await.unwrap().unwrap();
        assert_eq!(jobs.iter().map(|job| job.receipt.id).collect::<Vec<_>>(), [JobId::derive(b"doze", n)]);
        asleep = sleeps(&consumer, 10).await;
        assert_eq!(calls(&mut rig.redis).await - before, 2, "its publication and its claim");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_slept_over_that_waits_behind_what_was_cancelled() {
    let Some(rig) = Rig::new().await else { return };
    let one = rig.consumer(10).await;
    let asleep = sleeps(&one, 10).await;
    // All at once: of these three one is passed over, and the last is in another line.
    let jobs = vec![job(9, 0), job(9, 1), job(5, 2)];
    let admin = rig.provider.admin();
    admin.pause(&rig.queue, true).await.unwrap();
    let outcomes = rig.provider.publish(&rig.queue, jobs, &PublishOptions::default()).await;
    assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{outcomes:?}");
    let store = rig.provider.job_store().unwrap();
    let first = JobRef::new(rig.queue.clone(), JobId::derive(b"doze", 0));
    store.cancel(&[first], &Cancel::by("a test")).await.remove(0).unwrap();
    admin.pause(&rig.queue, false).await.unwrap();
    let jobs = tokio::time::timeout(SOON, asleep).await.unwrap().unwrap();
    let mut ids: Vec<_> = jobs.iter().map(|job| job.receipt.id).collect();
    while ids.len() < 2 {
        let more = tokio::time::timeout(SOON, one.fetch(10, Duration::from_secs(30)))
            .await
            .expect("one is slept over")
            .unwrap();
        ids.extend(more.iter().map(|job| job.receipt.id));
    }
    assert_eq!(ids, [1, 2].map(|n| JobId::derive(b"doze", n)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_slept_over_that_was_put_off_as_another_was_claimed() {
    let Some(mut rig) = Rig::new().await else { return };
    let one = rig.consumer(10).await;
    for (n, is_plain) in [(0, true), (2, false)] {
        let asleep = sleeps(&one, 10).await;
        if !is_plain {
            // Time has something to do: the claim is not the plain one.
            let due = redis::cmd("ZADD").arg("queue:{q}:t").arg(1).arg("nobody").take();
            let _: i64 = due.query_async(&mut rig.redis).await.unwrap();
        }
        let mut later = Envelope::builder(
            JobId::derive(b"doze", n + 1),
            JobKind::from_static("k"),
            "{}",
            Timestamp::from_millis(1),
        );
        later.not_before = Some(Env::system().clock.now() + Duration::from_secs(1));
        // One marker tells of both, and the claim that it sets off takes one.
        let jobs = vec![job(5, n), later.seal()];
        let outcomes = rig.provider.publish(&rig.queue, jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{outcomes:?}");
        let first = tokio::time::timeout(SOON, asleep).await.unwrap().unwrap();
        assert_eq!(first.iter().map(|job| job.receipt.id).collect::<Vec<_>>(), [JobId::derive(b"doze", n)]);
        let next = one.fetch(10, Duration::from_secs(30));
        let next = tokio::time::timeout(SOON, next).await.expect("one is slept over").unwrap();
        assert_eq!(next.iter().map(|job| job.receipt.id).collect::<Vec<_>>(), [JobId::derive(b"doze", n + 1)]);
    }
}
