//! The manager as a program connects and asks it.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{collections::BTreeMap, io::Write as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, Failure, Job, Priority, QueueName, QueueProvider, QueueSpec, Result, Timestamp,
    job::JobKind,
    lifecycle::JobState,
    provider::{Cancel, ProviderFactory, ProviderInfo, ProviderUrl, PublishOptions, Registry},
    queue_spec::Partition,
    scheduler::{NewJob, Submitted},
    store::{CancelOutcome, JobQuery},
};
use queue_manager::{HealthStatus, ManagerBuilder, QueueManager};
use queue_memory::MemoryProvider;
use queue_testkit::front::{InFront, ProviderFront};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Add {
    #[validate(range(max = 1000))]
    a: u32,
    b: u32,
}

impl Job for Add {
    const KIND: &'static str = "math.add";
    const QUEUE: &'static str = "math";
    type Output = u32;
}

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> ManagerBuilder {
    QueueManager::builder().env(Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7))
}

async fn manager() -> QueueManager {
    builder().url("memory:").connect().await.unwrap()
}

async fn refused(url: &str) -> Error {
    QueueManager::connect(url).await.unwrap_err()
}

#[tokio::test]
async fn a_url_is_enough_and_a_bad_one_says_what_to_do() {
    QueueManager::connect("memory:").await.unwrap().close().await.unwrap();
    for (url, said) in [
        ("sqs://:hunter2@host", "Cargo feature `sqs`"),
        ("kafka://:hunter2@a,b", "Cargo feature `kafka`"),
        ("nats://:hunter2@host", "no provider answers to `nats:`; compiled in: "),
        ("memory:?hunter3=hunter2", "`hunter3`"),
        ("hunter2", "such as `memory:`"),
    ] {
        let error = refused(url).await;
        assert_eq!(error.code(), ErrorCode::Config, "{error}");
        assert!(error.message().contains(said) && !error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn the_environment_chooses_and_the_program_wins() {
    let connect = async |variables: &[(&str, &str)]| builder().variables(variables.iter().copied()).connect().await;
    assert_eq!(connect(&[]).await.unwrap().config().provider.url.expose(), "memory:");
    assert!(connect(&[("MESSAGE_QUEUE_PROVIDER", "memory"), ("REDIS_URL", "redis://h")]).await.is_ok());
    let error = connect(&[("MESSAGE_QUEUE_PROVIDER", "kafka")]).await.unwrap_err();
    assert!(error.message().contains("queue-kafka"), "{error}");
    let program = builder().variables([("MESSAGE_QUEUE_PROVIDER", "kafka")]).url("memory:");
    assert!(program.connect().await.is_ok());
}

#[tokio::test]
async fn queues_of_the_configuration_are_declared() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[queues.math]\nmax_len = 1\n[queues.other]\nmax_len = 5\n").unwrap();
    let mut spec = QueueSpec::new(QueueName::from_static("other"));
    spec.max_len = Some(2);
    let queues = builder().file(file.path()).queue(spec).connect().await.unwrap();
    assert_eq!(queues.queues().await.unwrap(), [QueueName::from_static("math"), QueueName::from_static("other")]);
    queues.enqueue(Add { a: 1, b: 1 }).await.unwrap();
    assert_eq!(queues.enqueue(Add { a: 1, b: 1 }).await.unwrap_err().code(), ErrorCode::QueueFull);
    assert_eq!(queues.scheduler("other").unwrap().spec(&QueueName::from_static("other")).max_len, Some(2));

    let bad = builder().configure(|config| {
        let durability = Some(queue_core::provider::Durability::Synced);
        config.queues.entry(QueueName::from_static("math")).or_default().durability = durability;
    });
    let provider = Arc::new(MemoryProvider::new());
    let bad = bad.provider(provider.clone());
    assert_eq!(bad.connect().await.unwrap_err().code(), ErrorCode::Unsupported);
    assert_eq!(provider.ping().await.unwrap_err().code(), ErrorCode::Closed, "nothing is left open");

    let bad = builder().configure(|config| config.worker.lease = Duration::ZERO);
    let error = bad.connect().await.unwrap_err();
    assert!(error.code() == ErrorCode::Config && error.message().contains("`worker.lease`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn typed_jobs_run_singly_and_in_a_batch() {
    let queues = manager().await;
    let worker = queues
        .worker()
        .queue("math", 4)
        .heartbeat_on_runtime()
        .register(async |job: Add| Ok::<_, Failure>(job.a + job.b))
        .start()
        .await
        .unwrap();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).priority(Priority::HIGH).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), 3);
    assert_eq!(queues.handle::<u32>(handle.job().clone()).result().await.unwrap(), 3);
    assert_eq!(queues.job(handle.job()).await.unwrap().state, JobState::Completed);

    // The one that breaks its own rules is refused in its place.
    let mut batch = queues.enqueue_all([1, 1001, 3].map(|a| Add { a, b: 0 })).await.into_iter();
    assert_eq!(batch.next().unwrap().unwrap().result().await.unwrap(), 1);
    assert_eq!(batch.next().unwrap().unwrap_err().code(), ErrorCode::Validation);
    assert_eq!(batch.next().unwrap().unwrap().result().await.unwrap(), 3);
    assert!(batch.next().is_none());

    let raw = NewJob::new(JobKind::from_static("math.add"), r#"{"a":4,"b":5}"#);
    let raw = queues.enqueue_raw("math", raw).await.unwrap();
    assert_eq!(raw.result().await.unwrap(), serde_json::json!(9));
    worker.stop().await;
    queues.close().await.unwrap();
    assert_eq!(queues.enqueue(Add { a: 1, b: 2 }).await.unwrap_err().code(), ErrorCode::Closed);
}

#[tokio::test]
async fn a_unique_key_leads_a_batch_to_the_same_job() {
    let queues = manager().await;
    let one = || {
        let mut job = NewJob::typed(&Add { a: 1, b: 2 }).unwrap();
        job.options.unique =
            Some(queue_core::job::Unique { key: queue_core::job::UniqueKey::new("k").unwrap(), window: None });
        job
    };
    let first = queues.enqueue_raw("math", one()).await.unwrap();
    let second = queues.enqueue_raw("math", one()).await.unwrap();
    assert_eq!((first.is_duplicate(), second.is_duplicate()), (false, true));
    assert_eq!(first.job(), second.job());
    let batch = queues.enqueue_batch("math", vec![one(), one()], &PublishOptions::default()).await.unwrap();
    assert!(matches!(&batch[..], [Submitted::Duplicate(a), Submitted::Duplicate(b)] if a == first.job() && b == a));
}

#[tokio::test]
async fn queues_are_looked_after() {
    let queues = manager().await;
    for a in 0..3 {
        queues.enqueue(Add { a, b: 0 }).await.unwrap();
    }
    let later = queues.enqueue(Add { a: 9, b: 0 }).delay(SECOND).to("later").await.unwrap();
    assert_eq!((queues.size("math").await.unwrap(), queues.size("later").await.unwrap()), (3, 1));
    let all = queues.stats_all().await.unwrap();
    let all: Vec<_> = all.iter().map(|stats| (stats.queue.as_str(), stats.pending, stats.scheduled)).collect();
    assert_eq!(all, [("later", 0, 1), ("math", 3, 0)]);

    let query = JobQuery::queue(QueueName::from_static("later"));
    assert_eq!(queues.jobs(&query, None, 10).await.unwrap().items[0].job, *later.job());
    assert_eq!(queues.jobs(&JobQuery::default(), None, 10).await.unwrap_err().code(), ErrorCode::Validation);
    assert_eq!(queues.cancel(later.job(), &Cancel::by("me")).await.unwrap(), CancelOutcome::Cancelled);

    queues.pause("math").await.unwrap();
    assert!(queues.stats("math").await.unwrap().paused);
    queues.resume("math").await.unwrap();
    assert!(!queues.stats("math").await.unwrap().paused);
    assert_eq!(queues.purge("math").await.unwrap(), 3);
    assert_eq!(queues.size("math").await.unwrap(), 0);
    queues.drop_queue("math", true).await.unwrap();
    assert_eq!(queues.stats("math").await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(queues.stats("no name").await.unwrap_err().code(), ErrorCode::Validation);
}

#[tokio::test(start_paused = true)]
async fn health_tells_what_waits_and_what_does_not_answer() {
    let queues = manager().await;
    queues.enqueue(Add { a: 1, b: 2 }).await.unwrap();
    queues.declare(QueueSpec::new(QueueName::from_static("idle"))).await.unwrap();
    tokio::time::sleep(90 * SECOND).await;
    let report = queues.health().await;
    assert!(report.is_healthy(), "{report:?}");
    let [provider] = &report.providers[..] else { panic!("{report:?}") };
    assert_eq!((provider.provider.as_str(), provider.url.as_deref()), ("memory", Some("memory:")));
    assert!(provider.maintenance_age_ms.unwrap() <= 1_000, "{provider:?}");
    let [idle, math] = &provider.queues[..] else { panic!("{provider:?}") };
    assert_eq!((idle.queue.as_str(), idle.oldest_pending_ms), ("idle", None));
    assert_eq!((math.pending, math.oldest_pending_ms), (1, Some(90_000)));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["status"], "healthy");
    assert_eq!(json["providers"][0]["queues"][1]["oldest_pending_ms"], 90_000);

    queues.close().await.unwrap();
    let report = queues.health().await;
    assert_eq!(report.status, HealthStatus::Down);
    assert_eq!(report.providers[0].faults[0].code, "CLOSED");
    // The maintenance stopped with it.
    tokio::time::sleep(60 * SECOND).await;
    let report = queues.health().await;
    assert_eq!(report.providers[0].faults.len(), 2, "{report:?}");
    assert_eq!(report.providers[0].faults[0].code, "UNAVAILABLE");
}

/// Its maintenance fails, every time.
#[derive(Debug)]
struct Unkempt(MemoryProvider);

#[async_trait]
impl ProviderFront for Unkempt {
    fn behind(&self) -> &dyn QueueProvider {
        &self.0
    }

    async fn maintain(&self, _: bool) -> Result<Duration> {
        Err(Error::new(ErrorCode::Unavailable, "no script"))
    }
}

#[tokio::test(start_paused = true)]
async fn health_tells_of_maintenance_that_never_did_a_round() {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
    let provider = Arc::new(InFront(Unkempt(MemoryProvider::with_env(env.clone()))));
    let queues = QueueManager::builder().env(env).provider(provider).connect().await.unwrap();
    tokio::time::sleep(300 * SECOND).await;
    assert!(queues.health().await.is_healthy(), "nothing has needed it");
    queues.enqueue(Add { a: 1, b: 2 }).await.unwrap();
    tokio::time::sleep(29 * SECOND).await;
    assert!(queues.health().await.is_healthy(), "it may have just begun");
    tokio::time::sleep(2 * SECOND).await;
    let report = queues.health().await;
    let provider = &report.providers[0];
    assert_eq!((provider.status, provider.maintenance_age_ms), (HealthStatus::Degraded, None));
    let [fault] = &provider.faults[..] else { panic!("{report:?}") };
    assert!(fault.message.contains("no round since it began 31s ago"), "{fault:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_partition_is_no_want_of_slots() {
    let queues = manager().await;
    let mut spec = QueueSpec::new(QueueName::from_static("math"));
    spec.partitions = BTreeMap::from([("bulk".into(), Partition { weight: 1, max_concurrency: Some(1) })]);
    queues.declare(spec).await.unwrap();
    let never = async |_: Add| std::future::pending::<std::result::Result<u32, Failure>>().await;
    let worker =
        queues.worker().queue("math", 2).prefetch(0).heartbeat_on_runtime().register(never).start().await.unwrap();
    let enqueue = async |partition: &str| {
        let job = queues.enqueue(Add { a: 1, b: 2 }).timeout(99_999 * SECOND).partition(partition);
        job.await.unwrap();
        tokio::time::sleep(SECOND).await;
    };
    enqueue("bulk").await;
    enqueue("bulk").await;
    tokio::time::sleep(700 * SECOND).await;
    let report = queues.health().await;
    let math = &report.providers[0].queues[0];
    assert!(report.is_healthy(), "another slot would not help: {report:?}");
    assert_eq!((math.pending, math.oldest_claimable_ms), (1, None));
    assert!(math.oldest_pending_ms.unwrap() >= 700_000, "{math:?}");
    // Beside it one takes the other slot, and for a third there is none.
    enqueue("default").await;
    enqueue("default").await;
    tokio::time::sleep(700 * SECOND).await;
    let report = queues.health().await;
    let [fault] = &report.providers[0].faults[..] else { panic!("{report:?}") };
    assert!(fault.message.contains("has waited 701s"), "{fault:?}");
    assert!(fault.message.contains("add slots"), "{fault:?}");
    drop(worker);
}

/// A provider of a third party.
#[derive(Debug)]
struct Theirs;

#[async_trait]
impl ProviderFactory for Theirs {
    fn about(&self) -> ProviderInfo {
        let capabilities = MemoryProvider::new().capabilities(None);
        ProviderInfo { name: "theirs", schemes: &["theirs"], description: "", example: "theirs:", capabilities }
    }

    async fn connect(&self, _: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        Ok(Arc::new(MemoryProvider::with_env(env.clone())))
    }
}

#[tokio::test]
async fn a_provider_of_ones_own_joins() {
    let mut registry: Registry = queue_manager::registry();
    registry.register(Theirs);
    let queues = QueueManager::builder().registry(registry).url("theirs://:hunter2@x").connect().await.unwrap();
    queues.enqueue(Add { a: 1, b: 2 }).await.unwrap();
    let report = queues.health().await;
    assert_eq!(report.providers[0].url.as_deref(), Some("theirs://***@x"));
    assert!(!format!("{queues:?}").contains("hunter2"));

    let connected: Arc<dyn QueueProvider> = Arc::new(MemoryProvider::new());
    let queues = QueueManager::builder().provider(connected).connect().await.unwrap();
    assert_eq!(queues.health().await.providers[0].url, None);
}
