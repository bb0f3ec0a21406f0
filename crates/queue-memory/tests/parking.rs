//! Jobs that wait for a key: in nobody's way, listed, and back in the place they had.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use queue_core::{
    JobError, Priority, QueueName, QueueProvider,
    provider::{Cancel, ConsumeOptions, Disposition, ParkKey, PublishOptions, Settlement},
    queue_spec::Partition,
};
use rig::{Rig, done, job, numbers, queue, reference, rig, seconds, settle};

fn key(name: &str) -> ParkKey {
    ParkKey(name.into())
}

fn park(name: &str) -> Disposition {
    Disposition::Park { key: key(name), at_most: seconds(3_600) }
}

async fn parked(rig: &Rig, limit: usize) -> Vec<(String, u64)> {
    let listed = rig.provider.admin().parked(&queue(), limit).await.unwrap();
    listed.into_iter().map(|(key, jobs)| (key.0.to_string(), jobs)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_unparked_job_runs_before_fresher_ones_of_its_priority() {
    let rig = rig(|_| {}).await;
    rig.publish((1..=5).map(job)).await;
    let consumer = rig.consumer(10).await;
    let held = consumer.fetch(3, Duration::ZERO).await.unwrap();
    for index in [2, 0, 1] {
        settle(&*consumer, &held[index], park("a")).await;
    }
    rig.publish([job(6), job(7).edit(|parts| parts.priority = Priority::HIGH)]).await;
    // The oldest is let go first, whatever the order in which they were parked.
    assert_eq!(rig.provider.unpark(&queue(), &key("a"), 2).await.unwrap(), 2);
    let taken = consumer.fetch(3, Duration::ZERO).await.unwrap();
    assert_eq!(numbers(&taken), [7, 1, 2]);
    // Parked again, it keeps its place among those who are parked, and in line.
    settle(&*consumer, &taken[1], park("a")).await;
    assert_eq!(rig.provider.unpark(&queue(), &key("a"), 1).await.unwrap(), 1);
    assert_eq!(numbers(&consumer.fetch(1, Duration::ZERO).await.unwrap()), [1]);
    tokio::time::sleep(seconds(29)).await;
    // By time as well.
    consumer
        .settle(&[Settlement::new(taken[2].receipt, Disposition::Park { key: key("b"), at_most: seconds(1) })])
        .await;
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(numbers(&consumer.fetch(3, Duration::ZERO).await.unwrap()), [7, 1, 2], "also whose lease ended");
}

#[tokio::test(start_paused = true)]
async fn keys_are_listed_by_how_many_wait_for_them() {
    let rig = rig(|_| {}).await;
    assert!(parked(&rig, 10).await.is_empty());
    assert!(rig.provider.admin().parked(&QueueName::from_static("other"), 10).await.unwrap().is_empty());
    rig.publish((1..=7).map(job)).await;
    let consumer = rig.consumer(10).await;
    let held = consumer.fetch(7, Duration::ZERO).await.unwrap();
    for (index, name) in ["b", "c", "a", "b", "b", "c", "d"].into_iter().enumerate() {
        settle(&*consumer, &held[index], park(name)).await;
    }
    let listed = |all: &[(&str, u64)]| all.iter().map(|(name, jobs)| (name.to_string(), *jobs)).collect::<Vec<_>>();
    assert_eq!(parked(&rig, 10).await, listed(&[("b", 3), ("c", 2), ("a", 1), ("d", 1)]));
    assert_eq!(parked(&rig, 2).await, listed(&[("b", 3), ("c", 2)]));
    assert!(parked(&rig, 0).await.is_empty());
    // Whatever ends the wait takes it off the list: cancelled, let go, come back by time.
    rig.store.cancel(&[reference(3), reference(1)], &Cancel::by("me")).await;
    rig.provider.unpark(&queue(), &key("d"), 5).await.unwrap();
    assert_eq!(parked(&rig, 10).await, listed(&[("b", 2), ("c", 2)]));
    tokio::time::sleep(seconds(3_600)).await;
    assert!(parked(&rig, 10).await.is_empty());
    let stats = rig.provider.admin().stats(&[queue()]).await.remove(0).unwrap();
    assert_eq!((stats.pending, stats.parked), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn more_keys_than_are_looked_at_under_one_lock_are_all_listed() {
    let rig = rig(|_| {}).await;
    let keys = 3_000;
    rig.publish((0..=keys).map(job)).await;
    let consumer = rig.consumer(10_000).await;
    let held = consumer.fetch(10_000, Duration::ZERO).await.unwrap();
    for (n, delivery) in held.iter().enumerate() {
        let n = n.min(2_999);
        settle(&*consumer, delivery, park(&format!("tenant:{n:05}"))).await;
    }
    let all = parked(&rig, 10_000).await;
    assert_eq!(all.len(), 3_000);
    assert_eq!(all[0], ("tenant:02999".to_owned(), 2));
    assert!(all[1..].is_sorted() && all[1..].iter().all(|(_, jobs)| *jobs == 1));
    assert_eq!(parked(&rig, 1).await, all[..1]);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_parked_jobs_cost_a_waiting_consumer_nothing() {
    const PARKED: usize = 100_000;
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(PARKED).await;
    for from in (0..PARKED as u64).step_by(1_000) {
        rig.publish((from..from + 1_000).map(job)).await;
        let held = consumer.fetch(1_000, Duration::ZERO).await.unwrap();
        let batch: Vec<_> = held.iter().map(|delivery| Settlement::new(delivery.receipt, park("a"))).collect();
        consumer.settle(&batch).await;
    }
    let mut looks = 0;
    {
        let mut waiting = pin!(consumer.fetch(10, seconds(600)));
        let got = poll_fn(|context| {
            looks += 1;
            waiting.as_mut().poll(context)
        });
        assert!(got.await.unwrap().is_empty());
    }
    assert!(looks <= 3, "in ten minutes with nothing to do it was woken {looks} times");
    // A fresh job passes them all.
    rig.publish([job(200_000)]).await;
    assert_eq!(consumer.fetch(10, Duration::ZERO).await.unwrap().len(), 1);
    assert_eq!(parked(&rig, 1).await, [("a".to_owned(), PARKED as u64)]);
    assert_eq!(rig.provider.unpark(&queue(), &key("a"), 3).await.unwrap(), 3);
    assert_eq!(numbers(&consumer.fetch(10, Duration::ZERO).await.unwrap()), [0, 1, 2]);
    assert_eq!(rig.provider.unpark(&queue(), &key("a"), usize::MAX).await.unwrap(), PARKED - 3);
    let stats = rig.provider.admin().stats(&[queue()]).await.remove(0).unwrap();
    assert_eq!((stats.parked, stats.pending), (0, PARKED as u64 - 3));
}

#[tokio::test(start_paused = true)]
async fn one_key_in_several_queues_is_several_keys() {
    let rig = rig(|_| {}).await;
    let other = QueueName::from_static("other");
    rig.publish([job(1)]).await;
    rig.provider.publish(&other, vec![job(2)], &PublishOptions::default()).await;
    let (first, second) =
        (rig.consumer(1).await, rig.provider.consumer(&other, ConsumeOptions::new("test", 1)).await.unwrap());
    for consumer in [&first, &second] {
        let held = consumer.fetch(1, Duration::ZERO).await.unwrap();
        settle(&**consumer, &held[0], park("a")).await;
    }
    assert_eq!(rig.provider.unpark(&other, &key("a"), 9).await.unwrap(), 1);
    assert_eq!(parked(&rig, 9).await, [("a".to_owned(), 1)]);
    assert_eq!(numbers(&second.fetch(1, Duration::ZERO).await.unwrap()), [2]);
    assert!(first.fetch(1, Duration::ZERO).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_position_counts_who_is_before() {
    let rig = rig(|_| {}).await;
    let position = async |n| rig.provider.admin().position(&reference(n)).await.unwrap();
    assert_eq!(position(1).await, None, "no such queue's job");
    let level = |n, level| job(n).edit(|parts| parts.priority = Priority::new(level).unwrap());
    rig.publish([level(1, 5), level(2, 5), level(3, 9), level(4, 1), level(5, 5)]).await;
    rig.publish([job(6).edit(|parts| parts.not_before = Some(rig::START + seconds(10)))]).await;
    for (n, ahead) in [(1, Some(1)), (2, Some(2)), (3, Some(0)), (4, Some(4)), (5, Some(3)), (6, None), (7, None)] {
        assert_eq!(position(n).await, ahead, "job {n}");
    }
    rig.store.cancel(&[reference(2)], &Cancel::by("me")).await;
    assert_eq!((position(2).await, position(5).await), (None, Some(2)));
    let consumer = rig.consumer(9).await;
    let held = consumer.fetch(2, Duration::ZERO).await.unwrap();
    assert_eq!(numbers(&held), [3, 1]);
    assert_eq!((position(3).await, position(5).await, position(4).await), (None, Some(0), Some(1)));
    settle(&*consumer, &held[0], park("a")).await;
    assert_eq!((position(3).await, position(5).await), (None, Some(0)), "a parked job is in nobody's way");
    rig.provider.unpark(&queue(), &key("a"), 1).await.unwrap();
    let error = JobError::custom("TEMP", "again");
    settle(&*consumer, &held[1], Disposition::Retry { after: Duration::ZERO, error }).await;
    assert_eq!((position(3).await, position(5).await, position(1).await), (Some(0), Some(1), Some(2)));
    tokio::time::sleep(seconds(10)).await;
    assert_eq!(position(6).await, Some(3), "due by now");
    settle(&*consumer, &consumer.fetch(1, Duration::ZERO).await.unwrap()[0], done()).await;
    assert_eq!(position(3).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_position_in_a_deep_queue_is_counted_part_by_part() {
    let rig = rig(|spec| spec.partitions = [("a".into(), Partition { weight: 3, max_concurrency: None })].into()).await;
    rig.publish((0..5_000).map(job)).await;
    for (n, ahead) in [(0, 0), (1_023, 1_023), (1_024, 1_024), (4_999, 4_999)] {
        assert_eq!(rig.provider.admin().position(&reference(n)).await.unwrap(), Some(ahead), "job {n}");
    }
    // Between them come three of the other partition for each, while it has any.
    let keys = queue_core::job::LimitKeys { partition: Some("a".into()), ..Default::default() };
    let headers = queue_core::job::Headers { keys, ..Default::default() };
    let headers = queue_core::job::RawHeaders::encode(&headers).unwrap();
    rig.publish((5_000..5_300).map(|n| job(n).edit(|parts| parts.headers = headers.clone()))).await;
    for (n, ahead) in [(0, 0), (10, 40), (200, 500), (5_030, 40)] {
        assert_eq!(rig.provider.admin().position(&reference(n)).await.unwrap(), Some(ahead), "job {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_records_says_that_it_knows_no_position() {
    let rig = rig(|spec| spec.tracking = queue_core::queue_spec::Tracking::Off).await;
    rig.publish([job(1)]).await;
    let error = rig.provider.admin().position(&reference(1)).await.unwrap_err();
    assert_eq!((error.code(), error.operation()), (queue_core::ErrorCode::Unsupported, Some("position")));
}
