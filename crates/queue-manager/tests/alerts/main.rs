//! The watcher of alerts, from the numbers of real queues to those who are told.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod estimating;
mod shaky;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use queue_core::{
    Env, ErrorCode, Event, Failure, Job, QueueName, QueueProvider, QueueSpec, Result, Timestamp,
    event::{Alert, AlertKind},
    job::SlaClass,
    store::Watched,
    worker::Worker,
};
use queue_manager::{
    ManagerBuilder, QueueManager,
    alerts::{AlertSink, ChannelSink, EventFilter, FnSink},
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use shaky::{Mode, Shaky};
use tokio::time::sleep;
use validator::Validate;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Take {
    seconds: u64,
}

impl Job for Take {
    const KIND: &'static str = "take";
    const QUEUE: &'static str = "mail";
    type Output = ();
}

fn env() -> Env {
    Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7)
}

fn builder() -> ManagerBuilder {
    QueueManager::builder().env(env()).variables([("QUEUE__ALERTS__ENABLED", "true")])
}

async fn submit(queues: &QueueManager, jobs: usize) {
    for answer in queues.enqueue_all((0..jobs).map(|_| Take { seconds: 0 })).await {
        answer.unwrap();
    }
}

async fn worker(queues: &QueueManager) -> Worker {
    let take = async |job: Take| {
        sleep(SECOND * u32::try_from(job.seconds).unwrap()).await;
        if job.seconds == 13 { Err(Failure::never("unlucky")) } else { Ok(()) }
    };
    queues.worker().queue("mail", 100).heartbeat_on_runtime().register(take).start().await.unwrap()
}

/// The alerts that a sink of the manager's saw.
type Seen = Arc<Mutex<Vec<Alert>>>;

fn seen() -> (Seen, impl AlertSink) {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let sink = FnSink::new("test", move |event| {
        let Event::Alert(alert) = event else { panic!("{event:?}") };
        kept.lock().unwrap().push(alert.clone());
    });
    (seen, sink)
}

fn take(seen: &Seen) -> Vec<AlertKind> {
    std::mem::take(&mut *seen.lock().unwrap()).into_iter().map(|alert| alert.what).collect()
}

#[tokio::test(start_paused = true)]
async fn a_configured_watcher_tells_the_events_of_the_manager() {
    let queues = builder().configure(|config| config.alerts.backlog = Some(2)).connect().await.unwrap();
    let mut events = queues.events().await.unwrap();
    submit(&queues, 3).await;
    let alert = loop {
        if let Some(Watched::Event(Event::Alert(alert))) = events.next().await {
            break alert;
        }
    };
    assert_eq!(alert.what, AlertKind::Backlog { waiting: 3, threshold: 2 });
    assert_eq!((alert.queue.as_str(), alert.message.as_str()), ("mail", "3 jobs wait; more than 2 are too many"));
    let status = queues.alerts_status().unwrap();
    assert_eq!((status.raised, status.sinks.len()), (1, 1));
    assert_eq!((status.sinks[0].name.as_str(), status.sinks[0].sent), ("log", 1));
    queues.close().await.unwrap();
    assert!(queues.alerts_status().is_none());
}

