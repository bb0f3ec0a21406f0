#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
//! Publishing, against a real broker.

mod broker;

use std::time::Duration;

use broker::{Plain, connect, job, queue};
use queue_core::{
    Priority, QueueProvider as _, QueueSpec,
    provider::{Durability, PublishOptions, PublishOutcome, Rejection},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_confirmed_in_order_and_its_refused_items_touch_no_neighbours() {
    let Some(provider) = connect("publish").await else { return };
    let queue = queue("batch");
    let mut spec = QueueSpec::new(queue.clone());
    spec.max_encoded_len = 10_000;
    provider.declare(&spec).await.unwrap();
    let mut batch: Vec<_> = (0..500).map(|n| job(format!("{n}"))).collect();
    batch[3] = job("x".repeat(20_000));
    batch[5] = batch[5].edit(|parts| parts.timeout = Duration::from_secs(86_400));
    let outcomes = provider.publish(&queue, batch, &PublishOptions::default()).await;
    assert_eq!(outcomes.len(), 500);
    for (index, outcome) in outcomes.iter().enumerate() {
        match index {
            3 => assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::TooLarge { limit: 10_000, .. }))),
            5 => assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::ExceedsMaxHold { .. }))),
            _ => assert!(outcome.is_accepted(), "{index}: {outcome:?}"),
        }
    }
    let plain = Plain::open().await;
    let ready = plain.ready(&queue, 1);
    let expected = (0..500).filter(|n| *n != 3 && *n != 5).map(|n| n.to_string().into_bytes());
    for body in expected {
        assert_eq!(plain.take(&ready).await.unwrap().data, body);
    }
    assert!(plain.take(&ready).await.is_none());
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_priority_goes_to_the_queue_of_its_band() {
    let Some(provider) = connect("bands").await else { return };
    let queue = queue("bands");
    let batch = [1, 4, 5, 9, 10, 14, 15]
        .map(|level| job(level.to_string()).edit(|parts| parts.priority = Priority::new(level).unwrap()));
    for outcome in provider.publish(&queue, batch.to_vec(), &PublishOptions::default()).await {
        assert!(outcome.is_accepted(), "{outcome:?}");
    }
    let plain = Plain::open().await;
    for (band, count) in [(0, 2), (1, 2), (2, 2), (3, 1)] {
        assert_eq!(plain.depth(&plain.ready(&queue, band)).await, Some(count), "band {band}");
    }
    provider.drop_queue(&queue, false).await.unwrap();
    assert_eq!(plain.depth(&plain.ready(&queue, 1)).await, None);
    provider.close().await.unwrap();
}

/// RabbitMQ shows a queue before it takes anything: who finds it made by another is refused for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_publish_first_to_a_queue_are_heard() {
    let Some(provider) = connect("first").await else { return };
    let options = PublishOptions::default();
    for number in 0..10 {
        let queue = queue(&format!("first{number}"));
        let publishers = (0..8_u64).map(async |n| {
            tokio::time::sleep(Duration::from_millis(n * 10)).await;
            provider.publish(&queue, vec![job(n.to_string())], &options).await.remove(0)
        });
        for outcome in futures_util::future::join_all(publishers).await {
            assert!(outcome.is_accepted(), "{outcome:?}");
        }
        provider.drop_queue(&queue, false).await.unwrap();
    }
    provider.close().await.unwrap();
}

/// The same, where it is sure to be refused: what stands in the queue's place for a while takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_a_moment_is_offered_again() {
    let Some(provider) = connect("moment").await else { return };
    let (queue, other, plain) = (queue("moment"), queue("other"), Plain::open().await);
    for queue in [&queue, &other] {
        provider.declare(&QueueSpec::new(queue.clone())).await.unwrap();
    }
    let (name, options) = (plain.ready(&queue, 1), PublishOptions::default());
    plain.fill(&name, 3).await;
    let relent = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        plain.make_room(&name, 3).await;
    };
    let batch = || (0..3).map(|n| job(n.to_string())).collect();
    let (refused, fine, ()) =
        tokio::join!(provider.publish(&queue, batch(), &options), provider.publish(&other, batch(), &options), relent);
    assert!(refused.iter().chain(&fine).all(PublishOutcome::is_accepted), "{refused:?} {fine:?}");
    for queue in [&queue, &other] {
        assert_eq!(plain.depth(&plain.ready(queue, 1)).await, Some(3));
    }
    // One that goes on refusing is told of before the caller's time is over: nobody took the job.
    plain.refuse(&name).await;
    let short = PublishOptions { deadline: Duration::from_secs(1), ..PublishOptions::default() };
    let outcomes = provider.publish(&queue, vec![job("never")], &short).await;
    assert!(matches!(outcomes[..], [PublishOutcome::Unknown(_)]), "{outcomes:?}");
    for queue in [&queue, &other] {
        provider.drop_queue(queue, false).await.unwrap();
    }
    provider.close().await.unwrap();
}

