//! Batches as one call carries them: bounded in bytes, and each job of them by itself where one is special.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    Consumer, Env, Envelope, JobId, QueueName, QueueProvider, QueueSpec,
    job::{JobKind, Priority},
    provider::{
        ConsumeOptions, Delivery, Disposition, PublishOptions, Receipt, ReleaseReason, SettleOutcome, Settlement,
    },
    queue_spec::Tracking,
};
use queue_redis::{RedisOptions, RedisProvider};
use server::Server;

struct Rig {
    provider: RedisProvider,
    queue: QueueName,
    consumer: Arc<dyn Consumer>,
    env: Env,
    _server: Server,
}

impl Rig {
    async fn new(tracking: Tracking) -> Option<Self> {
        if !server::is_installed() {
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        let server = Server::start().unwrap();
        let (queue, env) = (QueueName::from_static("q"), Env::system());
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &env).await.unwrap();
        let mut spec = QueueSpec::new(queue.clone());
        spec.tracking = tracking;
        spec.max_encoded_len = 8 << 20;
        provider.declare(&spec).await.unwrap();
        let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 1_000)).await.unwrap();
        Some(Self { provider, queue, consumer, env, _server: server })
    }

    /// So many jobs of so many bytes, in the order of their publication.
    async fn publish(&self, priority: u8, count: usize, bytes: usize) -> Vec<JobId> {
        let payload = Bytes::from(format!("\"{}\"", "x".repeat(bytes)));
        let job = |_| {
            let id = JobId::fresh_at(self.env.now(), &*self.env.random);
            let mut parts = Envelope::builder(id, JobKind::from_static("bytes"), payload.clone(), self.env.now());
            parts.priority = Priority::new(priority).unwrap();
            parts.seal()
        };
        let jobs: Vec<Envelope> = (0..count).map(job).collect();
        let ids = jobs.iter().map(|job| job.id).collect();
        let outcomes = self.provider.publish(&self.queue, jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()));
        ids
    }

    async fn fetch(&self) -> Vec<Delivery> {
        self.consumer.fetch(100, Duration::ZERO).await.unwrap()
    }

    async fn settle(&self, receipts: &[Receipt], how: Disposition) -> Vec<SettleOutcome> {
        let batch: Vec<_> = receipts.iter().map(|receipt| Settlement::new(*receipt, how.clone())).collect();
        self.consumer.settle(&batch).await
    }
}

fn ids(jobs: &[Delivery]) -> Vec<JobId> {
    jobs.iter().map(|job| job.receipt.id).collect()
}

fn receipts(jobs: &[Delivery]) -> Vec<Receipt> {
    jobs.iter().map(|job| job.receipt).collect()
}

fn done(result: Option<&'static str>) -> Disposition {
    Disposition::Complete { result: result.map(Bytes::from) }
}

const LARGE: usize = 900 << 10;

#[tokio::test]
async fn an_answer_has_four_mebibytes_at_most_and_the_others_keep_their_places() {
    let Some(rig) = Rig::new(Tracking::Full).await else { return };
    let mut expected = rig.publish(9, 3, LARGE).await;
    expected.extend(rig.publish(7, 3, LARGE).await);
    expected.extend(rig.publish(5, 4, LARGE).await);

    let first = rig.fetch().await;
    assert_eq!(ids(&first), expected[..4]);
    // One that stands at the head again makes the call a special one.
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    assert!(rig.settle(&receipts(&first)[1..], release).await.iter().all(|outcome| outcome.is_settled()));
    let second = rig.fetch().await;
    assert_eq!(ids(&second), expected[1..5]);
    let third = rig.fetch().await;
    assert_eq!(ids(&third), expected[5..9]);
    assert_eq!(ids(&rig.fetch().await), expected[9..]);
    assert!(rig.fetch().await.is_empty());
}

#[tokio::test]
async fn a_special_claim_gives_back_to_the_lines_and_to_the_head_what_is_too_much() {
    let Some(rig) = Rig::new(Tracking::Full).await else { return };
    let expected = rig.publish(7, 6, LARGE).await;
    let first = rig.fetch().await;
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    assert!(rig.settle(&receipts(&first), release.clone()).await.iter().all(|outcome| outcome.is_settled()));
    // Those before them have priority, so that the fourth at the head is too much.
    let urgent = rig.publish(9, 1, LARGE).await;
    let next = rig.fetch().await;
    assert_eq!(ids(&next), [&urgent[..], &expected[..3]].concat());
    let rest = rig.fetch().await;
    assert_eq!(ids(&rest), expected[3..]);
    assert!(rig.fetch().await.is_empty());
}

