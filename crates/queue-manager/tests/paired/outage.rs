//! The store goes away while jobs run, and comes back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use queue_core::{
    ErrorCode, Event, Failure, Timestamp,
    event::ProviderStatus,
    lifecycle::JobState,
    scheduler::WaitReason,
    store::{Lookup, Watched},
};
use queue_manager::{
    HealthStatus, QueueManager,
    alerts::{FnSink, to_json},
};
use tokio::time::{Instant, sleep};

use crate::bench::{Bench, Mail, SCHEMES, SECOND, mail};

/// Who ran, and when.
type Runs = Arc<Mutex<Vec<(String, Instant)>>>;

async fn work(queues: &QueueManager, slots: usize, takes: Duration) -> (queue_core::Worker, Runs) {
    let runs = Runs::default();
    let (noted, running) = (Arc::clone(&runs), Arc::new(AtomicUsize::new(0)));
    let handler = move |mail: Mail| {
        let (noted, running) = (Arc::clone(&noted), Arc::clone(&running));
        async move {
            running.fetch_add(1, Ordering::Relaxed);
            noted.lock().unwrap().push((mail.to.clone(), Instant::now()));
            sleep(takes).await;
            Ok::<_, Failure>(mail.to)
        }
    };
    let worker = queues.worker().queue("mail", slots).prefetch(0).heartbeat_on_runtime().register(handler);
    (worker.start().await.unwrap(), runs)
}

fn ran(runs: &Runs, name: &str) -> Vec<Instant> {
    runs.lock().unwrap().iter().filter(|(who, _)| who == name).map(|(_, at)| *at).collect()
}

/// Of that provider and status, told once.
fn told(events: &[(Timestamp, ProviderStatus)], status: ProviderStatus) -> Timestamp {
    let found: Vec<_> = events.iter().filter(|(_, to)| *to == status).collect();
    assert_eq!(found.len(), 1, "{status:?} in {events:?}");
    found[0].0
}

