//! What is published while Redis is away is kept on this machine, and is there once when Redis is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, sync::LazyLock, time::Duration};

use queue_core::{
    Env, Envelope, ErrorCode, JobId, QueueName, QueueProvider, QueueSpec,
    job::{JobKind, Unique, UniqueKey},
    provider::{ConsumeOptions, Disposition, PublishOptions, PublishOutcome, Rejection, Settlement},
};
use queue_memory::{JournalOptions, MemoryProvider};
use queue_redis::{
    ClientEvent, ClientOptions, FailoverMode, RedisClusterClient, RedisOptions, RedisProvider, RedisTracking,
};
use server::Server;
use tokio::time::Instant;

static QUEUE: LazyLock<QueueName> = LazyLock::new(|| QueueName::from_static("mail"));

fn start() -> Option<Server> {
    if !server::is_installed() {
        assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
        eprintln!("LEFT OUT: no redis-server on the path");
        return None;
    }
    Some(Server::start().unwrap())
}

fn options(server: &Server, spool: MemoryProvider) -> RedisOptions {
    let mut client = ClientOptions::from_url(&server.url()).unwrap().failover(FailoverMode::AirgapSafe);
    (client.retry_for, client.answer_timeout) = (Duration::from_millis(300), Duration::from_secs(1));
    let mut options = RedisOptions::with_client(client);
    options.spool = Some(Arc::new(spool));
    options
}

async fn connect(server: &Server, spool: MemoryProvider) -> RedisProvider {
    let provider = RedisProvider::connect(&options(server, spool), &Env::system()).await.unwrap();
    provider.declare(&QueueSpec::new(QUEUE.clone())).await.unwrap();
    provider
}

fn job(payload: usize) -> Envelope {
    let env = Env::system();
    Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), vec![b'7'; payload], env.now()).seal()
}

async fn publish(provider: &RedisProvider, jobs: &[Envelope]) -> Vec<PublishOutcome> {
    provider.publish(&QUEUE, jobs.to_vec(), &PublishOptions::default()).await
}

async fn accept(provider: &RedisProvider, jobs: &[Envelope]) {
    for part in jobs.chunks(100) {
        let outcomes = publish(provider, part).await;
        assert!(outcomes.iter().all(PublishOutcome::is_accepted), "{outcomes:?}");
    }
}

/// Runs so many jobs, and makes sure that there are no more.
async fn run(provider: &RedisProvider, count: usize) -> Vec<JobId> {
    let consumer = provider.consumer(&QUEUE, ConsumeOptions::new("worker", 100)).await.unwrap();
    let (mut ids, begun) = (Vec::new(), Instant::now());
    while ids.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} of {count} came", ids.len());
        let Ok(some) = consumer.fetch(100, Duration::from_secs(1)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        ids.extend(some.iter().map(|delivery| delivery.envelope.id));
        let done = some.iter().map(|job| Settlement::new(job.receipt, Disposition::Complete { result: None }));
        assert!(consumer.settle(&done.collect::<Vec<_>>()).await.iter().all(|outcome| outcome.is_settled()));
    }
    assert!(consumer.fetch(100, Duration::from_millis(300)).await.unwrap().is_empty(), "one came twice");
    ids
}

async fn drained(provider: &RedisProvider) {
    let begun = Instant::now();
    loop {
        let status = provider.spool().await.unwrap().unwrap();
        if status.waiting == 0 && !status.in_use {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ids(jobs: &[Envelope]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_meanwhile_comes_once_and_in_order() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    let mut events = provider.client().events();
    let jobs: Vec<_> = (0..250).map(|_| job(10)).collect();
    accept(&provider, &jobs[..10]).await;
    server.kill();
    accept(&provider, &jobs[10..]).await;
    let status = provider.spool().await.unwrap().unwrap();
    assert_eq!((status.in_use, status.waiting, status.refused), (true, 240, 0));
    let begun = Instant::now();
    accept(&provider, &jobs[10..20]).await;
    assert!(
        begun.elapsed() < Duration::from_millis(250),
        "who is known to be away is not asked: {:?}",
        begun.elapsed()
    );

    let env = Env::system();
    let mut unique = Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), "{}", env.now());
    unique.unique = Some(Box::new(Unique { key: UniqueKey::new("one").unwrap(), window: None }));
    let refused = publish(&provider, &[unique.seal()]).await;
    let [PublishOutcome::Rejected(Rejection::Unavailable(error))] = &refused[..] else { panic!("{refused:?}") };
    assert!(error.message().contains("unique key"), "{error}");

    server.restart_after_kill();
    assert_eq!(run(&provider, 250).await, ids(&jobs));
    drained(&provider).await;
    let more = job(10);
    accept(&provider, std::slice::from_ref(&more)).await;
    assert_eq!(provider.spool().await.unwrap().unwrap().waiting, 0, "Redis is told again");
    assert_eq!(run(&provider, 1).await, [more.id]);
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.extend(matches!(event, ClientEvent::Spooling { .. } | ClientEvent::Connected { .. }).then_some(event));
    }
    let queue: Box<str> = "mail".into();
    assert_eq!(told, [ClientEvent::Spooling { queue: queue.clone() }, ClientEvent::Connected { queue }]);
    provider.close().await.unwrap();
}