#[tokio::test]
async fn a_job_larger_than_an_answer_comes_alone() {
    let Some(rig) = Rig::new(Tracking::Off).await else { return };
    let huge = rig.publish(9, 1, 6 << 20).await;
    let expected = rig.publish(7, 9, LARGE).await;
    assert_eq!(ids(&rig.fetch().await), huge);
    let mut seen = Vec::new();
    while let jobs = rig.fetch().await
        && !jobs.is_empty()
    {
        assert!(jobs.len() <= 4, "{}", jobs.len());
        seen.extend(ids(&jobs));
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn settlements_of_many_untracked_jobs_are_remembered() {
    let Some(rig) = Rig::new(Tracking::Off).await else { return };
    rig.publish(7, 40, 10).await;
    let jobs = rig.fetch().await;
    assert_eq!(jobs.len(), 40);
    let (many, few) = (&receipts(&jobs)[..30], &receipts(&jobs)[30..]);
    for part in [many, few] {
        let first = rig.settle(part, done(None)).await;
        assert!(first.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled)), "{first:?}");
        let again = rig.settle(part, done(None)).await;
        assert!(again.iter().all(|outcome| matches!(outcome, SettleOutcome::AlreadySettled)), "{again:?}");
        let other = rig.settle(part, done(Some("7"))).await;
        assert!(other.iter().all(|outcome| matches!(outcome, SettleOutcome::Conflict)), "{other:?}");
        let others: Vec<_> = part.iter().map(|one| Receipt { epoch: one.epoch + 1_000, ..*one }).collect();
        let stale = rig.settle(&others, done(None)).await;
        assert!(stale.iter().all(|outcome| matches!(outcome, SettleOutcome::LeaseLost)), "{stale:?}");
    }
}

#[tokio::test]
async fn one_lost_lease_in_a_batch_is_its_own_matter() {
    let Some(rig) = Rig::new(Tracking::Full).await else { return };
    rig.publish(7, 250, 10).await;
    let mut all = Vec::new();
    while let jobs = rig.fetch().await
        && !jobs.is_empty()
    {
        all.extend(receipts(&jobs));
    }
    assert_eq!(all.len(), 250);
    all[120].epoch += 1_000;
    let outcomes = rig.settle(&all, done(Some("12"))).await;
    assert_eq!(outcomes.len(), 250);
    for (index, outcome) in outcomes.iter().enumerate() {
        let expected = index != 120;
        assert_eq!(matches!(outcome, SettleOutcome::Settled), expected, "{index}: {outcome:?}");
    }
    assert!(matches!(outcomes[120], SettleOutcome::LeaseLost));
}

#[tokio::test]
async fn the_last_of_several_settlements_of_an_id_is_known_again() {
    let Some(rig) = Rig::new(Tracking::Off).await else { return };
    let job = |n| {
        let id = JobId::derive(b"twice", n);
        Envelope::builder(id, JobKind::from_static("k"), "{}", rig.env.now()).seal()
    };
    // Once by themselves, and twice with others: what has ended is forgotten, and its id is free again.
    let mut last = Vec::new();
    for count in [1, 20, 20] {
        let outcomes =
            rig.provider.publish(&rig.queue, (0..count).map(job).collect(), &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()));
        last = receipts(&rig.fetch().await);
        assert_eq!(last.len(), usize::try_from(count).unwrap());
        assert!(rig.settle(&last, done(None)).await.iter().all(|outcome| outcome.is_settled()));
    }
    let again = rig.settle(&last, done(None)).await;
    assert!(again.iter().all(|outcome| matches!(outcome, SettleOutcome::AlreadySettled)), "{again:?}");
    let other = rig.settle(&last, done(Some("7"))).await;
    assert!(other.iter().all(|outcome| matches!(outcome, SettleOutcome::Conflict)), "{other:?}");
}
