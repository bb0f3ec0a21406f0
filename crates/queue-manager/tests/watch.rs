//! How everything is doing: numbers, health, liveness.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod counting;

use std::{sync::Arc, time::Duration};

use counting::Counting;
use futures_util::StreamExt;
use queue_core::{Env, Failure, Job, Timestamp, lifecycle::JobState};
use queue_manager::{HealthReport, HealthStatus, ManagerBuilder, QueueManager, Statistics, config::RouteConfig};
use queue_testkit::models::{Broker, PushModel};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Work {
    seconds: u32,
}

impl Job for Work {
    const KIND: &'static str = "work";
    const QUEUE: &'static str = "work";
    type Output = ();
}

#[derive(Serialize, Deserialize, Validate)]
struct Far {}

impl Job for Far {
    const KIND: &'static str = "far";
    const QUEUE: &'static str = "work";
    type Output = ();
}

const SECOND: Duration = Duration::from_secs(1);

fn env() -> Env {
    Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7)
}

fn builder() -> ManagerBuilder {
    let route = RouteConfig::to("far").unwrap().kind("far").unwrap();
    QueueManager::builder().env(env()).provider_url("far", "memory:").route("far", route)
}

#[tokio::test(start_paused = true)]
async fn statistics_add_up_what_all_providers_have() {
    let queues = builder().connect().await.unwrap();
    for seconds in 0..3 {
        queues.enqueue(Work { seconds }).await.unwrap();
    }
    queues.enqueue(Far {}).await.unwrap();
    queues.enqueue(Far {}).delay(SECOND).to("later").await.unwrap();
    let before = queues.statistics().await;
    assert_eq!((before.totals.pending, before.totals.scheduled, before.totals.submitted_total), (4, 1, 5));
    let of: Vec<_> = before.providers.iter().map(|one| (one.name.as_str(), one.queues, one.totals.pending)).collect();
    assert_eq!(of, [("default", 1, 3), ("far", 2, 1)]);
    let names = |statistics: &Statistics| {
        let of = statistics.queues.iter().map(|one| {
            let providers: Vec<_> = one.providers.iter().map(ToString::to_string).collect();
            (one.stats.queue.to_string(), one.stats.waiting(), providers.join(" "))
        });
        of.collect::<Vec<_>>()
    };
    let wanted = [("later", 1, "far"), ("work", 4, "default far")];
    assert_eq!(names(&before), wanted.map(|(name, jobs, at)| (name.to_owned(), jobs, at.to_owned())));
    assert_eq!((before.workers.workers, before.workers.average_run_ms), (0, None));

    let worker = queues
        .worker()
        .queue("work", 2)
        .heartbeat_on_runtime()
        .register(async |work: Work| {
            tokio::time::sleep(work.seconds * SECOND).await;
            Ok::<_, Failure>(())
        })
        .register(async |_: Far| Ok::<_, Failure>(()))
        .start()
        .await
        .unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let after = queues.statistics().await;
    let through = after.since(&before);
    assert_eq!(after.totals.completed_total, 4);
    assert_eq!((through.over_ms, through.completed_per_second, through.submitted_per_second), (10_000, 0.4, 0.0));
    assert_eq!((after.workers.workers, after.workers.slots), (1, 4), "two slots on each provider");
    assert_eq!(after.workers.busy + after.workers.idle, 4);

    let json = serde_json::to_value(&after).unwrap();
    assert_eq!(json["totals"]["completed_total"], 4);
    assert_eq!(json["queues"][1]["queue"], "work");
    assert_eq!(json["queues"][1]["providers"], serde_json::json!(["default", "far"]));
    assert_eq!(serde_json::from_value::<Statistics>(json).unwrap(), after);
    worker.stop().await;
    assert_eq!(queues.statistics().await.workers.workers, 0);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_closed_is_a_fault_among_numbers() {
    let queues =
        builder().provider_named("bare", Broker::new(env(), PushModel::default()).connect()).connect().await.unwrap();
    queues.enqueue(Work { seconds: 1 }).await.unwrap();
    queues.provider("bare").unwrap().close().await.unwrap();
    let statistics = queues.statistics().await;
    assert_eq!(statistics.totals.pending, 1);
    let [_, bare, far] = &statistics.providers[..] else { panic!("{statistics:?}") };
    assert_eq!((bare.name.as_str(), bare.queues), ("bare", 0));
    assert_eq!(bare.fault.as_ref().unwrap().code, "CLOSED");
    assert_eq!(far.fault, None);
}

#[tokio::test(start_paused = true)]
async fn health_tells_of_workers_and_of_jobs_that_nobody_gets_to() {
    let queues = builder().variables([("QUEUE__HEALTH__OLDEST_PENDING", "1m")]).connect().await.unwrap();
    assert!(queues.health().await.is_live(), "it has no worker that could be dead");
    let slow = async |work: Work| {
        tokio::time::sleep(work.seconds * SECOND).await;
        Ok::<_, Failure>(())
    };
    let far = async |_: Far| Ok::<_, Failure>(());
    let worker = queues.worker().queue("work", 1).prefetch(0).name("w").heartbeat_on_runtime();
    let worker = worker.register(slow).register(far).start().await.unwrap();
    let first = queues.enqueue(Work { seconds: 100 }).timeout(1_000 * SECOND).await.unwrap();
    tokio::time::sleep(SECOND).await;
    queues.enqueue(Work { seconds: 1 }).await.unwrap();
    // Nobody here works on it.
    queues.enqueue(Work { seconds: 1 }).to("elsewhere").await.unwrap();
    tokio::time::sleep(59 * SECOND).await;
    let report = queues.health().await;
    assert!(report.is_healthy() && report.is_live(), "{report:?}");
    let workers: Vec<_> =
        report.workers.iter().map(|worker| (&*worker.name, worker.provider.as_str(), worker.slots)).collect();
    assert_eq!(workers, [("w", "default", 1), ("w", "far", 1)]);

    tokio::time::sleep(2 * SECOND).await;
    let report = queues.health().await;
    assert_eq!((report.status, report.is_live()), (HealthStatus::Degraded, true));
    let [default, far] = &report.providers[..] else { panic!("{report:?}") };
    assert_eq!((default.name.as_str(), default.faults.len(), far.faults.len()), ("default", 1, 0));
    assert!(default.faults[0].message.contains("queue work has waited 61"), "{default:?}");
    queues.pause("work").await.unwrap();
    assert!(queues.health().await.is_healthy(), "it is held back on purpose");
    queues.resume("work").await.unwrap();

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["live"], &json["status"]), (&true.into(), &"degraded".into()));
    let worker_json = &json["workers"][0];
    assert_eq!(worker_json["consuming"], true);
    assert_eq!((&worker_json["provider"], &worker_json["queue"]), (&"default".into(), &"work".into()));
    assert_eq!(serde_json::from_value::<HealthReport>(json).unwrap(), report);
    assert_eq!(first.finished().await.unwrap().state, JobState::Completed);
    worker.stop().await;
    assert!(queues.health().await.workers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_on_the_health_tells_of_changes_only() {
    let provider = Counting::default();
    let variables = [("QUEUE__PROVIDER__HEALTH_INTERVAL", "20s")];
    let queues = builder().variables(variables).provider(Arc::new(provider.clone())).connect().await.unwrap();
    let mut changes = queues.health_changes();
    assert_eq!(changes.next().await.unwrap().status, HealthStatus::Healthy, "how it is now");
    let begun = tokio::time::Instant::now();
    let away = provider.clone();
    tokio::spawn(async move {
        tokio::time::sleep(50 * SECOND).await;
        away.away(true);
        tokio::time::sleep(50 * SECOND).await;
        away.away(false);
    });
    let down = changes.next().await.unwrap();
    assert_eq!((down.status, begun.elapsed()), (HealthStatus::Down, 60 * SECOND));
    assert_eq!(down.providers[1].status, HealthStatus::Healthy);
    assert_eq!((changes.next().await.unwrap().status, begun.elapsed()), (HealthStatus::Healthy, 120 * SECOND));
}