#[tokio::test(start_paused = true)]
async fn what_runs_waits_to_be_settled_nothing_is_claimed_and_publishing_goes_on() {
    for scheme in SCHEMES {
        outage(scheme, 30 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_longer_than_a_lease_runs_nothing_twice() {
    for scheme in SCHEMES {
        outage(scheme, 90 * SECOND).await;
    }
}

async fn outage(scheme: &str, lasts: Duration) {
    let bench = Bench::new();
    let queues = bench.connect(&format!("{scheme}://h?store=faulty:")).await.unwrap();
    let scheduler = queues.provider("default").unwrap().clone();
    let mut events = queues.events().await.unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let noted = Arc::clone(&noted);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Watched::Event(Event::Provider(event)) = event {
                    noted.lock().unwrap().push((event.at, event.to));
                }
            }
        })
    };
    let posted = Arc::new(Mutex::new(Vec::new()));
    let post = Arc::clone(&posted);
    let sink = FnSink::new("post", move |event| post.lock().unwrap().push(to_json(event)));
    queues.alerts().without_log().sink_of("provider:*".parse().unwrap(), sink).start().await.unwrap();
    let (worker, runs) = work(&queues, 2, 2 * SECOND).await;
    let (one, two) = (queues.enqueue(mail("one")).await.unwrap(), queues.enqueue(mail("two")).await.unwrap());
    let three = queues.enqueue(mail("three")).await.unwrap();
    sleep(SECOND / 2).await;
    assert_eq!(runs.lock().unwrap().len(), 2, "{scheme}");

    bench.faults.outage(true);
    let begun = bench.env.now();
    sleep(10 * SECOND).await;
    // What ran is done and waits; the third is not claimed.
    assert_eq!(runs.lock().unwrap().len(), 2, "{scheme}");
    let health = queues.health().await;
    let [provider] = &health.providers[..] else { panic!("{health:?}") };
    let store = provider.store.as_ref().unwrap();
    assert_eq!((provider.status, store.status), (HealthStatus::Degraded, HealthStatus::Down), "{scheme}: {health:?}");
    assert_eq!(store.settlements_waiting, 2, "{scheme}: {health:?}");
    let since = store.since.unwrap();
    assert!(since >= begun && since <= begun + 2 * SECOND, "{scheme}: since {since}, away from {begun}");
    assert!(provider.faults.iter().any(|fault| fault.message.contains("its store has not answered for")), "{health:?}");
    let why = scheduler.explain(three.job()).await.unwrap();
    let [WaitReason::StoreAway { error }, ..] = &why.reasons[..] else { panic!("{scheme}: {why}") };
    assert!(error.contains(&format!("since {since}")), "{scheme}: {why}");
    // Publishing goes on; a key is the store's.
    let four = queues.enqueue(mail("four")).await.unwrap();
    let keyed = queues.enqueue(mail("five")).unique("five").unwrap().await.unwrap_err();
    assert_eq!(keyed.code(), ErrorCode::Unavailable, "{scheme}: {keyed}");
    // What is not known is not said to wait.
    assert_eq!(one.record().await.unwrap_err().code(), ErrorCode::Unavailable, "{scheme}");
    let truth = bench.faults.calls(queue_testkit::faults::StoreCall::Settle);
    assert!(truth >= 1, "{scheme}: it was tried");
    sleep(lasts - 10 * SECOND).await;

    bench.faults.outage(false);
    let back = Instant::now();
    let settled = async { (one.result().await.unwrap(), two.result().await.unwrap()) };
    assert_eq!(settled.await, ("one".into(), "two".into()), "{scheme}");
    assert!(back.elapsed() <= 5 * SECOND, "{scheme}: what ran is settled {:?} after", back.elapsed());
    while ran(&runs, "three").is_empty() || ran(&runs, "four").is_empty() {
        assert!(back.elapsed() <= 8 * SECOND, "{scheme}: nothing is claimed: {:?}", runs.lock().unwrap());
        sleep(SECOND / 10).await;
    }
    let consuming = runs.lock().unwrap().iter().map(|(_, at)| *at).find(|at| *at >= back).unwrap() - back;
    assert!(consuming <= 5 * SECOND, "{scheme}: consuming {consuming:?} after");
    assert_eq!((three.result().await.unwrap(), four.result().await.unwrap()), ("three".into(), "four".into()));
    for name in ["one", "two", "three", "four"] {
        assert_eq!(ran(&runs, name).len(), 1, "{scheme}: {name} in {:?}", runs.lock().unwrap());
    }
    assert!(queues.health().await.is_healthy(), "{scheme}: {:?}", queues.health().await);
    let store = scheduler.store().unwrap();
    for job in [one.job(), two.job(), three.job(), four.job()] {
        let Ok(Lookup::Found(record)) = store.get(std::slice::from_ref(job)).await.remove(0) else { panic!("{job}") };
        assert_eq!((record.state, record.attempt), (JobState::Completed, 1), "{scheme}");
    }
    sleep(11 * SECOND).await;
    let posted: Vec<_> = posted.lock().unwrap().iter().map(|json| json["event"].to_string()).collect();
    assert_eq!(posted, ["\"provider:store-away\"", "\"provider:store-back\""], "{scheme}");
    let events = noted.lock().unwrap().clone();
    assert!(told(&events, ProviderStatus::StoreAway) <= begun + 2 * SECOND, "{scheme}: {events:?}");
    assert!(told(&events, ProviderStatus::StoreBack) > begun + lasts, "{scheme}: {events:?}");
    assert!(events.iter().all(|(_, to)| *to != ProviderStatus::Down), "{scheme}: the broker was there: {events:?}");
    worker.stop().await;
    listener.abort();
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_the_broker_away_it_is_the_broker_that_is_named() {
    let bench = Bench::new();
    let queues = bench.connect("model-push://h?store=memory:").await.unwrap();
    let job = queues.enqueue(mail("one")).await.unwrap();
    bench.brokers[0].stop();
    let health = queues.health().await;
    assert_eq!(health.providers[0].status, HealthStatus::Down, "{health:?}");
    assert_eq!(health.providers[0].store.as_ref().unwrap().status, HealthStatus::Healthy, "{health:?}");
    let why = queues.provider("default").unwrap().explain(job.job()).await.unwrap();
    assert!(matches!(why.reasons[0], WaitReason::BrokerAway { .. }), "{why}");
    assert!(why.reasons.iter().all(|reason| !matches!(reason, WaitReason::StoreAway { .. })), "{why}");
    assert_eq!(why.state, Some(JobState::Pending), "the store knows it");
    // Accepted is what the store has: the broker gets it later.
    let two = queues.enqueue(mail("two")).await;
    bench.brokers[0].start();
    let (worker, _) = work(&queues, 1, Duration::ZERO).await;
    assert_eq!(job.result().await.unwrap(), "one");
    if let Ok(two) = two {
        assert_eq!(two.result().await.unwrap(), "two");
    }
    worker.stop().await;
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_still_waits_when_the_program_ends_is_said_to_be_lost() {
    let bench = Bench::new();
    let queues = bench.connect("model-push://h?store=faulty:").await.unwrap();
    let (worker, _) = work(&queues, 1, SECOND).await;
    queues.enqueue(mail("one")).await.unwrap();
    sleep(SECOND / 2).await;
    bench.faults.outage(true);
    sleep(2 * SECOND).await;
    worker.stop().await;
    let error = queues.close().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert!(error.message().contains("1 settlements wait for the store"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_not_there_leaves_no_store_open() {
    let bench = Bench::new();
    // Nothing is opened, or left open, where the broker is away.
    bench.brokers[0].stop();
    let error = bench.connect("model-push://h?store=memory:").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    bench.brokers[0].start();
    let queues = bench.connect("model-push://h?store=memory:").await.unwrap();
    assert!(queues.enqueue(mail("one")).await.is_ok());
    queues.close().await.unwrap();
}
