//! One publish, several queues, one step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use queue_core::{
    ErrorCode, QueueName, QueueProvider, QueueSpec,
    job::{Envelope, Headers, LimitKeys, RawHeaders, Unique, UniqueKey},
    provider::{ConsumeOptions, Durability, OnFull, PublishOptions, PublishOutcome, Rejection, Topics},
};
use queue_memory::MemoryProvider;
use rig::{Rig, done, job, numbers, rig, seconds, settle};

static NEWS: LazyLock<QueueName> = LazyLock::new(|| QueueName::from_static("news"));
static ONE: LazyLock<QueueName> = LazyLock::new(|| QueueName::from_static("one"));
static TWO: LazyLock<QueueName> = LazyLock::new(|| QueueName::from_static("two"));

async fn subscribed(change: impl FnOnce(&mut QueueSpec)) -> (Rig, Arc<dyn Topics>) {
    let rig = rig(|_| {}).await;
    let mut spec = QueueSpec::new(TWO.clone());
    change(&mut spec);
    rig.provider.declare(&spec).await.unwrap();
    let topics = rig.provider.topics().unwrap();
    for queue in [&*ONE, &*TWO] {
        topics.subscribe(&NEWS, queue).await.unwrap();
    }
    (rig, topics)
}

async fn publish(topics: &Arc<dyn Topics>, jobs: impl IntoIterator<Item = Envelope>) -> Vec<PublishOutcome> {
    topics.publish(&NEWS, jobs.into_iter().collect(), &PublishOptions::default()).await
}

async fn waiting(provider: &MemoryProvider, queue: &QueueName) -> u64 {
    provider.admin().stats(std::slice::from_ref(queue)).await.remove(0).map_or(0, |stats| stats.pending)
}

async fn in_both(rig: &Rig) -> (u64, u64) {
    (waiting(&rig.provider, &ONE).await, waiting(&rig.provider, &TWO).await)
}

fn unique(n: u64, key: &str) -> Envelope {
    let unique = Unique { key: UniqueKey::new(key).unwrap(), window: None };
    job(n).edit(|parts| parts.unique = Some(Box::new(unique.clone())))
}

