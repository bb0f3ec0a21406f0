//! The manager from end to end: configured by a file and variables, with workers, dead letters, events and a stop.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use queue_core::{
    Env, ErrorCode, Event, Failure, Job, JobContext, JobId, Priority, QueueName, QueueSpec, Timestamp,
    event::JobEventKind,
    job::JobKind,
    lifecycle::JobState,
    provider::{Cancel, DeadBody, DeadFilter, PublishOptions, Redrive},
    scheduler::{NewJob, Submitted},
    store::{CancelOutcome, Watched},
    worker::{DrainReport, JobRequest, Worker},
};
use queue_manager::{ManagerBuilder, QueueManager};
use queue_testkit::models::{Broker, VisibilityModel};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Parse {
    text: String,
}

impl Job for Parse {
    const KIND: &'static str = "text.parse";
    const QUEUE: &'static str = "texts";
    type Output = u32;
}

const SECOND: Duration = Duration::from_secs(1);

fn parse(text: &str) -> Parse {
    Parse { text: text.into() }
}

fn builder() -> ManagerBuilder {
    QueueManager::builder().env(Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7))
}

async fn manager() -> QueueManager {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[queues.texts]\nretry.max_attempts = 3\nretry.backoff = 'fixed:10s'\nretry.jitter = 0\n";
    std::fs::write(file.path(), text).unwrap();
    let variables = [("MESSAGE_QUEUE_PROVIDER", "memory"), ("QUEUE__QUEUES__TEXTS__RETRY__MAX_ATTEMPTS", "2")];
    builder().file(file.path()).variables(variables).connect().await.unwrap()
}