/// A queue that is deleted behind our back is found by `mandatory`, and made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_is_sent_again_once_the_queue_is_there() {
    let Some(provider) = connect("back").await else { return };
    let (gone, stays) = (queue("gone"), queue("stays"));
    for queue in [&gone, &stays] {
        assert!(provider.publish(queue, vec![job("first")], &PublishOptions::default()).await[0].is_accepted());
    }
    let plain = Plain::open().await;
    plain.delete(&plain.ready(&gone, 1)).await;
    // Beside messages that find their queue: those that come back are told from those that do not.
    let (options, batch) =
        (PublishOptions::default(), |name: &str| (0..200).map(|n| job(format!("{name} {n}"))).collect());
    let (back, fine) = tokio::join!(
        provider.publish(&gone, batch("gone"), &options),
        provider.publish(&stays, batch("stays"), &options)
    );
    assert!(back.iter().chain(&fine).all(PublishOutcome::is_accepted), "{back:?} {fine:?}");
    assert_eq!(plain.depth(&plain.ready(&gone, 1)).await, Some(200));
    assert_eq!(plain.depth(&plain.ready(&stays, 1)).await, Some(201));
    for queue in [&gone, &stays] {
        provider.drop_queue(queue, false).await.unwrap();
    }
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rabbitmq_cannot_give_is_refused_by_name() {
    let Some(provider) = connect("refused").await else { return };
    let queue = queue("refused");
    let declare = async |change: fn(&mut QueueSpec)| {
        let mut spec = QueueSpec::new(queue.clone());
        change(&mut spec);
        provider.declare(&spec).await.unwrap_err().code().as_str()
    };
    assert_eq!(declare(|spec| spec.max_len = Some(5)).await, "UNSUPPORTED");
    assert_eq!(declare(|spec| spec.timeout = Duration::from_secs(3_601)).await, "EXCEEDS_MAX_HOLD");
    let replicated = Durability::Replicated { replicas: 2, timeout: Duration::from_secs(1) };
    let options = PublishOptions { durability: Some(replicated), ..PublishOptions::default() };
    let outcomes = provider.publish(&queue, vec![job("x")], &options).await;
    assert!(matches!(&outcomes[0], PublishOutcome::Rejected(Rejection::Denied(_))), "{outcomes:?}");
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_stands_otherwise_is_a_conflict_also_for_another_process() {
    let (Some(one), Some(two)) = (connect("one").await, connect("two").await) else { return };
    let queue = queue("conflict");
    let mut spec = QueueSpec::new(queue.clone());
    spec.max_deliveries = 3;
    one.declare(&spec).await.unwrap();
    one.declare(&spec).await.unwrap();
    two.declare(&spec).await.unwrap();
    spec.max_deliveries = 4;
    let other = connect("three").await.unwrap();
    for provider in [&one, &other] {
        let error = provider.declare(&spec).await.unwrap_err();
        assert_eq!(error.code().as_str(), "CONFLICT");
        assert!(error.message().contains("max_deliveries"), "{error}");
    }
    // Who declares nothing uses it as it stands.
    let outcomes = other.publish(&queue, vec![job("x")], &PublishOptions::default()).await;
    assert!(outcomes[0].is_accepted(), "{outcomes:?}");
    one.drop_queue(&queue, false).await.unwrap();
    for provider in [one, two, other] {
        provider.close().await.unwrap();
    }
}
