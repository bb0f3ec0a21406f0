//! Everything is where it was.

use queue_core::{
    Priority,
    job::{JobError, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Cancel, FollowUp, ParkKey, Redrive},
    queue_spec::{Order, Partition, Retention, Tracking},
    store::QueueControl,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_there_in_its_order() {
    let rig = Rig::with_queue(|_| {}).await;
    let at = |n: u64, level: u8| job(n).edit(|parts| parts.priority = Priority::new(level).unwrap());
    rig.accepted([at(1, 5), at(2, 9), at(3, 5), at(4, 1), at(5, 9)]).await;
    let rig = rig.crash();
    assert_eq!(rig.provider.recovery().map(|found| (found.clean, found.jobs)), Some((false, 5)));
    let stats = rig.stats().await;
    assert_eq!((stats.pending, stats.submitted_total), (5, 5));
    let rig = rig.restart().await;
    assert_eq!(rig.provider.recovery().map(|found| (found.clean, found.jobs)), Some((true, 5)));
    assert_eq!(rig.fetched(9).await, [2, 5, 1, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn who_was_released_retried_or_late_stands_where_it_stood() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=6).map(job)).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(4, Duration::ZERO).await.unwrap();
    let error = JobError::custom("E", "no");
    let again = Disposition::Retry { after: Duration::ZERO, error: error.clone() };
    let back = Disposition::Release { after: Duration::ZERO, reason: queue_core::provider::ReleaseReason::Shutdown };
    let later = Disposition::Retry { after: seconds(60), error };
    assert!(settle(&*consumer, &deliveries[0], again).await.is_settled());
    assert!(settle(&*consumer, &deliveries[2], back).await.is_settled());
    assert!(settle(&*consumer, &deliveries[3], later).await.is_settled());
    // 2 runs on; 1 joined the tail; 3 went back to the head; 4 waits.
    let rig = rig.crash_after(seconds(30));
    assert_eq!(rig.record(4).await.state, JobState::Retrying);
    assert_eq!((rig.record(1).await.attempt, rig.record(4).await.attempt), (2, 2));
    assert_eq!(rig.fetched(9).await, [2, 3, 5, 6, 1]);
    tokio::time::advance(seconds(29)).await;
    assert_eq!(rig.stats().await.retrying, 1, "early");
    tokio::time::advance(seconds(2)).await;
    assert_eq!(rig.fetched(9).await, [4]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_with_the_process_and_a_job_that_was_asked_to_stop_does() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=3).map(job)).await;
    let deliveries = rig.fetch(2).await;
    assert!(deliveries.iter().all(|delivery| !delivery.redelivered));
    let store = rig.provider.job_store().unwrap();
    store.cancel(&[JobRef::new(queue(), id(2))], &Cancel::by("me")).await.remove(0).unwrap();
    let rig = rig.crash();
    let stats = rig.stats().await;
    assert_eq!((stats.pending, stats.running, stats.finished), (2, 0, 1));
    assert_eq!(rig.record(2).await.state, JobState::Cancelled);
    let deliveries = rig.fetch(9).await;
    let seen: Vec<_> = deliveries.iter().map(|delivery| (number(delivery), delivery.redelivered)).collect();
    assert_eq!(seen, [(1, true), (3, false)]);
}