#[tokio::test(start_paused = true)]
async fn without_being_enabled_nobody_watches() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    assert!(queues.alerts_status().is_none());
    assert_eq!(queues.sla_report().since, None);
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dead_letters_a_flood_and_a_queue_nobody_takes_from() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let (seen, sink) = seen();
    let alerts = queues.alerts().sink(sink).configure(|alerts| {
        alerts.dead_letters = Some(3);
        alerts.dead_letter_growth = Some(3);
        alerts.flood = Some(4);
        alerts.unhealthy_after = Some(60 * SECOND);
    });
    alerts.start().await.unwrap();
    queues.declare(QueueSpec::new(QueueName::from_static("mail"))).await.unwrap();
    sleep(11 * SECOND).await;
    for _ in 0..5 {
        queues.enqueue(Take { seconds: 13 }).await.unwrap();
    }
    sleep(10 * SECOND).await;
    assert_eq!(take(&seen), [AlertKind::Flood { submitted: 5, threshold: 4, within_ms: 60_000 }]);
    sleep(60 * SECOND).await;
    let [AlertKind::Unhealthy { oldest_pending_ms }] = take(&seen)[..] else { panic!("nobody takes them") };
    assert!((60_000..=70_000).contains(&oldest_pending_ms), "{oldest_pending_ms}");
    let worker = worker(&queues).await;
    sleep(30 * SECOND).await;
    let died = AlertKind::DeadLetterGrowth { died: 5, threshold: 3, within_ms: 300_000 };
    assert_eq!(take(&seen), [AlertKind::DeadLetters { dead: 5, threshold: 3 }, died]);

    // All is mended, and breaks again.
    queues.dead_letters("mail").unwrap().purge(&Default::default()).await.unwrap();
    sleep(600 * SECOND).await;
    assert_eq!(take(&seen), []);
    for _ in 0..4 {
        queues.enqueue(Take { seconds: 13 }).await.unwrap();
    }
    sleep(30 * SECOND).await;
    let died = AlertKind::DeadLetterGrowth { died: 4, threshold: 3, within_ms: 300_000 };
    assert_eq!(take(&seen), [AlertKind::DeadLetters { dead: 4, threshold: 3 }, died]);
    worker.stop().await;
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn late_jobs_are_told_when_they_complete_and_counted_by_class() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let (seen, sink) = seen();
    queues.alerts().sink(sink).start().await.unwrap();
    let worker = worker(&queues).await;
    let urgent = async |seconds| {
        let handle = queues.enqueue(Take { seconds }).sla(SlaClass::Urgent).await.unwrap();
        handle.result().await.unwrap();
        handle
    };
    urgent(2).await;
    assert_eq!(take(&seen), []);
    let late = urgent(5).await;
    urgent(7).await;
    queues.enqueue(Take { seconds: 50 }).sla(SlaClass::Low).await.unwrap().result().await.unwrap();
    queues.enqueue(Take { seconds: 99 }).timeout(200 * SECOND).await.unwrap().result().await.unwrap();
    let told = take(&seen);
    assert_eq!(told, [AlertKind::SlaBreach { job: late.id(), actual_ms: 5_000, target_ms: 3_000 }]);
    let report = queues.sla_report();
    let counts: Vec<_> = report.classes.iter().map(|class| (class.class, class.met, class.missed)).collect();
    assert_eq!(counts, [(SlaClass::Urgent, 1, 2), (SlaClass::Low, 1, 0)]);
    assert!(report.classes[0].p50_ms.abs_diff(5_000) < 60, "{report:?}");
    assert_eq!(report.since, Some(Timestamp::from_millis(1_700_000_000_000)));
    worker.stop().await;
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_still_waits_beyond_its_class_is_told() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let (seen, sink) = seen();
    queues.alerts().sink(sink).start().await.unwrap();
    let mut spec = QueueSpec::new(QueueName::from_static("mail"));
    spec.sla = Some(SlaClass::High);
    queues.declare(spec).await.unwrap();
    sleep(5 * SECOND).await;
    let first = queues.enqueue(Take { seconds: 0 }).await.unwrap();
    sleep(SECOND).await;
    queues.enqueue(Take { seconds: 0 }).await.unwrap();
    sleep(8 * SECOND).await;
    assert_eq!(take(&seen), []);
    sleep(200 * SECOND).await;
    let told = take(&seen);
    assert_eq!(told, [AlertKind::SlaBreach { job: first.id(), actual_ms: 15_000, target_ms: 10_000 }], "once");
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_may_want_other_events_too_and_gets_each_alert_once() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let (sink, mut events) = ChannelSink::new(100);
    let filter: EventFilter = "alert:*,job:completed".parse().unwrap();
    let alerts = queues.alerts().sink_of(filter, sink).configure(|alerts| alerts.backlog = Some(0)).without_log();
    alerts.start().await.unwrap();
    submit(&queues, 1).await;
    sleep(60 * SECOND).await;
    let worker = worker(&queues).await;
    sleep(60 * SECOND).await;
    worker.stop().await;
    assert_eq!(queues.alerts_status().unwrap().sinks.len(), 1);
    queues.close().await.unwrap();
    let mut names = Vec::new();
    while let Some(event) = events.recv().await {
        names.push(event.wire_name());
    }
    assert_eq!(names, ["alert:backlog", "job:completed"]);
}

