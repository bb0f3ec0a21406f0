//! Who sleeps has his next claim in the server: it is made there when a job comes, and not when nobody wants it any more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use queue_core::{
    Consumer, Env, Envelope, JobId, QueueName, QueueProvider as _, Timestamp,
    job::JobKind,
    provider::{ConsumeOptions, Delivery, PublishOptions},
};
use queue_redis::{RedisOptions, RedisProvider};
use server::Server;
use tokio::{task::JoinHandle, time::timeout};

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(3);

struct Rig {
    server: Server,
    producer: RedisProvider,
    worker: RedisProvider,
}

async fn connect(server: &Server) -> RedisProvider {
    RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap()
}

type Sleeping = JoinHandle<queue_core::Result<Vec<Delivery>>>;

impl Rig {
    async fn new() -> Option<Self> {
        if !server::is_installed() {
            server::require();
            return None;
        }
        let server = Server::start().unwrap();
        let (producer, worker) = (connect(&server).await, connect(&server).await);
        Some(Self { server, producer, worker })
    }

    async fn consumer(&self, queue: &'static str, lease: Duration) -> Arc<dyn Consumer> {
        let mut options = ConsumeOptions::new("tester", 10);
        options.lease = lease;
        self.worker.consumer(&QueueName::from_static(queue), options).await.unwrap()
    }

    /// A fetch that has come to sleep.
    async fn asleep(&self, consumer: &Arc<dyn Consumer>) -> Sleeping {
        let consumer = Arc::clone(consumer);
        let sleeping = tokio::spawn(async move { consumer.fetch(5, LONG).await });
        tokio::time::sleep(Duration::from_millis(150)).await;
        sleeping
    }

    async fn publish(&self, queue: &'static str, n: u64) {
        let job =
            Envelope::builder(JobId::derive(b"waking", n), JobKind::from_static("k"), "{}", Timestamp::from_millis(1));
        let queue = QueueName::from_static(queue);
        let outcomes = self.producer.publish(&queue, vec![job.seal()], &PublishOptions::default()).await;
        assert!(outcomes[0].is_accepted(), "{outcomes:?}");
    }

    async fn pending(&self, queue: &'static str) -> u64 {
        let queue = QueueName::from_static(queue);
        self.producer.admin().stats(&[queue]).await.remove(0).unwrap().pending
    }

    fn calls(&self) -> u64 {
        self.worker.client().stats().calls
    }
}

async fn woken(sleeping: Sleeping) -> Vec<Delivery> {
    timeout(SOON, sleeping).await.expect("it sleeps on").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_comes_to_who_sleeps_without_his_asking() {
    let Some(rig) = Rig::new().await else { return };
    let consumer = rig.consumer("a", LONG).await;
    for n in 0..3 {
        let sleeping = rig.asleep(&consumer).await;
        let before = rig.calls();
        rig.publish("a", n).await;
        assert_eq!(woken(sleeping).await.len(), 1);
        assert_eq!(rig.calls(), before, "it asked, though the server had its claim");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_short_leases_or_many_queues_is_woken_all_the_same() {
    let Some(rig) = Rig::new().await else { return };
    let short = rig.consumer("short", Duration::from_secs(2)).await;
    let sleeping = rig.asleep(&short).await;
    rig.publish("short", 1).await;
    assert_eq!(woken(sleeping).await.len(), 1);
    let mut asleep = Vec::new();
    for queue in ["a", "b", "c", "d", "e", "f"] {
        let consumer = rig.consumer(queue, LONG).await;
        asleep.push((queue, rig.asleep(&consumer).await));
    }
    for (queue, sleeping) in asleep.into_iter().rev() {
        rig.publish(queue, 2).await;
        assert_eq!(woken(sleeping).await.len(), 1, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_sleep_on_one_queue_are_woken_one_after_the_other() {
    let Some(rig) = Rig::new().await else { return };
    let consumer = rig.consumer("a", LONG).await;
    let asleep = [rig.asleep(&consumer).await, rig.asleep(&consumer).await, rig.asleep(&consumer).await];
    for n in 0..3 {
        rig.publish("a", n).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for sleeping in asleep {
        assert_eq!(woken(sleeping).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_taken_back_by_who_closes_or_wants_no_more() {
    let Some(rig) = Rig::new().await else { return };
    let consumer = rig.consumer("a", LONG).await;
    let sleeping = rig.asleep(&consumer).await;
    consumer.demand(0).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.publish("a", 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.pending("a").await, 1, "it was claimed for who wants none");
    consumer.demand(10).await.unwrap();
    assert_eq!(woken(sleeping).await.len(), 1);

    let sleeping = rig.asleep(&consumer).await;
    consumer.close(Duration::ZERO).await;
    assert_eq!(woken(sleeping).await.len(), 0);
    rig.publish("a", 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.pending("a").await, 1, "it was claimed for who has closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_dropped_takes_no_job_with_it() {
    let Some(rig) = Rig::new().await else { return };
    let consumer = rig.consumer("a", LONG).await;
    let sleeping = rig.asleep(&consumer).await;
    sleeping.abort();
    let _ = sleeping.await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.publish("a", 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.pending("a").await, 1, "it was claimed for nobody");
    assert_eq!(consumer.fetch(1, LONG).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_the_server_forgot_how_to_make_is_made_again() {
    let Some(rig) = Rig::new().await else { return };
    let consumer = rig.consumer("a", LONG).await;
    let sleeping = rig.asleep(&consumer).await;
    rig.server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    rig.publish("a", 1).await;
    assert_eq!(woken(sleeping).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_that_ends_while_all_sleep_is_no_later_than_its_time() {
    let Some(rig) = Rig::new().await else { return };
    let consumer = rig.consumer("a", LONG).await;
    let sleeping = rig.asleep(&consumer).await;
    let due = Env::system().now().as_millis() + 400;
    let job =
        Envelope::builder(JobId::derive(b"waking", 1), JobKind::from_static("k"), "{}", Timestamp::from_millis(1));
    let job = job.seal().edit(|job| job.not_before = Some(Timestamp::from_millis(due)));
    let queue = QueueName::from_static("a");
    rig.producer.publish(&queue, vec![job], &PublishOptions::default()).await;
    assert_eq!(woken(sleeping).await.len(), 1);
    let late = Env::system().now().as_millis().saturating_sub(due);
    assert!(late < 250, "{late} ms late");
}

/// What interrupts a wait is popped by it; where the process dies before that, it goes by itself.
#[tokio::test]
async fn what_interrupts_a_wait_ends_by_itself() {
    let Some(rig) = Rig::new().await else { return };
    let short = Duration::from_secs(2);
    let first = rig.consumer("first", short).await;
    let sleeping = rig.asleep(&first).await;
    let second = rig.consumer("second", short).await;
    let other = rig.asleep(&second).await;
    let calls = |name: &str| -> u64 {
        let report = rig.server.tell(&["INFO", "commandstats"]);
        let line = report.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:"))).map(str::to_owned);
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1).map(str::to_owned));
        calls.map_or(0, |calls| calls.parse().unwrap())
    };
    assert!(calls("bzpopmin") >= 2, "the first wait was interrupted for the second");
    assert!(calls("expire") >= 1);
    sleeping.abort();
    other.abort();
}
