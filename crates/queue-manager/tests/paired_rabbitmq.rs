//! A manager on a real RabbitMQ that is paired with a Redis of its own, which is killed and comes back.

#![cfg(all(feature = "rabbitmq", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod redis_server;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use queue_core::{
    ErrorCode, Event, Failure, Job, Worker,
    event::ProviderStatus,
    limit::{Limit, LimitRule},
    scheduler::WaitReason,
    store::Watched,
};
use queue_manager::{HealthStatus, QueueManager};
use redis_server::RedisServer;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use validator::Validate;

const SECOND: Duration = Duration::from_secs(1);
/// So long a job takes.
const WORK: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Mail {
    to: String,
}

impl Job for Mail {
    const KIND: &'static str = "mail.send";
    const QUEUE: &'static str = "mail";
    type Output = String;
}

fn mail(to: &str) -> Mail {
    Mail { to: to.to_owned() }
}

/// The broker that is up, or none; and the URL of a provider on it whose store this Redis is. No two tests share a queue.
fn url(redis: &RedisServer) -> Option<String> {
    let url = std::env::var("QUEUE_TEST_RABBITMQ_URL").ok().filter(|url| !url.is_empty());
    let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
    let Some(url) = url else {
        assert!(!required, "QUEUE_TEST_RABBITMQ_URL names no broker; `cargo xtask brokers up rabbitmq` starts one");
        eprintln!("NOT TESTED: rabbitmq: QUEUE_TEST_RABBITMQ_URL names no broker");
        return None;
    };
    let (port, mark) = (redis.port(), if url.contains('?') { '&' } else { '?' });
    Some(format!("{url}{mark}prefix=paired-{port}-{}&store=redis%3A%2F%2F127.0.0.1%3A{port}", std::process::id()))
}

/// Who ran, and when they began.
type Runs = Arc<Mutex<Vec<(String, Instant)>>>;

async fn work(queues: &QueueManager, slots: usize) -> (Worker, Runs) {
    let runs = Runs::default();
    let noted = Arc::clone(&runs);
    let handler = move |mail: Mail| {
        noted.lock().unwrap().push((mail.to.clone(), Instant::now()));
        async move {
            sleep(WORK).await;
            Ok::<_, Failure>(mail.to)
        }
    };
    (queues.worker().queue("mail", slots).prefetch(0).register(handler).start().await.unwrap(), runs)
}

fn ran(runs: &Runs, name: &str) -> usize {
    runs.lock().unwrap().iter().filter(|(who, _)| who == name).count()
}

async fn await_that(what: &str, most: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < most, "{what} did not come about in {most:?}");
        sleep(SECOND / 20).await;
    }
    start.elapsed()
}

async fn connect(url: &str) -> QueueManager {
    let builder = QueueManager::builder().url(url);
    builder.configure(|config| config.provider.health_interval = SECOND).connect().await.unwrap()
}

