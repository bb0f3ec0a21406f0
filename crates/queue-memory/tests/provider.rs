//! What is memory's own: the conformance suite covers what every provider does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, ErrorCode, JobError, JobId, JobRef, QueueName, QueueProvider, QueueSpec, Timestamp,
    job::{Envelope, JobKind},
    provider::{
        Cancel, ConsumeOptions, Consumer, Delivery, Disposition, Durability, OnFull, PublishOptions, PublishOutcome,
        Redrive, Rejection, SettleOutcome, Settlement,
    },
    queue_spec::{Retention, Tracking},
    store::Lookup,
};
use queue_memory::MemoryProvider;

fn queue() -> QueueName {
    QueueName::from_static("q")
}

fn provider() -> MemoryProvider {
    MemoryProvider::with_env(Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1))
}

fn job(n: u64) -> Envelope {
    let at = Timestamp::from_millis(1_700_000_000_000);
    Envelope::builder(JobId::derive(b"job", n), JobKind::from_static("k"), vec![0; 200], at).seal()
}

async fn publish(provider: &MemoryProvider, jobs: impl IntoIterator<Item = Envelope>) -> Vec<PublishOutcome> {
    provider.publish(&queue(), jobs.into_iter().collect(), &PublishOptions::default()).await
}

async fn consumer(provider: &MemoryProvider, outstanding: usize) -> Arc<dyn Consumer> {
    provider.consumer(&queue(), ConsumeOptions::new("test", outstanding)).await.unwrap()
}