async fn worker(queues: &QueueManager) -> Worker {
    let parse = async |job: Parse| match job.text.as_str() {
        "wait" => std::future::pending().await,
        "mixed" => Err(Failure::never("letters and digits")),
        text => text.parse::<u32>().map_err(|error| Failure::retry(error.to_string())),
    };
    queues.worker().queue("texts", 4).heartbeat_on_runtime().register(parse).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_configured_policy_is_what_happens() {
    let queues = manager().await;
    let worker = worker(&queues).await;
    let begun = tokio::time::Instant::now();
    let handle = queues.enqueue(parse("seven")).await.unwrap();
    assert_eq!(handle.result().await.unwrap_err().code(), ErrorCode::HandlerFailed);
    assert_eq!(begun.elapsed().as_secs(), 10, "one retry, after the file's backoff");
    assert_eq!(handle.record().await.unwrap().attempt, 2, "as the variable says");
    worker.stop().await;
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_mended_brought_back_and_removed() {
    let queues = manager().await;
    let worker = worker(&queues).await;
    let mut handles = Vec::new();
    for handle in queues.enqueue_all(["a", "b", "mixed", "c", "4"].map(parse)).await {
        handles.push(handle.unwrap());
    }
    for handle in &handles {
        handle.finished().await.unwrap();
    }
    let dead = queues.dead_letters("texts").unwrap();
    let (mut listed, mut cursor, mut pages) = (BTreeSet::<JobId>::new(), None, 0);
    loop {
        let page = dead.list(&DeadFilter::default(), cursor, 3).await.unwrap();
        listed.extend(page.items.iter().map(|job| job.id));
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((pages, &listed), (2, &handles[..4].iter().map(|handle| handle.id()).collect()));

    // One is mended on its way back.
    let mended = Redrive { payload: Some(Bytes::from_static(br#"{"text":"11"}"#)), ..Redrive::one(handles[0].id()) };
    assert_eq!(dead.redrive(&mended).await.unwrap().redriven, 1);
    assert_eq!(handles[0].result().await.unwrap(), 11);

    // All would come back; only counted.
    let counted = dead.redrive(&Redrive { dry_run: true, ..Redrive::all() }).await.unwrap();
    assert_eq!((counted.matched, queues.stats("texts").await.unwrap().dead), (3, 3));
    assert_eq!(dead.redrive_all().await.unwrap().redriven, 3);
    for handle in &handles[1..4] {
        assert_eq!(handle.finished().await.unwrap().state, JobState::Dead, "nothing about them has changed");
    }

    let never = DeadFilter { code: Some("HANDLER_FAILED".into()), ..DeadFilter::default() };
    let first = dead.list(&never, None, 10).await.unwrap().items.remove(0);
    let DeadBody::Envelope(envelope) = &first.body else { panic!("{first:?}") };
    assert!(envelope.payload.starts_with(br#"{"text":"#));
    assert_eq!(dead.redrive_one(first.id).await.unwrap().matched, 1);
    queues.handle::<u32>(handles[0].job().clone()).result().await.unwrap();
    worker.stop().await;
    let left = queues.stats("texts").await.unwrap().dead;
    assert_eq!(dead.purge(&DeadFilter::default()).await.unwrap(), left);
    assert_eq!(queues.stats("texts").await.unwrap().dead, 0);
}

#[tokio::test(start_paused = true)]
async fn events_tell_the_story_of_each_job() {
    let queues = manager().await;
    let mut events = queues.events().await.unwrap();
    let worker = worker(&queues).await;
    let good = queues.enqueue(parse("5")).priority(Priority::URGENT).await.unwrap();
    let bad = queues.enqueue(parse("five")).await.unwrap();
    good.finished().await.unwrap();
    bad.finished().await.unwrap();
    let (mut goods, mut bads) = (Vec::new(), Vec::new());
    while bads.last() != Some(&JobEventKind::DeadLettered) || goods.last() != Some(&JobEventKind::Completed) {
        let Some(Watched::Event(Event::Job(event))) = events.next().await else {
            panic!("the stream ended or missed some")
        };
        if event.job == *good.job() { goods.push(event.what) } else { bads.push(event.what) }
    }
    use JobEventKind::{Completed, DeadLettered, Retrying, Started, Submitted};
    assert_eq!(goods, [Submitted, Started, Completed]);
    assert_eq!(bads, [Submitted, Started, Retrying, Started, DeadLettered]);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_job_is_cancelled_by_its_reference() {
    let queues = manager().await;
    let worker = worker(&queues).await;
    let handle = queues.enqueue(parse("wait")).await.unwrap();
    tokio::time::sleep(SECOND).await;
    // Another clone, and only the reference: as another part of the program has it.
    let elsewhere = queues.clone();
    let job = handle.job().clone();
    assert_eq!(elsewhere.cancel(&job, &Cancel::by("an operator")).await.unwrap(), CancelOutcome::Requested);
    assert_eq!(elsewhere.handle::<u32>(job).result().await.unwrap_err().code(), ErrorCode::Cancelled);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_is_held_back_and_workers_have_the_configured_defaults() {
    let queues = builder()
        .configure(|config| {
            config.worker.drain_deadline = 3 * SECOND;
            config.worker.prefetch = Some(0);
        })
        .connect()
        .await
        .unwrap();
    queues.declare(QueueSpec::new(QueueName::from_static("texts"))).await.unwrap();
    queues.pause("texts").await.unwrap();
    let started = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&started);
    let running = queues
        .worker()
        .queue("texts", 2)
        .heartbeat_on_runtime()
        .register(move |job: Parse, context: JobContext| {
            seen.lock().unwrap().push(job.text);
            async move {
                // Deaf to being asked to stop.
                let _ = context;
                std::future::pending::<Result<u32, Failure>>().await
            }
        })
        .start()
        .await
        .unwrap();
    for text in ["first", "second", "third"] {
        queues.enqueue(parse(text)).timeout(3600 * SECOND).await.unwrap();
    }
    tokio::time::sleep(5 * SECOND).await;
    assert!(started.lock().unwrap().is_empty());
    queues.resume("texts").await.unwrap();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(*started.lock().unwrap(), ["first", "second"]);
    let stats = queues.stats("texts").await.unwrap();
    assert_eq!((stats.running, stats.pending), (2, 1), "nothing is fetched ahead");

    let begun = tokio::time::Instant::now();
    assert_eq!(running.stop().await, DrainReport { done: 0, released: 0, aborted: 2 });
    // The configured deadline, then the grace of a handler that is asked to stop.
    assert_eq!(begun.elapsed(), 3 * SECOND + queue_core::config::defaults::CANCEL_GRACE);
    assert_eq!(queues.size("texts").await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_a_job_waits_for_the_configured_lease() {
    let queues = builder().variables([("QUEUE__WORKER__LEASE", "5s")]).connect().await.unwrap();
    let crashing = worker(&queues).await;
    queues.enqueue(parse("wait")).await.unwrap();
    tokio::time::sleep(SECOND / 10).await;
    drop(crashing);
    let running = async || queues.stats("texts").await.unwrap().running;
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(running().await, 1);
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(running().await, 0);
}

#[tokio::test]
async fn two_managers_of_memory_share_nothing() {
    let (one, two) = (manager().await, manager().await);
    one.enqueue(parse("1")).await.unwrap();
    assert_eq!((one.size("texts").await.unwrap(), two.size("texts").await.unwrap()), (1, 0));
    assert_eq!(two.queues().await.unwrap(), [QueueName::from_static("texts")], "declared by the configuration");
}

/// One queue on three providers, one of them a bare transport: what is in hand when a worker crashes runs again on each.
#[tokio::test(start_paused = true)]
async fn a_queue_on_three_providers_survives_a_crash_on_each() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[providers.bulk]\nurl = 'memory:'\n
[routes.logged]\nprovider = 'log'\nqueue = 'texts'\nkind = 'log.*'\n
[routes.bulk]\nprovider = 'bulk'\nqueue = 't*'\nkind = 'bulk.*'\n
[queues.texts]\nretry.backoff = 'fixed:1s'\n
[worker]\nlease = '5s'\n";
    std::fs::write(file.path(), text).unwrap();
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
    let broker = Broker::new(env.clone(), VisibilityModel::default());
    let queues = QueueManager::builder().env(env).file(file.path()).provider_named("log", broker.connect());
    let queues = queues.connect().await.unwrap();
    let kinds = ["text.parse", "bulk.parse", "log.parse"];
    let jobs = (0..30).map(|number| {
        let payload = format!(r#"{{"text":"{number}"}}"#);
        ("texts", NewJob::new(JobKind::new(kinds[number % 3]).unwrap(), payload))
    });
    let answers = queues.enqueue_many(jobs.collect(), &PublishOptions::default()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Submitted::Accepted(_))), "{answers:?}");
    let of = async || {
        let statistics = queues.statistics().await;
        statistics.providers.iter().map(|one| (one.name.to_string(), one.totals.pending)).collect::<Vec<_>>()
    };
    assert_eq!(of().await, [("default", 10), ("bulk", 10), ("log", 10)].map(|(name, jobs)| (name.to_owned(), jobs)));

    let done: Arc<Mutex<BTreeMap<(JobKind, String), u32>>> = Arc::default();
    let worker = async |hangs: bool| {
        let done = Arc::clone(&done);
        let run = tower::service_fn(move |request: JobRequest| {
            let done = Arc::clone(&done);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                let envelope = request.context.envelope();
                let text = String::from_utf8(envelope.payload.to_vec()).unwrap();
                *done.lock().unwrap().entry((envelope.kind.clone(), text)).or_default() += 1;
                Ok::<_, Failure>(None)
            }
        });
        queues.worker().queue("texts", 4).heartbeat_on_runtime().fallback(run).start().await.unwrap()
    };
    let crashing = worker(true).await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(queues.workers()[0].pools.len(), 3);
    assert!(of().await.iter().all(|(_, pending)| *pending < 10), "each has some in hand");
    drop(crashing);
    let worker = worker(false).await;
    tokio::time::sleep(60 * SECOND).await;
    let done = done.lock().unwrap().clone();
    assert_eq!((done.len(), done.values().sum::<u32>()), (30, 30), "each ran, and to its end once: {done:?}");
    assert_eq!(queues.size("texts").await.unwrap(), 0);
    worker.stop().await;
    queues.close().await.unwrap();
}
