//! A queue in which nothing runs costs no commands, and whatever begins in it calls who maintains it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::time::Duration;

use queue_core::{
    Env, Envelope, JobId, QueueName, QueueProvider as _, QueueSpec, Timestamp,
    job::{JobKind, JobRef},
    lifecycle::JobState,
    provider::{ConsumeOptions, Disposition, PublishOptions, Settlement},
    store::{Lookup, Watch},
};
use queue_redis::{RedisOptions, RedisProvider};
use server::Server;
use tokio::time::Instant;

struct Rig {
    server: Server,
    /// Leads.
    leader: RedisProvider,
    /// Does things.
    other: RedisProvider,
    queue: QueueName,
}

async fn connect(server: &Server) -> RedisProvider {
    RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap()
}

fn envelope(n: u64) -> Envelope {
    Envelope::builder(
        JobId::derive(b"resting", n),
        JobKind::from_static("k"),
        vec![b'x'; 10],
        Timestamp::from_millis(1),
    )
    .seal()
}

fn expiring(n: u64, within: Duration) -> Envelope {
    let at = Env::system().now().as_millis() + u64::try_from(within.as_millis()).unwrap();
    envelope(n).edit(|envelope| envelope.expires_at = Some(Timestamp::from_millis(at)))
}

impl Rig {
    async fn new() -> Option<Self> {
        if !server::is_installed() {
            server::require();
            return None;
        }
        let server = Server::start().unwrap();
        let (leader, other) = (connect(&server).await, connect(&server).await);
        let queue = QueueName::from_static("rests");
        leader.declare(&QueueSpec::new(queue.clone())).await.unwrap();
        let rig = Self { server, leader, other, queue };
        rig.settle_down().await;
        Some(rig)
    }

    fn calls(&self) -> u64 {
        self.leader.client().stats().calls
    }

    /// Maintains as a scheduler does, only more often; how many commands that took.
    async fn maintain(&self) -> u64 {
        let before = self.calls();
        self.leader.maintain(true).await.unwrap();
        self.calls() - before
    }

    /// Until nothing is to do.
    async fn settle_down(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        let mut quiet = 0;
        while quiet < 5 {
            assert!(Instant::now() < until, "it does not come to rest");
            quiet = if self.maintain().await == 0 { quiet + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until maintenance was called.
    async fn called(&self, what: &str) {
        let until = Instant::now() + Duration::from_secs(2);
        while self.maintain().await == 0 {
            assert!(Instant::now() < until, "{what} calls nobody");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn publish(&self, job: Envelope) {
        let outcomes = self.other.publish(&self.queue, vec![job], &PublishOptions::default()).await;
        assert!(outcomes[0].is_accepted(), "{outcomes:?}");
    }

    async fn state(&self, n: u64) -> Option<JobState> {
        let job = JobRef::new(self.queue.clone(), JobId::derive(b"resting", n));
        match self.other.job_store().unwrap().get(&[job]).await.remove(0).unwrap() {
            Lookup::Found(record) => Some(record.state),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_rests_costs_nothing_until_a_job_runs_in_it() {
    let Some(rig) = Rig::new().await else { return };
    // That a job waits is nothing to maintain.
    rig.publish(envelope(1)).await;
    for _ in 0..20 {
        assert_eq!(rig.maintain().await, 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let consumer = rig.other.consumer(&rig.queue, ConsumeOptions::new("tester", 10)).await.unwrap();
    let jobs = consumer.fetch(1, Duration::ZERO).await.unwrap();
    rig.called("a claim").await;
    // While it runs there is no rest.
    for _ in 0..5 {
        assert!(rig.maintain().await > 0);
    }
    consumer.settle(&[Settlement::new(jobs[0].receipt, Disposition::Complete { result: None })]).await;
    rig.settle_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_time_has_to_do_in_a_resting_queue_is_done_in_time() {
    let Some(rig) = Rig::new().await else { return };
    let begun = Instant::now();
    rig.publish(expiring(2, Duration::from_millis(300))).await;
    rig.called("a job that expires").await;
    while rig.state(2).await != Some(JobState::Expired) {
        assert!(begun.elapsed() < Duration::from_millis(1_500), "it is late");
        rig.leader.maintain(true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.settle_down().await;
    let due = Env::system().now().as_millis() + 2_500;
    rig.publish(envelope(3).edit(|envelope| envelope.not_before = Some(Timestamp::from_millis(due)))).await;
    rig.called("a delayed job").await;
    // It is more than a second off: until then there is rest.
    rig.settle_down().await;
    while rig.state(3).await != Some(JobState::Pending) {
        assert!(Env::system().now().as_millis() < due + 1_000, "it is late");
        rig.leader.maintain(true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(Env::system().now().as_millis() >= due);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_declared_meanwhile_is_maintained() {
    let Some(mut rig) = Rig::new().await else { return };
    rig.queue = QueueName::from_static("new");
    rig.other.declare(&QueueSpec::new(rig.queue.clone())).await.unwrap();
    rig.publish(expiring(4, Duration::from_millis(200))).await;
    let begun = Instant::now();
    while rig.state(4).await != Some(JobState::Expired) {
        assert!(begun.elapsed() < Duration::from_millis(1_500), "nobody knows of it");
        rig.leader.maintain(true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_anew_trusts_nothing_that_he_knew() {
    let Some(rig) = Rig::new().await else { return };
    rig.leader.maintain(false).await.unwrap();
    assert!(rig.maintain().await >= 2, "the list and the queue");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_a_resting_queue_are_filled_at_once() {
    let Some(rig) = Rig::new().await else { return };
    rig.publish(envelope(5)).await;
    let mut options = RedisOptions::new(rig.server.url());
    options.indexes = Some(vec![queue_redis::Index::Kind]);
    let indexing = RedisProvider::connect(&options, &Env::system()).await.unwrap();
    indexing.declare(&QueueSpec::new(rig.queue.clone())).await.unwrap();
    rig.called("an index").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_leaves_no_task() {
    let Some(rig) = Rig::new().await else { return };
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let provider = connect(&rig.server).await;
    let consumer = provider.consumer(&rig.queue, ConsumeOptions::new("tester", 10)).await.unwrap();
    let watching = provider.job_store().unwrap().watch(Watch::All).await.unwrap();
    let breakers = provider.limiter().unwrap().watch();
    let waiting = tokio::spawn(async move { consumer.fetch(1, Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = tasks();
    provider.close().await.unwrap();
    let ours = before - tasks();
    // Two that watch, one that waits for jobs and one that looks after the server; and whoever fetched has heard of it.
    assert!(ours >= 4, "{ours} of {before}");
    assert!(waiting.await.unwrap().is_err());
    drop((watching, breakers));
}