async fn complete(consumer: &dyn Consumer, deliveries: &[Delivery]) -> Vec<SettleOutcome> {
    let settle = |delivery: &Delivery| Settlement::new(delivery.receipt, Disposition::Complete { result: None });
    consumer.settle(&deliveries.iter().map(settle).collect::<Vec<_>>()).await
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_leaves_its_lease_to_end_by_itself() {
    let provider = provider();
    publish(&provider, [job(1)]).await;
    let first = consumer(&provider, 1).await;
    let old = first.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    drop(first);
    let second = consumer(&provider, 1).await;
    assert!(second.fetch(1, Duration::from_secs(29)).await.unwrap().is_empty());
    let new = second.fetch(1, Duration::from_secs(2)).await.unwrap().remove(0);
    assert!(new.redelivered);
    assert_eq!(new.attempt, 1);
    assert!(matches!(complete(&*second, &[old]).await[0], SettleOutcome::LeaseLost));
    assert!(matches!(complete(&*second, &[new]).await[0], SettleOutcome::Settled));
}

#[tokio::test(start_paused = true)]
async fn every_sleeping_consumer_is_woken_for_its_share() {
    let provider = provider();
    let mut fetches = Vec::new();
    for _ in 0..5 {
        let consumer = consumer(&provider, 1).await;
        fetches.push(tokio::spawn(async move { consumer.fetch(10, Duration::from_secs(5)).await.unwrap().len() }));
    }
    tokio::task::yield_now().await;
    publish(&provider, (0..5).map(job)).await;
    let started = tokio::time::Instant::now();
    for fetch in fetches {
        assert_eq!(fetch.await.unwrap(), 1);
    }
    assert_eq!(started.elapsed(), Duration::ZERO, "nobody waited for a timer");
}

#[tokio::test(start_paused = true)]
async fn a_full_consumer_does_not_swallow_anothers_wake_up() {
    let provider = provider();
    publish(&provider, [job(0)]).await;
    let (full, free) = (consumer(&provider, 1).await, consumer(&provider, 1).await);
    assert_eq!(full.fetch(1, Duration::ZERO).await.unwrap().len(), 1);
    let full_fetch = tokio::spawn({
        let full = Arc::clone(&full);
        async move { full.fetch(1, Duration::from_secs(5)).await.unwrap().len() }
    });
    tokio::task::yield_now().await;
    let free_fetch = tokio::spawn(async move { free.fetch(1, Duration::from_secs(5)).await.unwrap().len() });
    tokio::task::yield_now().await;
    publish(&provider, [job(1)]).await;
    let started = tokio::time::Instant::now();
    assert_eq!(free_fetch.await.unwrap(), 1);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(full_fetch.await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_closer_due_time_shortens_a_sleep_that_has_begun() {
    let provider = provider();
    let consumer = consumer(&provider, 10).await;
    let later = |seconds: u64| {
        let due = Timestamp::from_millis(1_700_000_000_000) + Duration::from_secs(seconds);
        job(seconds).edit(|parts| parts.not_before = Some(due))
    };
    publish(&provider, [later(50)]).await;
    let fetch = tokio::spawn(async move { consumer.fetch(10, Duration::from_secs(60)).await.unwrap() });
    tokio::task::yield_now().await;
    publish(&provider, [later(5)]).await;
    let started = tokio::time::Instant::now();
    assert_eq!(fetch.await.unwrap()[0].envelope.id, JobId::derive(b"job", 5));
    assert!((5_000..5_005).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn publishers_wait_for_room_in_vain_or_not() {
    let provider = provider();
    let mut spec = QueueSpec::new(queue());
    spec.max_len = Some(2);
    provider.declare(&spec).await.unwrap();
    assert!(publish(&provider, [job(0), job(1)]).await.iter().all(PublishOutcome::is_accepted));
    let waiting =
        PublishOptions { on_full: OnFull::Wait, deadline: Duration::from_secs(3), ..PublishOptions::default() };
    let publishing = tokio::spawn({
        let (provider, options) = (provider.clone(), waiting.clone());
        async move { provider.publish(&queue(), vec![job(2), job(3)], &options).await }
    });
    tokio::task::yield_now().await;
    let consumer = consumer(&provider, 10).await;
    assert_eq!(consumer.fetch(1, Duration::ZERO).await.unwrap().len(), 1);
    let outcomes = publishing.await.unwrap();
    assert!(outcomes[0].is_accepted());
    assert!(matches!(outcomes[1], PublishOutcome::Rejected(Rejection::Full)));
}

#[tokio::test(start_paused = true)]
async fn finished_jobs_are_forgotten_by_count_and_bytes_and_age() {
    let provider = provider();
    let mut spec = QueueSpec::new(queue());
    spec.retention = Retention { count: 3, age: Duration::from_secs(10), ..Retention::default() };
    provider.declare(&spec).await.unwrap();
    let finished = || async { provider.admin().stats(&[queue()]).await.remove(0).unwrap().finished };
    let consumer = consumer(&provider, 100).await;
    publish(&provider, (0..10).map(job)).await;
    let deliveries = consumer.fetch(100, Duration::ZERO).await.unwrap();
    complete(&*consumer, &deliveries).await;
    assert_eq!(finished().await, 3);
    tokio::time::advance(Duration::from_secs(9)).await;
    provider.maintain(true).await.unwrap();
    assert_eq!(finished().await, 3);
    tokio::time::advance(Duration::from_secs(1)).await;
    provider.maintain(true).await.unwrap();
    assert_eq!(finished().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_memory_cannot_give_is_refused_by_name() {
    let provider = provider();
    let mut spec = QueueSpec::new(queue());
    spec.durability = Some(Durability::Synced);
    let error = provider.declare(&spec).await.unwrap_err();
    assert_eq!((error.code(), error.operation()), (ErrorCode::Unsupported, Some("durability")));
}

#[tokio::test(start_paused = true)]
async fn two_connections_share_queues_and_close_apart() {
    let first = provider();
    let second = first.connect();
    publish(&first, [job(1)]).await;
    first.close().await.unwrap();
    assert_eq!(first.ping().await.unwrap_err().code(), ErrorCode::Closed);
    let consumer = consumer(&second, 1).await;
    assert_eq!(consumer.fetch(1, Duration::ZERO).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_untracked_queue_says_what_it_cannot_do_and_still_keeps_its_dead() {
    let provider = provider();
    let mut spec = QueueSpec::new(queue());
    spec.tracking = Tracking::Off;
    provider.declare(&spec).await.unwrap();
    assert!(!provider.capabilities(Some(&spec)).dedup_by_id.is_supported());
    assert!(!provider.capabilities(Some(&spec)).cancel_pending.is_supported());
    assert!(provider.capabilities(None).dedup_by_id.is_supported());

    publish(&provider, [job(1), job(2)]).await;
    let reference = JobRef::new(queue(), job(1).id);
    let store = provider.job_store().unwrap();
    assert!(matches!(store.get(std::slice::from_ref(&reference)).await[0], Ok(Lookup::Unknown)));
    let refused = store.cancel(&[reference], &Cancel::by("me")).await.remove(0).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unsupported);

    let consumer = consumer(&provider, 2).await;
    let deliveries = consumer.fetch(2, Duration::ZERO).await.unwrap();
    let dead = Disposition::DeadLetter { error: JobError::custom("BROKEN", "no") };
    consumer.settle(&[Settlement::new(deliveries[0].receipt, dead)]).await;
    complete(&*consumer, &deliveries[1..]).await;
    let again = complete(&*consumer, &deliveries[1..]).await;
    assert!(matches!(again[0], SettleOutcome::AlreadySettled), "forgotten, but not how it was settled");
    let report = provider.admin().redrive(&queue(), &Redrive::one(deliveries[0].envelope.id)).await.unwrap();
    assert_eq!(report.redriven, 1);
    let again = consumer.fetch(2, Duration::ZERO).await.unwrap();
    assert_eq!((again.len(), again[0].attempt), (1, 1));
}
