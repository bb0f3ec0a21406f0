//! Listing page by page while jobs come and go.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::HashMap, sync::Arc};

use queue_core::{
    Env, Envelope, JobId, JobStore, QueueName, QueueProvider as _, Timestamp,
    job::JobKind,
    provider::{PublishOptions, PublishOutcome},
    store::JobQuery,
};
use queue_redis::{RedisOptions, RedisProvider};
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