/// The first is with the server already when the server says nothing any more: it is done after all, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_makes_no_second_job() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    let jobs: Vec<_> = (0..20).map(|_| job(10)).collect();
    accept(&provider, &jobs[..1]).await;
    server.hang();
    accept(&provider, &jobs[1..]).await;
    server.go_on();
    let mut ran = run(&provider, 20).await;
    ran.sort();
    let mut all = ids(&jobs);
    all.sort();
    assert_eq!(ran, all);
}

/// An id is one job in one queue, and another one in another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_in_two_queues_is_two_jobs() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    let other = QueueName::from_static("other");
    provider.declare(&QueueSpec::new(other.clone())).await.unwrap();
    server.kill();
    let one = job(10);
    accept(&provider, &[one.clone(), one.clone()]).await;
    let outcomes = provider.publish(&other, vec![one.clone()], &PublishOptions::default()).await;
    assert!(outcomes[0].is_accepted(), "{outcomes:?}");
    server.restart_after_kill();
    drained(&provider).await;
    for stats in provider.admin().stats(&[QUEUE.clone(), other]).await {
        let stats = stats.unwrap();
        assert_eq!(stats.pending, 1, "{}", stats.queue);
    }
    assert_eq!(run(&provider, 1).await, [one.id]);
}

/// Its declaration cannot be read, by this version: it is for another to take its jobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_cannot_be_published_to_holds_up_no_other() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    let newer = QueueName::from_static("newer");
    server.tell(&["SET", "queue:{newer}:spec", "?"]);
    server.kill();
    for _ in 0..2 {
        let batch = (0..75).map(|_| job(10)).collect();
        let outcomes = provider.publish(&newer, batch, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(PublishOutcome::is_accepted), "{outcomes:?}");
    }
    let jobs: Vec<_> = (0..5).map(|_| job(10)).collect();
    accept(&provider, &jobs).await;
    server.restart_after_kill();
    assert_eq!(run(&provider, 5).await, ids(&jobs));
    assert_eq!(provider.spool().await.unwrap().unwrap().waiting, 150, "they wait for a version that can");
    let outcomes = provider.publish(&newer, vec![job(10)], &PublishOptions::default()).await;
    assert!(!outcomes[0].is_accepted(), "who publishes hears of it: {outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_keeps_them_for_the_next_process() {
    let Some(server) = start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let open = || MemoryProvider::open(&JournalOptions::folder(dir.path()), Env::system()).unwrap();
    let provider = connect(&server, open()).await;
    let jobs: Vec<_> = (0..30).map(|_| job(10)).collect();
    server.kill();
    accept(&provider, &jobs).await;
    provider.close().await.unwrap();
    let closed = publish(&provider, &jobs[..1]).await;
    assert!(!closed[0].is_accepted(), "{closed:?}");
    drop(provider);
    server.restart_after_kill();
    let provider = connect(&server, open()).await;
    assert_eq!(run(&provider, 30).await, ids(&jobs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_does_not_take_is_a_dead_letter_and_a_full_spool_says_so() {
    let Some(server) = start() else { return };
    let provider = RedisProvider::connect(&options(&server, MemoryProvider::new()), &Env::system()).await.unwrap();
    let mut spec = QueueSpec::new(QUEUE.clone());
    (spec.max_encoded_len, spec.max_len) = (1_000, Some(5));
    provider.declare(&spec).await.unwrap();
    server.kill();
    let jobs: Vec<_> = (0..9_999).map(|_| job(10)).collect();
    accept(&provider, &jobs[..1]).await;
    accept(&provider, &[job(2_000)]).await;
    accept(&provider, &jobs[1..]).await;
    // The batch that is on its way to Redis does not count.
    let more: Vec<_> = (0..101).map(|_| job(10)).collect();
    let outcomes = publish(&provider, &more).await;
    let accepted = outcomes.iter().filter(|outcome| outcome.is_accepted()).count();
    assert!(accepted <= 100, "{accepted}");
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_accepted()) {
        let PublishOutcome::Rejected(Rejection::Unavailable(error)) = outcome else { panic!("{outcome:?}") };
        assert!(error.message().contains("10000 jobs"), "{error}");
    }
    server.restart_after_kill();
    drained(&provider).await;
    assert_eq!(provider.spool().await.unwrap().unwrap().refused, 1);
    let stats = provider.admin().stats(std::slice::from_ref(&*QUEUE)).await.remove(0).unwrap();
    assert_eq!(stats.pending, 9_999 + accepted as u64, "they were accepted, so that a full queue takes them");
}

/// What fills it is for a version that can read its queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_keeps_no_queue_from_a_redis_that_is_there() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    let newer = QueueName::from_static("newer");
    server.tell(&["SET", "queue:{newer}:spec", "?"]);
    server.kill();
    for _ in 0..102 {
        let batch = (0..100).map(|_| job(10)).collect();
        provider.publish(&newer, batch, &PublishOptions::default()).await;
    }
    let outcomes = publish(&provider, &[job(10)]).await;
    assert!(!outcomes[0].is_accepted(), "there is no room: {outcomes:?}");
    server.restart_after_kill();
    let begun = Instant::now();
    while !publish(&provider, &[job(10)]).await[0].is_accepted() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", provider.spool().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(provider.spool().await.unwrap().unwrap().waiting >= 9_900);
    run(&provider, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_spool_takes_says_nothing_of_redis() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    server.kill();
    for _ in 0..102 {
        let batch: Vec<_> = (0..100).map(|_| job(10)).collect();
        publish(&provider, &batch).await;
    }
    // By then whoever publishes looks whether Redis is there.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let unique = Unique { key: UniqueKey::new("one").unwrap(), window: None };
    let unique = job(10).edit(|parts| parts.unique = Some(Box::new(unique)));
    let outcomes = publish(&provider, &[unique]).await;
    assert!(!outcomes[0].is_accepted(), "{outcomes:?}");
    assert!(provider.spool().await.unwrap().unwrap().in_use, "it is away as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_on_already_keeps_no_queue_away() {
    let Some(server) = start() else { return };
    let provider = connect(&server, MemoryProvider::new()).await;
    let one = job(10);
    for _ in 0..2 {
        server.kill();
        accept(&provider, std::slice::from_ref(&one)).await;
        server.restart_after_kill();
        drained(&provider).await;
    }
    assert_eq!(run(&provider, 1).await, [one.id]);
}

/// It is there, and cannot write to its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_for_its_disk_is_away() {
    if start().is_none() {
        return;
    }
    let settings = ["--appendonly", "no", "--enable-protected-configs", "yes"];
    let server = Server::start_with(server::free_port().unwrap(), &settings).unwrap();
    let provider = connect(&server, MemoryProvider::new()).await;
    let jobs: Vec<_> = (0..20).map(|_| job(10)).collect();
    accept(&provider, &jobs[..5]).await;
    server.refuse_writes();
    accept(&provider, &jobs[5..]).await;
    assert_eq!(provider.spool().await.unwrap().unwrap().waiting, 15);
    server.take_writes();
    drained(&provider).await;
    assert_eq!(run(&provider, 20).await, ids(&jobs));
}

#[tokio::test]
async fn half_of_it_is_refused() {
    let Some(server) = start() else { return };
    let env = Env::system();
    let code = |result: queue_core::Result<()>| result.unwrap_err().code();
    let mut without = options(&server, MemoryProvider::new());
    without.spool = None;
    assert_eq!(code(RedisProvider::connect(&without, &env).await.map(drop)), ErrorCode::Config);
    assert_eq!(code(RedisTracking::connect(&without, &env).await.map(drop)), ErrorCode::Config);
    let client = without.client.unwrap();
    assert_eq!(code(RedisClusterClient::connect(client, &env).await.map(drop)), ErrorCode::Unsupported);
    let mut idle = RedisOptions::new(server.url());
    idle.spool = Some(Arc::new(MemoryProvider::new()));
    assert_eq!(code(RedisProvider::connect(&idle, &env).await.map(drop)), ErrorCode::Config);
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_names_the_folder_of_a_journal() {
    let Some(server) = start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut registry = queue_core::provider::Registry::new();
    queue_redis::register(&mut registry);
    let url = format!("{}?failover=airgap-safe&spool={}/a%20b", server.url(), dir.path().display());
    let url = queue_core::provider::ProviderUrl::parse(&url).unwrap();
    let provider = registry.connect(&url, &Env::system()).await.unwrap();
    assert!(dir.path().join("a b").read_dir().unwrap().count() > 0, "there is a journal");
    let second = registry.connect(&url, &Env::system()).await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::StoreInUse, "{second}");
    provider.close().await.unwrap();
}