#[tokio::test(start_paused = true)]
async fn delays_and_times_to_live_go_on_while_nobody_is_there() {
    let rig = Rig::with_queue(|_| {}).await;
    let due = |n: u64, after: u64| job(n).edit(|parts| parts.not_before = Some(START + seconds(after)));
    let ends = |n: u64, after: u64| job(n).edit(|parts| parts.expires_at = Some(START + seconds(after)));
    rig.accepted([due(1, 100), due(2, 200), ends(3, 100), ends(4, 200)]).await;
    let rig = rig.crash_after(seconds(150));
    assert_eq!(rig.fetched(9).await, [4, 1]);
    assert_eq!(rig.record(3).await.state, JobState::Expired);
    assert_eq!(rig.record(2).await.due_at, Some(START + seconds(200)));
    let rig = rig.crash_after(seconds(49));
    assert_eq!(rig.fetched(9).await, [4, 1]);
    tokio::time::advance(seconds(1)).await;
    assert_eq!(rig.fetched(9).await, [2]);
    let rig = rig.crash_after(seconds(1));
    assert_eq!(rig.record(4).await.state, JobState::Expired);
    assert_eq!(rig.fetched(9).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn parked_jobs_wait_for_their_key_still() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=3).map(job)).await;
    let consumer = rig.consumer(9).await;
    let key = ParkKey("limit".into());
    for delivery in consumer.fetch(9, Duration::ZERO).await.unwrap() {
        let at_most = seconds(if number(&delivery) == 3 { 60 } else { 1_000 });
        assert!(settle(&*consumer, &delivery, Disposition::Park { key: key.clone(), at_most }).await.is_settled());
    }
    let rig = rig.crash_after(seconds(30));
    assert_eq!((rig.stats().await.pending, rig.stats().await.parked), (3, 3));
    assert_eq!(rig.provider.unpark(&queue(), &key, 1).await.unwrap(), 1);
    let rig = rig.crash();
    assert_eq!(rig.record(2).await.parked, Some(key.clone()));
    assert_eq!(rig.fetched(9).await, [1]);
    tokio::time::advance(seconds(31)).await;
    assert_eq!(rig.fetched(9).await, [3]);
    assert_eq!(rig.provider.admin().parked(&queue(), 9).await.unwrap(), [(key, 1)]);
}

#[tokio::test(start_paused = true)]
async fn dead_and_finished_jobs_keep_their_records_and_redrive_theirs() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=3).map(job)).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(9, Duration::ZERO).await.unwrap();
    let error = JobError::custom("E", "why").with_detail("more");
    let dies = Disposition::DeadLetter { error: error.clone() };
    assert!(settle(&*consumer, &deliveries[0], dies.clone()).await.is_settled());
    assert!(
        settle(&*consumer, &deliveries[1], Disposition::Complete { result: Some("yes".into()) }).await.is_settled()
    );
    let rig = rig.crash();
    let stats = rig.stats().await;
    assert_eq!((stats.dead, stats.finished, stats.pending, stats.completed_total), (1, 1, 1, 1));
    let record = rig.record(2).await;
    assert_eq!((record.result.as_deref(), record.worker.as_deref()), (Some(&b"yes"[..]), Some("w")));
    assert_eq!((record.finished_at, record.started_at), (Some(START), Some(START)));
    assert_eq!(rig.record(1).await.error, Some(error));
    let what = Redrive { payload: Some(7u64.to_le_bytes().to_vec().into()), ..Redrive::one(id(1)) };
    assert_eq!(rig.provider.admin().redrive(&queue(), &what).await.unwrap().redriven, 1);
    let rig = rig.crash();
    assert_eq!((rig.stats().await.dead, rig.record(1).await.attempt), (0, 1));
    assert_eq!(rig.fetched(9).await, [3, 7]);
}

#[tokio::test(start_paused = true)]
async fn retention_goes_on_and_what_it_forgot_stays_known() {
    let rig = Rig::with_queue(|spec| spec.retention = Retention { count: 2, ..Retention::default() }).await;
    rig.accepted((1..=4).map(job)).await;
    let consumer = rig.consumer(9).await;
    for delivery in consumer.fetch(9, Duration::ZERO).await.unwrap() {
        assert!(settle(&*consumer, &delivery, done()).await.is_settled());
    }
    let rig = rig.crash();
    assert_eq!(rig.stats().await.finished, 2);
    assert!(matches!(rig.look_up(2).await, Lookup::Gone), "{:?}", rig.look_up(2).await);
    rig.accepted([job(1), job(2)]).await;
    assert_eq!(rig.stats().await.pending, 0, "forgotten is not new");
    assert!(matches!(rig.look_up(9).await, Lookup::NotFound));
    let rig = rig.crash_after(seconds(25 * 3_600));
    rig.provider.maintain(true).await.unwrap();
    assert_eq!(rig.stats().await.finished, 0);
    // What nobody waits for is on disk with the next commit.
    rig.provider.maintain(true).await.unwrap();
    let rig = rig.crash();
    assert_eq!(rig.stats().await.finished, 0);
    assert!(matches!(rig.look_up(3).await, Lookup::Gone));
}

