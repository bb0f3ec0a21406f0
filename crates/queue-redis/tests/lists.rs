//! Listing page by page while jobs come and go.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::HashMap, sync::Arc, time::Duration};

use queue_core::{
    Env, Envelope, JobError, JobId, JobRef, JobStore, QueueName, QueueProvider as _, QueueSpec, Timestamp,
    job::JobKind,
    provider::{ConsumeOptions, Cursor, DeadFilter, Disposition, PublishOptions, PublishOutcome, Redrive, Settlement},
    store::{JobQuery, StageOutcome, StagedJob, TrackingStore as _},
};
use queue_redis::{RedisOptions, RedisProvider, RedisTracking};
use server::Server;

struct Rig {
    server: Server,
    provider: RedisProvider,
    store: Arc<dyn JobStore>,
    queue: QueueName,
}

fn id(n: u64) -> JobId {
    JobId::derive(b"lists", n)
}

impl Rig {
    async fn new() -> Option<Self> {
        if !server::is_installed() {
            assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        let server = Server::start().unwrap();
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
        let store = provider.job_store().unwrap();
        Some(Self { server, provider, store, queue: QueueName::from_static("lists") })
    }

    async fn publish(&self, numbers: std::ops::Range<u64>) {
        let job =
            |n| Envelope::builder(id(n), JobKind::from_static("k"), vec![b'x'; 100], Timestamp::from_millis(1)).seal();
        let outcomes = self.provider.publish(&self.queue, numbers.map(job).collect(), &PublishOptions::default()).await;
        assert!(outcomes.iter().all(PublishOutcome::is_accepted));
    }

    /// As retention forgets them.
    fn forget(&self, numbers: impl Iterator<Item = u64>) {
        let mut connection = redis::Client::open(self.server.url()).unwrap().get_connection().unwrap();
        let ids: Vec<JobId> = numbers.map(id).collect();
        for part in ids.chunks(500) {
            let mut command = redis::cmd("HDEL");
            command.arg("queue:{lists}:j");
            command.arg(part.iter().map(|id| id.as_bytes().as_slice()).collect::<Vec<_>>());
            command.query::<u64>(&mut connection).unwrap();
        }
    }

    /// How often each job was listed, and how many pages were full, where something is done after each page.
    async fn listed(&self, limit: usize, mut after: impl AsyncFnMut(u64)) -> HashMap<JobId, u32> {
        let (mut times, mut cursor, mut page) = (HashMap::new(), None, 0);
        loop {
            let found = self.store.list(&JobQuery::queue(self.queue.clone()), cursor, limit).await.unwrap();
            assert!(found.items.len() <= limit);
            assert!(
                found.items.len() * 2 >= limit || limit < 8 || found.next.is_none(),
                "{} of {limit}",
                found.items.len()
            );
            found.items.iter().for_each(|record| *times.entry(record.job.id).or_default() += 1);
            cursor = found.next;
            if cursor.is_none() {
                return times;
            }
            after(page).await;
            page += 1;
        }
    }
}

#[tokio::test]
async fn each_is_listed_once_whatever_the_pages() {
    let Some(rig) = Rig::new().await else { return };
    for (from, to) in [(0, 5), (5, 60), (60, 3_000)] {
        rig.publish(from..to).await;
        for limit in [1, 2, 3, 7, 20, 100, 101, 5_000].into_iter().filter(|limit| to < 100 || *limit > 6) {
            let listed = rig.listed(limit, async |_| {}).await;
            assert_eq!(listed.len() as u64, to, "in pages of {limit}");
            assert!(listed.values().all(|times| *times == 1), "in pages of {limit}");
        }
    }
}

/// Every tenth stays.
#[tokio::test]
async fn who_stays_is_listed_once_while_others_go() {
    const ALL: u64 = 4_000;
    let Some(rig) = Rig::new().await else { return };
    rig.publish(0..ALL).await;
    let stays = |n: u64| n.is_multiple_of(10);
    // Not so many that the table shrinks.
    let goes = |page: u64| (0..ALL).filter(move |n| !stays(*n) && n % 10 < 7 && n / 10 % 40 == page % 40);
    let listed = rig.listed(20, async |page| rig.forget(goes(page))).await;
    for n in (0..ALL).filter(|n| stays(*n)) {
        assert_eq!(listed.get(&id(n)), Some(&1), "{n}");
    }
}

#[tokio::test]
async fn who_stays_is_listed_while_the_table_shrinks_and_grows() {
    const ALL: u64 = 4_000;
    let Some(rig) = Rig::new().await else { return };
    for limit in [1, 20, 70] {
        rig.publish(0..ALL).await;
        let stays = |n: u64| n.is_multiple_of(40);
        let listed = rig
            .listed(limit, async |page| match page {
                1 => rig.forget((0..ALL).filter(|n| !stays(*n))),
                3 => rig.publish(ALL..2 * ALL).await,
                5 => rig.forget(ALL..2 * ALL),
                _ => {}
            })
            .await;
        for n in (0..ALL).filter(|n| stays(*n)) {
            assert!(listed.contains_key(&id(n)), "{n} in pages of {limit}");
        }
        rig.forget(0..ALL);
        rig.server.tell(&["FLUSHALL"]);
    }
}

/// Who lists dead letters often redrives or drops what he has seen, and goes on.
#[tokio::test]
async fn dead_letters_that_stay_are_listed_once_while_others_go() {
    let Some(rig) = Rig::new().await else { return };
    for shards in [1, 4] {
        let queue = QueueName::new(format!("dead{shards}")).unwrap();
        let mut spec = QueueSpec::new(queue.clone());
        spec.shards = Some(shards);
        rig.provider.declare(&spec).await.unwrap();
        let job = |n| Envelope::builder(id(n), JobKind::from_static("k"), "{}", Timestamp::from_millis(1)).seal();
        for part in 0..10 {
            let batch = (part * 30..part * 30 + 30).map(job).collect();
            rig.provider.publish(&queue, batch, &PublishOptions::default()).await;
        }
        let consumer = rig.provider.consumer(&queue, ConsumeOptions::new("worker", 1_000)).await.unwrap();
        let mut left = 300;
        while left > 0 {
            let taken = consumer.fetch(100, Duration::from_secs(1)).await.unwrap();
            let how = Disposition::DeadLetter { error: JobError::custom("BAD", "no use") };
            let batch: Vec<_> = taken.iter().map(|one| Settlement::new(one.receipt, how.clone())).collect();
            assert!(consumer.settle(&batch).await.iter().all(|outcome| outcome.is_settled()));
            left -= taken.len();
        }
        let admin = rig.provider.admin();
        let (mut seen, mut cursor, mut last) = (Vec::new(), None, None);
        loop {
            let page = admin.dead(&queue, &DeadFilter::default(), cursor, 7).await.unwrap();
            assert!(page.items.len() == 7 || page.next.is_none());
            for dead in &page.items {
                assert!(last <= Some(dead.died_at), "the oldest first");
                last = Some(dead.died_at);
                seen.push(dead.id);
            }
            for dead in page.items.iter().step_by(2) {
                let report = admin.redrive(&queue, &Redrive::one(dead.id)).await.unwrap();
                assert_eq!(report.redriven, 1);
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        seen.sort();
        let mut all: Vec<JobId> = (0..300).map(id).collect();
        all.sort();
        assert_eq!(seen, all, "over {shards} shards");
        assert!(admin.dead(&queue, &DeadFilter::default(), Some(Cursor("7".into())), 7).await.is_err());
    }
}

/// The store of another provider's jobs.
#[tokio::test]
async fn a_tracking_store_lists_who_stays_once_while_others_go() {
    const ALL: u64 = 4_000;
    let Some(rig) = Rig::new().await else { return };
    let store = RedisTracking::connect(&RedisOptions::new(rig.server.url()), &Env::system()).await.unwrap();
    let job =
        |n| Envelope::builder(id(n), JobKind::from_static("k"), vec![b'x'; 100], Timestamp::from_millis(1)).seal();
    for part in 0..ALL / 100 {
        let staged = (part * 100..part * 100 + 100).map(job);
        let staged = staged.map(|job| StagedJob::new("bus", JobRef::new(rig.queue.clone(), job.id), job));
        for outcome in store.stage(&staged.collect::<Vec<_>>(), Duration::from_secs(600)).await {
            assert!(matches!(outcome, StageOutcome::Staged), "{outcome:?}");
        }
    }
    let mut connection = redis::Client::open(rig.server.url()).unwrap().get_connection().unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*{lists}:[sj]").query(&mut connection).unwrap();
    assert_eq!(keys.len(), 2, "{keys:?}");
    let (mut times, mut cursor, mut page) = (HashMap::new(), None, 0);
    loop {
        let found = store.list(&JobQuery::queue(rig.queue.clone()), cursor, 20).await.unwrap();
        found.items.iter().for_each(|record| *times.entry(record.job.id).or_insert(0) += 1);
        cursor = found.next;
        if cursor.is_none() {
            break;
        }
        let goes: Vec<JobId> =
            (0..ALL).filter(|n| (1..7).contains(&(n % 10)) && n / 10 % 40 == page % 40).map(id).collect();
        for key in &keys {
            let ids: Vec<&[u8]> = goes.iter().map(|id| id.as_bytes().as_slice()).collect();
            redis::cmd("HDEL").arg(key).arg(ids).query::<u64>(&mut connection).unwrap();
        }
        page += 1;
    }
    for n in (0..ALL).filter(|n| n.is_multiple_of(10)) {
        assert_eq!(times.get(&id(n)), Some(&1), "{n}");
    }
}