/// Takes an hour for each event.
struct Slow(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl AlertSink for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    async fn send(&self, event: &Event) -> Result<()> {
        sleep(3_600 * SECOND).await;
        let Event::Job(event) = event else { panic!("{event:?}") };
        self.0.lock().unwrap().push(event.job.id.to_string());
        Ok(())
    }

    async fn missed(&self, count: u64) -> Result<()> {
        self.0.lock().unwrap().push(format!("missed {count}"));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_loses_its_oldest_is_told_and_holds_nobody_up() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let told = Arc::default();
    let (seen, quick) = seen();
    let submitted: EventFilter = "job:submitted".parse().unwrap();
    let alerts = queues.alerts().sink(quick).sink_of(submitted, Slow(Arc::clone(&told)));
    alerts.configure(|alerts| alerts.backlog = Some(1_001)).start().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..1_011 {
        ids.push(queues.enqueue(Take { seconds: 0 }).await.unwrap().id().to_string());
        tokio::task::yield_now().await;
    }
    sleep(30 * SECOND).await;
    assert_eq!(take(&seen).len(), 1);
    let slow = |queues: &QueueManager| {
        let status = queues.alerts_status().unwrap();
        status.sinks.into_iter().find(|sink| sink.name == "slow").unwrap()
    };
    // One is being sent, a thousand wait.
    let status = slow(&queues);
    assert_eq!((status.waiting, status.dropped, status.sent), (1_001, 10, 0));
    sleep(7_200 * SECOND).await;
    assert_eq!(*told.lock().unwrap(), [ids[0].clone(), "missed 10".to_owned(), ids[11].clone()]);
    let begun = tokio::time::Instant::now();
    queues.close().await.unwrap();
    assert_eq!(begun.elapsed(), 5 * SECOND, "closing does not wait for it any longer");
}

/// Panics at its first event.
struct Clumsy(AtomicUsize, Arc<AtomicUsize>);

#[async_trait]
impl AlertSink for Clumsy {
    fn name(&self) -> &str {
        "clumsy"
    }

    async fn send(&self, _: &Event) -> Result<()> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the first");
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_panics_gets_the_next_event() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let sent = Arc::default();
    let sink = Clumsy(AtomicUsize::new(0), Arc::clone(&sent));
    queues.alerts().sink_of("job:submitted".parse().unwrap(), sink).start().await.unwrap();
    submit(&queues, 3).await;
    sleep(SECOND).await;
    let status = queues.alerts_status().unwrap().sinks.remove(0);
    assert_eq!((status.sent, status.failed, sent.load(Ordering::Relaxed)), (2, 1, 2));
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_flushed_when_the_manager_closes() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let told = Arc::default();
    struct Second(Arc<AtomicUsize>);
    #[async_trait]
    impl AlertSink for Second {
        fn name(&self) -> &str {
            "second"
        }
        async fn send(&self, _: &Event) -> Result<()> {
            sleep(SECOND).await;
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
    queues.alerts().sink_of("job:submitted".parse().unwrap(), Second(Arc::clone(&told))).start().await.unwrap();
    submit(&queues, 3).await;
    sleep(SECOND / 2).await;
    queues.close().await.unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_second_watcher_takes_the_place_of_the_first_and_dropping_the_manager_ends_it() {
    let provider = Arc::new(MemoryProvider::with_env(env()));
    let queues = builder().provider(provider.clone()).connect().await.unwrap();
    let first = Arc::new(());
    let sink = |kept: &Arc<()>| {
        let kept = Arc::clone(kept);
        FnSink::new("kept", move |_| {
            let _ = &kept;
        })
    };
    queues.alerts().sink(sink(&first)).start().await.unwrap();
    assert_eq!(Arc::strong_count(&first), 2);
    let second = Arc::new(());
    queues.alerts().sink(sink(&second)).start().await.unwrap();
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
    drop(queues);
    sleep(SECOND).await;
    assert_eq!(Arc::strong_count(&second), 1);
    assert_eq!(Arc::strong_count(&provider), 1, "nothing holds the provider any more");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_value_names_its_key_and_the_running_watcher_stays() {
    let queues = builder().connect().await.unwrap();
    let error = queues.alerts().configure(|alerts| alerts.every = Duration::ZERO).start().await.unwrap_err();
    assert!(error.code() == ErrorCode::Config && error.message().contains("`alerts.every`"), "{error}");
    assert!(queues.alerts_status().is_some());
    queues.close().await.unwrap();

    let bad = builder().configure(|config| config.alerts.clear_at = 7.0);
    assert!(bad.connect().await.unwrap_err().message().contains("`alerts.clear_at`"));
}

#[tokio::test(start_paused = true)]
async fn it_looks_once_an_interval_and_a_provider_that_is_away_does_not_end_it() {
    let provider = Arc::new(MemoryProvider::with_env(env()));
    let queues = builder().provider(provider.clone()).connect().await.unwrap();
    let looked = || queues.alerts_status().unwrap().looked_at.unwrap().as_millis() - 1_700_000_000_000;
    sleep(25 * SECOND).await;
    assert_eq!(looked(), 20_000);
    provider.close().await.unwrap();
    sleep(26 * SECOND).await;
    assert_eq!(looked(), 50_000);
    queues.stop_alerts().await;
    assert!(queues.alerts_status().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_look_is_one_call_and_one_that_hangs_or_fails_holds_up_nothing_else() {
    let provider = Shaky::new(MemoryProvider::with_env(env()));
    let queues = builder().provider(Arc::new(provider.clone())).connect().await.unwrap();
    let (seen, sink) = seen();
    let alerts = queues.alerts().sink(sink).configure(|alerts| {
        alerts.backlog = Some(1);
        alerts.every = SECOND;
    });
    alerts.start().await.unwrap();
    for name in ["a", "b", "c"] {
        queues.declare(QueueSpec::new(QueueName::from_static(name))).await.unwrap();
    }
    provider.asked();
    sleep(SECOND * 10 - SECOND / 2).await;
    assert_eq!(provider.asked(), 10, "one call for all queues, once an interval");

    // Twice the patience of a health check, one after the other; events are heard meanwhile.
    provider.become_(Mode::Hangs);
    let worker = worker(&queues).await;
    let late = queues.enqueue(Take { seconds: 4 }).sla(SlaClass::Urgent).await.unwrap();
    sleep(31 * SECOND).await;
    assert_eq!(provider.asked(), 4);
    assert_eq!(take(&seen), [AlertKind::SlaBreach { job: late.id(), actual_ms: 4_000, target_ms: 3_000 }]);
    worker.stop().await;

    provider.become_(Mode::Fails);
    submit(&queues, 2).await;
    sleep(30 * SECOND).await;
    assert_eq!(take(&seen), []);
    provider.become_(Mode::Well);
    sleep(2 * SECOND).await;
    assert_eq!(take(&seen), [AlertKind::Backlog { waiting: 2, threshold: 1 }]);
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_many_queues_what_was_told_in_time_counts_and_the_next_look_begins_with_the_rest() {
    let provider = Shaky::new(MemoryProvider::with_env(env()));
    let queues = builder().provider(Arc::new(provider.clone())).connect().await.unwrap();
    for n in 0..200 {
        for _ in 0..2 {
            queues.enqueue(Take { seconds: 0 }).to(format!("queue-{n:03}")).await.unwrap();
        }
    }
    provider.become_(Mode::Slow);
    let (seen, sink) = seen();
    let alerts = queues.alerts().sink(sink).configure(|alerts| {
        alerts.backlog = Some(1);
        alerts.every = SECOND;
    });
    alerts.start().await.unwrap();
    let health = queues.health().await;
    assert!(health.is_healthy(), "{health:?}");
    assert_eq!(health.providers[0].queues.len(), 32, "what one call told within five seconds");

    // Twenty seconds for all, and what a call did not tell in time is asked for again.
    sleep(12 * SECOND).await;
    assert_eq!(seen.lock().unwrap().len(), 96);
    sleep(24 * SECOND).await;
    let told: BTreeSet<String> = seen.lock().unwrap().iter().map(|alert| alert.queue.to_string()).collect();
    assert_eq!((told.len(), seen.lock().unwrap().len()), (200, 200), "each once");
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_queues_cannot_be_listed_those_of_the_configuration_and_of_this_process_are_looked_at() {
    let memory = MemoryProvider::with_env(env());
    let elsewhere = QueueManager::builder().env(env()).provider(Arc::new(memory.connect())).connect().await.unwrap();
    let provider = Shaky::new(memory);
    provider.become_(Mode::CannotList);
    let variables = [("QUEUE__ALERTS__QUEUES__MAIL__BACKLOG", "1"), ("QUEUE__QUEUES__OTHER__MAX_LEN", "9")];
    let builder = QueueManager::builder().env(env()).variables(variables).provider(Arc::new(provider));
    let queues = builder.connect().await.unwrap();
    let (seen, sink) = seen();
    queues.alerts().sink(sink).configure(|alerts| alerts.backlog = Some(1)).start().await.unwrap();
    submit(&elsewhere, 2).await;
    for (manager, name) in [(&elsewhere, "other"), (&queues, "used"), (&elsewhere, "unheard_of")] {
        for _ in 0..2 {
            manager.enqueue(Take { seconds: 0 }).to(name).await.unwrap();
        }
    }
    sleep(15 * SECOND).await;
    let mut names: Vec<String> = seen.lock().unwrap().iter().map(|alert| alert.queue.to_string()).collect();
    names.sort();
    assert_eq!(names, ["mail", "other", "used"]);
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jobs_that_wait_within_their_class_keep_no_alert_up() {
    let queues = QueueManager::builder().env(env()).connect().await.unwrap();
    let (seen, sink) = seen();
    queues.alerts().sink(sink).start().await.unwrap();
    let mut spec = QueueSpec::new(QueueName::from_static("mail"));
    spec.sla = Some(SlaClass::High);
    queues.declare(spec).await.unwrap();
    for _ in 0..2 {
        let worker = worker(&queues).await;
        queues.enqueue(Take { seconds: 11 }).await.unwrap().result().await.unwrap();
        worker.stop().await;
        assert_eq!(take(&seen).len(), 1);
        for _ in 0..20 {
            submit(&queues, 1).await;
            sleep(7 * SECOND).await;
            queues.purge("mail").await.unwrap();
        }
        assert_eq!(take(&seen), []);
    }
    queues.close().await.unwrap();
}
