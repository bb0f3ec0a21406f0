//! Who waits, until when, and who is woken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod rig;

use std::{sync::Arc, time::Duration};

use queue_core::{
    ErrorCode, QueueProvider,
    job::JobError,
    lifecycle::JobState,
    provider::{
        Beat, BeatOutcome, Cancel, Consumer, Disposition, OnFull, ParkKey, PublishOptions, PublishOutcome, Rejection,
    },
};
use rig::{done, job, numbers, queue, reference, rig, seconds, settle};
use tokio::{task::JoinHandle, time::Instant};

/// A fetch of one job that has begun to wait, and what it found after how long.
async fn waiting(consumer: &Arc<dyn Consumer>, wait: Duration) -> JoinHandle<(Vec<u64>, Duration)> {
    let consumer = Arc::clone(consumer);
    let fetch = tokio::spawn(async move {
        let began = Instant::now();
        let found = consumer.fetch(1, wait).await.unwrap();
        (numbers(&found), began.elapsed())
    });
    tokio::task::yield_now().await;
    fetch
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_can_bring_nothing_returns_at_once() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(1).await;
    let began = Instant::now();
    assert!(consumer.fetch(0, seconds(5)).await.unwrap().is_empty());
    rig.publish([job(1)]).await;
    rig.provider.close().await.unwrap();
    assert_eq!(consumer.fetch(1, seconds(5)).await.unwrap_err().code(), ErrorCode::Closed);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_waits_as_long_as_it_was_told() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(1).await;
    let fetch = waiting(&consumer, Duration::MAX).await;
    tokio::time::advance(seconds(364 * 86_400)).await;
    tokio::task::yield_now().await;
    assert!(!fetch.is_finished());
    rig.publish([job(1)]).await;
    assert_eq!(fetch.await.unwrap().0, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_full_consumer_goes_on_when_it_has_settled() {
    for demand in [1, 2] {
        let rig = rig(|_| {}).await;
        let consumer = rig.consumer(demand).await;
        rig.publish((0..10).map(job)).await;
        let held = consumer.fetch(demand, Duration::ZERO).await.unwrap();
        let fetch = waiting(&consumer, seconds(5)).await;
        settle(&*consumer, &held[0], done()).await;
        assert_eq!(fetch.await.unwrap(), (vec![demand as u64], Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_that_finds_its_consumer_full_goes_on_to_another() {
    let rig = rig(|_| {}).await;
    let (narrow, other) = (rig.consumer(1).await, rig.consumer(1).await);
    // Time has something to do before the leases end, so that a lease is no reason to wake anybody.
    rig.publish([job(9).edit(|parts| parts.not_before = Some(rig::START + seconds(20)))]).await;
    let first = waiting(&narrow, seconds(5)).await;
    let second = waiting(&narrow, seconds(5)).await;
    let third = waiting(&other, seconds(5)).await;
    // Two wake-ups, both for the consumer that takes one job only.
    rig.publish([job(1), job(2)]).await;
    assert_eq!(first.await.unwrap(), (vec![1], Duration::ZERO));
    assert_eq!(third.await.unwrap(), (vec![2], Duration::ZERO));
    assert_eq!(second.await.unwrap(), (vec![], seconds(5)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_queue_sends_its_consumers_home() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(1).await;
    let began = Instant::now();
    let fetch = tokio::spawn(async move { consumer.fetch(1, seconds(60)).await.unwrap_err().code() });
    tokio::task::yield_now().await;
    rig.provider.drop_queue(&queue(), false).await.unwrap();
    assert_eq!((fetch.await.unwrap(), began.elapsed()), (ErrorCode::NotFound, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_who_does_not_want_to_wait() {
    let rig = rig(|spec| spec.max_len = Some(1)).await;
    let began = Instant::now();
    let outcomes = rig.publish([job(1), job(2)]).await;
    assert!(matches!(outcomes[1], PublishOutcome::Rejected(Rejection::Full)));
    assert_eq!(began.elapsed(), Duration::ZERO);
    let patient = PublishOptions { on_full: OnFull::Wait, deadline: seconds(3), ..PublishOptions::default() };
    let outcomes = rig.provider.publish(&queue(), vec![job(3)], &patient).await;
    assert!(matches!(outcomes[0], PublishOutcome::Rejected(Rejection::Full)));
    assert_eq!(began.elapsed(), seconds(3));
}

#[tokio::test(start_paused = true)]
async fn a_beat_can_shorten_a_lease() {
    let rig = rig(|_| {}).await;
    rig.publish([job(1)]).await;
    let (holder, next) = (rig.consumer(1).await, rig.consumer(1).await);
    let held = holder.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let beat = holder.heartbeat(&[Beat::extend(held.receipt, seconds(5))]).await.remove(0);
    let BeatOutcome::Held(lease) = beat else { panic!("{beat:?}") };
    assert_eq!(lease.remaining, Some(seconds(5)));
    let (found, after) = waiting(&next, seconds(20)).await.await.unwrap();
    assert_eq!(found, [1]);
    assert!((5_000..5_005).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn unparking_passes_over_jobs_that_went_on_by_themselves() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(10).await;
    let key = ParkKey("key".into());
    let park = |at_most| Disposition::Park { key: key.clone(), at_most };
    rig.publish([job(1), job(2), job(3)]).await;
    let held = consumer.fetch(3, Duration::ZERO).await.unwrap();
    for (delivery, at_most) in held.iter().zip([seconds(5), seconds(500), seconds(5)]) {
        settle(&*consumer, delivery, park(at_most)).await;
    }
    tokio::time::advance(seconds(6)).await;
    // The first parks again, behind the second; the third waits for a worker.
    let again = consumer.fetch(1, Duration::ZERO).await.unwrap();
    assert_eq!(numbers(&again), [1]);
    settle(&*consumer, &again[0], park(seconds(500))).await;
    assert_eq!(rig.provider.unpark(&queue(), &key, 1).await.unwrap(), 1);
    assert_eq!(numbers(&consumer.fetch(10, Duration::ZERO).await.unwrap()), [2, 3]);
    assert_eq!(rig.provider.unpark(&queue(), &key, 10).await.unwrap(), 1);
    assert_eq!(numbers(&consumer.fetch(10, Duration::ZERO).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_asked_to_stop_does_not_come_back() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(10).await;
    let error = JobError::custom("E", "no");
    let ways = [
        Disposition::Retry { after: Duration::ZERO, error: error.clone() },
        Disposition::Retry { after: seconds(5), error },
        Disposition::Park { key: ParkKey("key".into()), at_most: seconds(5) },
    ];
    for (n, way) in (0..).zip(ways) {
        rig.publish([job(n)]).await;
        let held = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
        rig.store.cancel(&[reference(n)], &Cancel::by("me")).await;
        settle(&*consumer, &held, way).await;
        assert_eq!(rig.record(n).await.state, JobState::Cancelled, "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_at_once_stands_before_what_comes_later() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(10).await;
    rig.publish([job(1)]).await;
    let held = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let error = JobError::custom("E", "no");
    settle(&*consumer, &held, Disposition::Retry { after: Duration::ZERO, error }).await;
    rig.publish([job(2)]).await;
    assert_eq!(numbers(&consumer.fetch(10, Duration::ZERO).await.unwrap()), [1, 2]);
}