#[tokio::test(start_paused = true)]
async fn each_queue_gets_a_copy_with_a_life_of_its_own() {
    let (rig, topics) = subscribed(|_| {}).await;
    assert!(publish(&topics, (1..=3).map(job)).await.iter().all(PublishOutcome::is_accepted));
    for queue in [&*ONE, &*TWO] {
        let consumer = rig.provider.consumer(queue, ConsumeOptions::new("test", 10)).await.unwrap();
        let got = consumer.fetch(10, Duration::ZERO).await.unwrap();
        assert_eq!(numbers(&got), [1, 2, 3]);
        settle(&*consumer, &got[0], done()).await;
    }
    // The same ids again: known in both.
    assert!(publish(&topics, (1..=3).map(job)).await.iter().all(PublishOutcome::is_accepted));
    assert_eq!(in_both(&rig).await, (0, 0));
    topics.unsubscribe(&NEWS, &TWO).await.unwrap();
    publish(&topics, [job(4)]).await;
    assert_eq!(in_both(&rig).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_the_providers_and_not_a_connections() {
    let (rig, topics) = subscribed(|_| {}).await;
    let second = rig.provider.connect();
    rig.provider.close().await.unwrap();
    for refused in [topics.subscribe(&NEWS, &ONE).await, topics.unsubscribe(&NEWS, &ONE).await] {
        assert_eq!(refused.unwrap_err().code(), ErrorCode::Closed);
    }
    let outcomes = publish(&topics, [job(1)]).await;
    assert!(matches!(&outcomes[..], [PublishOutcome::Rejected(Rejection::Unavailable(_))]), "{outcomes:?}");
    assert!(publish(&second.topics().unwrap(), [job(1)]).await[0].is_accepted());
    assert_eq!((waiting(&second, &ONE).await, waiting(&second, &TWO).await), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_subscribed_is_unroutable() {
    let (rig, topics) = subscribed(|_| {}).await;
    let lost = |outcomes: Vec<PublishOutcome>| {
        assert!(matches!(&outcomes[..], [PublishOutcome::Rejected(Rejection::Unroutable)]), "{outcomes:?}");
    };
    let options = PublishOptions::default();
    lost(topics.publish(&QueueName::from_static("other"), vec![job(1)], &options).await);
    // A queue's own name is no topic.
    lost(topics.publish(&ONE, vec![job(1)], &options).await);
    topics.unsubscribe(&NEWS, &ONE).await.unwrap();
    topics.unsubscribe(&NEWS, &TWO).await.unwrap();
    topics.unsubscribe(&NEWS, &TWO).await.unwrap();
    lost(publish(&topics, [job(1)]).await);
    assert_eq!(in_both(&rig).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_one_queue_refuses_reaches_none() {
    let (rig, topics) = subscribed(|spec| spec.max_len = Some(2)).await;
    let outcomes = publish(&topics, (1..=4).map(job)).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_accepted()).count(), 2);
    assert!(matches!(
        &outcomes[2..],
        [PublishOutcome::Rejected(Rejection::Full), PublishOutcome::Rejected(Rejection::Full)]
    ));
    assert_eq!(in_both(&rig).await, (2, 2));

    let (rig, topics) = subscribed(|spec| spec.max_encoded_len = 400).await;
    let long = job(2).edit(|parts| parts.payload = vec![0; 500].into());
    let keys = LimitKeys { partition: Some("bulk".into()), ..LimitKeys::default() };
    let headers = RawHeaders::encode(&Headers { keys, ..Headers::default() }).unwrap();
    let lost = job(3).edit(|parts| parts.headers = headers);
    let outcomes = publish(&topics, [job(1), long, lost, job(4)]).await;
    assert!(
        matches!(
            &outcomes[..],
            [
                PublishOutcome::Accepted { .. },
                PublishOutcome::Rejected(Rejection::TooLarge { limit: 400, .. }),
                PublishOutcome::Rejected(Rejection::Denied(_)),
                PublishOutcome::Accepted { .. },
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(in_both(&rig).await, (2, 2));
    let options = PublishOptions { durability: Some(Durability::Synced), ..PublishOptions::default() };
    let outcomes = topics.publish(&NEWS, vec![job(9)], &options).await;
    assert!(matches!(&outcomes[..], [PublishOutcome::Rejected(Rejection::Denied(_))]), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_one_queue_holds_is_free_in_the_other() {
    let (rig, topics) = subscribed(|_| {}).await;
    rig.provider.publish(&ONE, vec![unique(1, "key")], &PublishOptions::default()).await;
    let outcomes = publish(&topics, [unique(2, "key")]).await;
    let [PublishOutcome::Duplicate { existing }] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!((&existing.queue, existing.id), (&*ONE, job(1).id));
    assert_eq!(in_both(&rig).await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_waits_for_room_in_the_fullest() {
    let (rig, topics) = subscribed(|spec| spec.max_len = Some(1)).await;
    let options = PublishOptions { on_full: OnFull::Wait, deadline: seconds(10), ..PublishOptions::default() };
    let consumer = rig.provider.consumer(&TWO, ConsumeOptions::new("test", 10)).await.unwrap();
    let batch: Vec<_> = (1..=3).map(job).collect();
    let (outcomes, ()) = tokio::join!(topics.publish(&NEWS, batch, &options), async {
        tokio::time::sleep(seconds(3)).await;
        assert_eq!(consumer.fetch(1, Duration::ZERO).await.unwrap().len(), 1);
    });
    let accepted: Vec<bool> = outcomes.iter().map(PublishOutcome::is_accepted).collect();
    assert_eq!(accepted, [true, true, false], "{outcomes:?}");
    assert_eq!(in_both(&rig).await, (2, 1));

    // Who waits hears of a close, and of a queue that is dropped.
    let waits = topics.publish(&NEWS, vec![job(4)], &options);
    let (outcomes, ()) = tokio::join!(waits, async {
        tokio::time::sleep(seconds(1)).await;
        rig.provider.drop_queue(&TWO, false).await.unwrap();
    });
    assert!(outcomes[0].is_accepted(), "the other one has it: {outcomes:?}");
    assert_eq!(in_both(&rig).await, (3, 0));
    rig.provider.publish(&ONE, Vec::new(), &options).await;
    let mut spec = QueueSpec::new(TWO.clone());
    spec.max_len = Some(1);
    rig.provider.declare(&spec).await.unwrap();
    topics.subscribe(&NEWS, &TWO).await.unwrap();
    let (outcomes, ()) = tokio::join!(topics.publish(&NEWS, vec![job(5), job(6)], &options), async {
        tokio::time::sleep(seconds(1)).await;
        rig.provider.close().await.unwrap();
    });
    assert!(matches!(&outcomes[1], PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_queue_is_subscribed_no_longer() {
    let (rig, topics) = subscribed(|_| {}).await;
    publish(&topics, [job(1)]).await;
    assert!(rig.provider.drop_queue(&TWO, true).await.is_err(), "a job waits in it");
    publish(&topics, [job(2)]).await;
    assert_eq!(in_both(&rig).await, (2, 2));
    rig.provider.drop_queue(&TWO, false).await.unwrap();
    publish(&topics, [job(3)]).await;
    assert_eq!(in_both(&rig).await, (3, 0));
    let names = rig.provider.admin().queues("two", None, 9).await.unwrap().items;
    assert!(names.is_empty(), "publishing did not bring it back");
    // One that was never used as well.
    let never = QueueName::from_static("never");
    topics.subscribe(&NEWS, &never).await.unwrap();
    rig.provider.drop_queue(&never, false).await.unwrap();
    publish(&topics, [job(4)]).await;
    assert_eq!((waiting(&rig.provider, &never).await, waiting(&rig.provider, &ONE).await), (0, 4));
}

/// Publishers of one topic, of its queues, and somebody who drops them: nobody blocks another for ever, and each copy is in
/// all queues or in none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn topics_queues_and_drops_go_on_at_the_same_time() {
    let provider = MemoryProvider::new();
    let topics = provider.topics().unwrap();
    let stay: Vec<QueueName> = (0..4).map(|n| QueueName::new(format!("stay-{n}")).unwrap()).collect();
    for queue in &stay {
        topics.subscribe(&NEWS, queue).await.unwrap();
    }
    let mut tasks = Vec::new();
    for publisher in 0..3u64 {
        let topics = Arc::clone(&topics);
        tasks.push(tokio::spawn(async move {
            for n in 0..300 {
                assert!(publish(&topics, [job(publisher * 1_000 + n)]).await[0].is_accepted());
            }
        }));
    }
    for passing in 0..2 {
        let (topics, provider) = (Arc::clone(&topics), provider.clone());
        tasks.push(tokio::spawn(async move {
            let name = QueueName::new(format!("passing-{passing}")).unwrap();
            for _ in 0..200 {
                topics.subscribe(&NEWS, &name).await.unwrap();
                tokio::task::yield_now().await;
                provider.drop_queue(&name, false).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for queue in stay {
        assert_eq!(waiting(&provider, &queue).await, 900);
    }
    let left = provider.admin().queues("passing", None, 9).await.unwrap().items;
    assert!(left.is_empty(), "a publish brought dropped queues back: {left:?}");
}