#[tokio::test(start_paused = true)]
async fn unique_keys_are_held_on_and_windows_end_when_they_should() {
    let rig = Rig::with_queue(|spec| spec.retention = Retention::none()).await;
    let with = |n: u64, key: &str, window: Option<u64>| {
        let unique = Unique { key: UniqueKey::new(key).unwrap(), window: window.map(seconds) };
        job(n).edit(|parts| parts.unique = Some(Box::new(unique)))
    };
    rig.accepted([with(1, "a", None), with(2, "b", Some(100))]).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(9, Duration::ZERO).await.unwrap();
    assert!(settle(&*consumer, &deliveries[1], done()).await.is_settled());
    let rig = rig.crash_after(seconds(99));
    let outcomes = rig.publish([with(3, "a", None), with(4, "b", None)]).await;
    let holders: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            PublishOutcome::Duplicate { existing } => existing.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(holders, [id(1), id(2)]);
    tokio::time::advance(seconds(1)).await;
    rig.accepted([with(5, "b", None)]).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(1, Duration::ZERO).await.unwrap();
    assert!(settle(&*consumer, &deliveries[0], done()).await.is_settled());
    let rig = rig.crash();
    rig.accepted([with(6, "a", None)]).await;
    let outcomes = rig.publish([with(7, "b", None)]).await;
    assert!(matches!(&outcomes[..], [PublishOutcome::Duplicate { existing }] if existing.id == id(5)), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn queues_switches_topics_and_the_stores_name_are_kept() {
    let rig = Rig::with_queue(|spec| spec.max_len = Some(7)).await;
    let (topics, topic, other) =
        (rig.provider.topics().unwrap(), QueueName::from_static("news"), QueueName::from_static("other"));
    topics.subscribe(&topic, &queue()).await.unwrap();
    topics.subscribe(&topic, &other).await.unwrap();
    topics.unsubscribe(&topic, &other).await.unwrap();
    rig.provider.admin().pause(&queue(), true).await.unwrap();
    let store = rig.provider.job_store().unwrap();
    let control = QueueControl { paused: true, version: 1, ..QueueControl::default() };
    store.set_queue_control(&queue(), &control).await.unwrap();
    rig.provider.declare(&QueueSpec::new(other.clone())).await.unwrap();
    rig.provider.drop_queue(&other, false).await.unwrap();
    let name = store.id();

    let rig = rig.crash();
    let store = rig.provider.job_store().unwrap();
    assert_eq!(store.id(), name);
    assert_eq!(store.queue_control(&queue()).await.unwrap(), QueueControl { version: 2, ..control });
    assert_eq!(rig.provider.admin().spec(&queue()).await.unwrap().unwrap().max_len, Some(7));
    assert_eq!(rig.provider.admin().queues("", None, 9).await.unwrap().items, [queue()]);
    let outcomes = rig.provider.topics().unwrap().publish(&topic, vec![job(1)], &PublishOptions::default()).await;
    assert!(outcomes[0].is_accepted(), "{outcomes:?}");
    let rig = rig.crash();
    assert_eq!(rig.stats().await.pending, 1);
    rig.provider.drop_queue(&queue(), false).await.unwrap();
    let rig = rig.crash();
    assert!(rig.provider.admin().queues("", None, 9).await.unwrap().items.is_empty());
    let outcomes = rig.provider.topics().unwrap().publish(&topic, vec![job(1)], &PublishOptions::default()).await;
    assert!(!outcomes[0].is_accepted(), "the subscription went with its queue");
    // A queue of the same name is another one.
    rig.accepted([job(2)]).await;
    assert_eq!(rig.crash().fetched(9).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn untracked_jobs_wait_on_and_leave_no_trace() {
    let rig = Rig::with_queue(|spec| spec.tracking = Tracking::Off).await;
    rig.accepted((1..=3).map(job)).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(2, Duration::ZERO).await.unwrap();
    assert!(settle(&*consumer, &deliveries[0], done()).await.is_settled());
    let rig = rig.crash();
    assert_eq!(rig.provider.recovery().unwrap().jobs, 2);
    assert_eq!(rig.fetched(9).await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn partitions_and_aged_lanes_are_filled_again() {
    let parts = || [("a".into(), Partition { max_concurrency: Some(1), ..Partition::default() })].into();
    let rig = Rig::with_queue(|spec| {
        (spec.partitions, spec.order) = (parts(), Order::Aged { bound: seconds(100) });
    })
    .await;
    let in_part = |n: u64| {
        let mut headers = queue_core::job::Headers::default();
        headers.keys.partition = Some("a".into());
        job(n).edit(|parts| parts.headers = queue_core::job::RawHeaders::encode(&headers).unwrap())
    };
    rig.accepted([in_part(1), in_part(2), job(3)]).await;
    assert_eq!(rig.fetched(9).await.len(), 2);
    let rig = rig.crash();
    let mut first = rig.fetched(9).await;
    first.sort_unstable();
    assert_eq!(first, [1, 3], "one of the partition at a time, after a crash too");
    // What waited before the crash is as old as it is.
    let rig = Rig::with_queue(|spec| spec.order = Order::Aged { bound: seconds(100) }).await;
    let high = |n: u64| job(n).edit(|parts| parts.priority = Priority::URGENT);
    rig.accepted([job(1)]).await;
    tokio::time::advance(seconds(40)).await;
    let rig = rig.crash_after(seconds(20));
    rig.accepted((2..=9).map(high)).await;
    assert_eq!(rig.fetched(2).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_and_what_follows_from_it_are_one() {
    let rig = Rig::with_queue(|_| {}).await;
    let other = QueueName::from_static("other");
    rig.accepted([job(1)]).await;
    let consumer = rig.consumer(9).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let then = vec![FollowUp { queue: other.clone(), envelope: job(2) }, FollowUp { queue: queue(), envelope: job(3) }];
    let settlement = Settlement { then, ..Settlement::new(delivery.receipt, done()) };
    assert!(consumer.settle(&[settlement]).await[0].is_settled());
    let rig = rig.crash();
    assert_eq!(rig.fetched(9).await, [3]);
    assert_eq!(rig.provider.admin().stats(&[other]).await.remove(0).unwrap().pending, 1);
}

#[tokio::test(start_paused = true)]
async fn notes_come_after_what_was_published_before_them() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.provider.note("offset", "1", Durability::Synced).await.unwrap();
    rig.provider.note("input", "file", Durability::Synced).await.unwrap();
    rig.accepted([job(1)]).await;
    rig.provider.note("offset", "2", Durability::Relaxed).await.unwrap();
    let relaxed = PublishOptions { durability: Some(Durability::Relaxed), ..PublishOptions::default() };
    rig.provider.publish(&queue(), vec![job(2)], &relaxed).await;
    let rig = rig.crash();
    let notes = rig.provider.notes();
    assert_eq!((&notes["offset"][..], &notes["input"][..]), (&b"2"[..], &b"file"[..]));
    assert_eq!(rig.fetched(9).await, [1, 2]);
    let long = rig.provider.note(&"k".repeat(257), "", Durability::Relaxed).await.unwrap_err();
    assert_eq!(long.code(), queue_core::ErrorCode::Validation);
}

/// A leader of an earlier process is never taken for one of this.
#[tokio::test(start_paused = true)]
async fn epochs_of_leadership_go_on_rising() {
    let lead = async |rig: &Rig| {
        let store = rig.provider.job_store().unwrap();
        (store.id(), store.lead("sweep", "me", seconds(9)).await.unwrap().unwrap().epoch)
    };
    let rig = Rig::new();
    let first = lead(&rig).await;
    let rig = rig.crash();
    let second = lead(&rig).await;
    assert!(second.0 == first.0 && second.1 > first.1, "{first:?} {second:?}");
    let rig = rig.restart().await;
    let third = lead(&rig).await;
    assert!(third.0 == first.0 && third.1 > second.1, "{second:?} {third:?}");
}