/// What became of the provider and its store, as the events tell it.
fn listen(queues: &QueueManager) -> (Arc<Mutex<Vec<ProviderStatus>>>, tokio::task::JoinHandle<()>) {
    let (noted, queues) = (Arc::<Mutex<Vec<_>>>::default(), queues.clone());
    let kept = Arc::clone(&noted);
    let listener = tokio::spawn(async move {
        let mut events = queues.events().await.unwrap();
        while let Some(event) = events.next().await {
            if let Watched::Event(Event::Provider(event)) = event {
                kept.lock().unwrap().push(event.to);
            }
        }
    });
    (noted, listener)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_and_comes_back_is_shown_and_costs_no_job() {
    let Some(redis) = RedisServer::start().await else { return };
    let Some(url) = url(&redis) else { return };
    let queues = connect(&url).await;
    let (told, listener) = listen(&queues);
    let (worker, runs) = work(&queues, 2).await;
    let first = [queues.enqueue(mail("one")).await.unwrap(), queues.enqueue(mail("two")).await.unwrap()];
    await_that("two jobs at work", 10 * SECOND, async || runs.lock().unwrap().len() == 2).await;
    let three = queues.enqueue(mail("three")).await.unwrap();
    assert!(queues.health().await.is_healthy(), "{:?}", queues.health().await);
    assert_eq!(queues.queues().await.unwrap().len(), 1, "its store lists what the broker cannot");

    redis.kill();
    let degraded = async || {
        let health = queues.health().await;
        let store = health.providers[0].store.clone().unwrap();
        health.providers[0].status == HealthStatus::Degraded && store.status == HealthStatus::Down
    };
    await_that("a degraded health", 10 * SECOND, degraded).await;
    // What ran has ended meanwhile, and waits to be settled; nothing else is claimed.
    sleep(WORK + SECOND).await;
    let health = queues.health().await;
    let provider = &health.providers[0];
    let store = provider.store.as_ref().unwrap();
    assert_eq!(store.settlements_waiting, 2, "{health:?}");
    assert!(store.since.is_some() && store.away_ms.is_some(), "{health:?}");
    assert!(provider.faults.iter().any(|fault| fault.message.contains("its store has not answered for")), "{health:?}");
    assert!(provider.ping_ms.is_some(), "the broker answers: {health:?}");
    assert!(health.live, "the worker waits for the store, it has not stopped: {health:?}");
    assert_eq!(ran(&runs, "three"), 0, "nothing is claimed");
    let why = queues.explain(three.job()).await.unwrap();
    assert!(matches!(why.reasons[..], [WaitReason::StoreAway { .. }, ..]), "{why}");
    // Publishing goes on; a key is the store's.
    let four = queues.enqueue(mail("four")).await.unwrap();
    let keyed = queues.enqueue(mail("five")).unique("five").unwrap().await.unwrap_err();
    assert_eq!(keyed.code(), ErrorCode::Unavailable, "{keyed}");

    redis.start_again().await;
    let settled = async || queues.health().await.providers[0].store.as_ref().unwrap().settlements_waiting == 0;
    // Five seconds are promised where the machine has the time, which the soak proves.
    let after = await_that("settlements", 20 * SECOND, settled).await;
    let consumes = async || ran(&runs, "three") + ran(&runs, "four") > 0;
    let more = await_that("consuming", 20 * SECOND, consumes).await;
    assert!(after + more <= 20 * SECOND, "it consumed {:?} after the store came back", after + more);
    for job in first.iter().chain([&three, &four]) {
        timeout(20 * SECOND, job.result()).await.expect("no result").unwrap();
    }
    for name in ["one", "two", "three", "four"] {
        assert_eq!(ran(&runs, name), 1, "{name} in {:?}", runs.lock().unwrap());
    }
    await_that("good health", 10 * SECOND, async || queues.health().await.is_healthy()).await;
    await_that("the events", 5 * SECOND, async || told.lock().unwrap().len() >= 2).await;
    assert_eq!(*told.lock().unwrap(), [ProviderStatus::StoreAway, ProviderStatus::StoreBack], "the broker was there");
    listener.abort();
    worker.stop().await;
    queues.drop_queue("mail", false).await.unwrap();
    queues.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_counts_for_all_processes_that_share_the_store() {
    let Some(redis) = RedisServer::start().await else { return };
    let Some(url) = url(&redis) else { return };
    let one_at_a_time = || LimitRule { scope: "queue:mail".parse().unwrap(), limit: Limit::Concurrency { max: 1 } };
    let builder = || QueueManager::builder().url(&url).limit(one_at_a_time());
    let (here, there) = (builder().connect().await.unwrap(), builder().connect().await.unwrap());
    let (mine, runs) = work(&here, 2).await;
    let (theirs, others) = work(&there, 2).await;
    let mut jobs = Vec::new();
    for name in ["one", "two", "three"] {
        jobs.push(here.enqueue(mail(name)).await.unwrap());
    }
    for job in &jobs {
        timeout(60 * SECOND, job.result()).await.expect("no result").unwrap();
    }
    let mut begun: Vec<Instant> =
        runs.lock().unwrap().iter().chain(&*others.lock().unwrap()).map(|(_, at)| *at).collect();
    begun.sort();
    assert_eq!(begun.len(), 3);
    for pair in begun.windows(2) {
        assert!(pair[1] - pair[0] >= WORK, "two ran at once: {begun:?}");
    }
    mine.stop().await;
    theirs.stop().await;
    here.drop_queue("mail", false).await.unwrap();
    here.close().await.unwrap();
    there.close().await.unwrap();
}
