//! What is remembered of jobs, how exactly, and for how long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod rig;

use std::time::Duration;

use queue_core::{
    Env, ErrorCode, JobId, QueueName, QueueProvider,
    job::{JobError, JobRef},
    lifecycle::JobState,
    provider::{Cancel, ConsumeOptions, Disposition, LeaseModel, PublishOptions, ReleaseReason, SettleOutcome},
    queue_spec::{Retention, Tracking},
    store::{CancelOutcome, JobQuery, JobRecord, Lookup},
};
use rig::{START, done, job, numbers, queue, reference, rig, seconds, settle};

fn keep(count: u64) -> Retention {
    Retention { count, ..Retention::default() }
}

fn failure() -> JobError {
    JobError::custom("E", "no")
}

#[tokio::test(start_paused = true)]
async fn bytes_of_payloads_and_results_bound_what_is_kept() {
    let each = job(0).encoded_len() as u64 + 100;
    for (bytes, kept) in [(3 * each, 3), (3 * each - 1, 2), (each, 1), (each - 1, 0)] {
        let rig = rig(|spec| spec.retention = Retention { bytes, ..Retention::default() }).await;
        let consumer = rig.consumer(1).await;
        for n in 0..10 {
            rig.publish([job(n)]).await;
            let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
            settle(&*consumer, &delivery, Disposition::Complete { result: Some(vec![0; 100].into()) }).await;
        }
        assert_eq!(rig.finished().await, kept, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_retention_took_is_gone_and_not_unknown() {
    let rig = rig(|spec| spec.retention = keep(0)).await;
    let consumer = rig.consumer(10).await;
    let env = Env::seeded(START, 3);
    let mut fresh = Vec::new();
    for _ in 0..3 {
        let id = JobId::fresh(&env);
        fresh.push(JobRef::new(queue(), id));
        rig.publish([job(0).edit(|parts| parts.id = id)]).await;
        tokio::time::advance(seconds(1)).await;
    }
    rig.publish([job(1), job(2)]).await;
    for delivery in consumer.fetch(10, Duration::ZERO).await.unwrap() {
        settle(&*consumer, &delivery, done()).await;
    }
    for job in fresh.iter().chain(&[reference(1), reference(2)]) {
        assert!(matches!(rig.look_up(job).await, Lookup::Gone), "{job:?}");
        let cancelled = rig.store.cancel(std::slice::from_ref(job), &Cancel::by("me")).await.remove(0).unwrap();
        assert_eq!(cancelled, CancelOutcome::AlreadyTerminal);
    }
    assert!(matches!(rig.look_up(&reference(9)).await, Lookup::NotFound));
}

#[tokio::test(start_paused = true)]
async fn an_eviction_keeps_to_its_limit_and_names_its_next_time() {
    let retention = Retention { age: seconds(10), dead: seconds(5), ..Retention::default() };
    let rig = rig(|spec| spec.retention = retention).await;
    let consumer = rig.consumer(10).await;
    rig.publish((0..4).map(job)).await;
    let deliveries = consumer.fetch(10, Duration::ZERO).await.unwrap();
    settle(&*consumer, &deliveries[0], done()).await;
    // The lease of nobody is left: what is next is the first retention to end.
    for delivery in &deliveries[1..] {
        settle(&*consumer, delivery, Disposition::DeadLetter { error: failure() }).await;
    }
    tokio::time::advance(seconds(5)).await;
    for evicted in [2, 1, 0] {
        assert_eq!(rig.store.evict(&queue(), &retention, 2).await.unwrap(), evicted);
    }
    // A lease that was settled leaves its timer behind.
    tokio::time::advance(seconds(1)).await;
    assert_eq!(rig.provider.maintain(true).await.unwrap(), seconds(4));
    tokio::time::advance(seconds(4)).await;
    assert_eq!(rig.store.evict(&queue(), &retention, 2).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_last_failures_are_kept() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(1).await;
    rig.publish([job(1)]).await;
    let failures = JobRecord::MAX_HISTORY as u32 + 3;
    for _ in 0..failures {
        let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
        settle(&*consumer, &delivery, Disposition::Retry { after: Duration::ZERO, error: failure() }).await;
    }
    let attempts: Vec<u32> = rig.record(1).await.history.iter().map(|past| past.attempt).collect();
    let first = failures - JobRecord::MAX_HISTORY as u32 + 1;
    assert_eq!(attempts, (first..failures).collect::<Vec<_>>(), "the last one is the record's error");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_settlement_is_told_from_one_with_another_result() {
    let rig = rig(|_| {}).await;
    let consumer = rig.consumer(1).await;
    rig.publish([job(1)]).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let with = |result: &'static [u8]| Disposition::Complete { result: Some(result.into()) };
    assert!(matches!(settle(&*consumer, &delivery, with(b"1")).await, SettleOutcome::Settled));
    assert!(matches!(settle(&*consumer, &delivery, with(b"1")).await, SettleOutcome::AlreadySettled));
    for other in [with(b"2"), done(), Disposition::Cancelled] {
        assert!(matches!(settle(&*consumer, &delivery, other.clone()).await, SettleOutcome::Conflict), "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_says_when_a_job_is_due() {
    let rig = rig(|_| {}).await;
    // Between two milliseconds, where counting back from the timer would be one off.
    tokio::time::advance(Duration::from_micros(500)).await;
    rig.publish([job(1).edit(|parts| parts.not_before = Some(START + seconds(60))), job(2)]).await;
    tokio::time::advance(Duration::from_micros(700)).await;
    assert_eq!(rig.record(1).await.due_at, Some(START + seconds(60)), "as it was submitted");
    let consumer = rig.consumer(1).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    assert_eq!(rig.record(2).await.due_at, None);
    tokio::time::advance(Duration::from_micros(800)).await;
    settle(&*consumer, &delivery, Disposition::Release { after: seconds(7), reason: ReleaseReason::Snooze }).await;
    let record = rig.record(2).await;
    assert_eq!((record.state, record.due_at), (JobState::Scheduled, Some(START + Duration::from_millis(7_002))));
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_in_the_queue_where_its_page_ended() {
    let rig = rig(|_| {}).await;
    let names: Vec<QueueName> = ["a", "b"].into_iter().map(QueueName::from_static).collect();
    for (n, name) in names.iter().enumerate() {
        let n = 10 * n as u64;
        rig.provider.publish(name, vec![job(n), job(n + 1)], &PublishOptions::default()).await;
    }
    let query = JobQuery::default();
    let first = rig.store.list(&query, None, 3).await.unwrap();
    assert_eq!(first.items.len(), 3);
    let rest = rig.store.list(&query, first.next.clone(), 3).await.unwrap();
    assert!(rest.next.is_none());
    let listed: Vec<JobId> = first.items.iter().chain(&rest.items).map(|record| record.envelope.id).collect();
    assert_eq!(listed, [0, 1, 10, 11].map(|n| JobId::derive(b"job", n)));
}

#[tokio::test(start_paused = true)]
async fn the_lead_is_free_the_moment_its_term_ends() {
    let rig = rig(|_| {}).await;
    let lead = async |candidate| rig.store.lead("r", candidate, seconds(10)).await.unwrap().map(|lead| lead.epoch);
    assert_eq!(lead("one").await, Some(1));
    tokio::time::advance(Duration::from_millis(9_999)).await;
    assert_eq!(lead("two").await, None);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(lead("two").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_pause_counts_as_a_change_of_the_switches() {
    let rig = rig(|_| {}).await;
    let before = rig.store.queue_control(&queue()).await.unwrap();
    rig.provider.admin().pause(&queue(), true).await.unwrap();
    let error = rig.store.set_queue_control(&queue(), &before).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_ends_a_job_that_nobody_asks_for() {
    let rig = rig(|_| {}).await;
    rig.publish([job(1).edit(|parts| parts.expires_at = Some(START + seconds(5)))]).await;
    tokio::time::advance(Duration::from_millis(4_999)).await;
    assert_eq!(rig.record(1).await.state, JobState::Pending);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(rig.record(1).await.state, JobState::Expired);
}

#[tokio::test(start_paused = true)]
async fn whatever_ended_counts_as_finished() {
    let rig = rig(|_| {}).await;
    rig.publish([job(1), job(2), job(3).edit(|parts| parts.expires_at = Some(START + seconds(5)))]).await;
    let consumer = rig.consumer(1).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    settle(&*consumer, &delivery, done()).await;
    rig.store.cancel(&[reference(2)], &Cancel::by("me")).await;
    tokio::time::advance(seconds(5)).await;
    assert_eq!(rig.finished().await, 3);
}

#[tokio::test(start_paused = true)]
async fn the_place_of_a_forgotten_job_does_not_pass_to_its_successor() {
    let rig = rig(|spec| spec.retention = keep(0)).await;
    let prioritised = |n, level| {
        job(n).edit(|parts| {
            parts.priority = queue_core::Priority::new(level).unwrap();
        })
    };
    // The first takes a high place and a timer with it; the third comes to lie where it lay.
    let doomed = prioritised(1, 15).edit(|parts| parts.expires_at = Some(START + seconds(5)));
    rig.publish([doomed, prioritised(2, 8)]).await;
    rig.store.cancel(&[reference(1)], &Cancel::by("me")).await;
    rig.publish([prioritised(3, 1)]).await;
    tokio::time::advance(seconds(6)).await;
    let consumer = rig.consumer(10).await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.extend(numbers(&consumer.fetch(1, Duration::ZERO).await.unwrap()));
    }
    assert_eq!(order, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn without_tracking_the_same_id_is_two_jobs() {
    let rig = rig(|spec| spec.tracking = Tracking::Off).await;
    rig.publish([job(1), job(1)]).await;
    let consumer = rig.consumer(10).await;
    assert_eq!(consumer.fetch(10, Duration::ZERO).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn limits_include_what_they_name() {
    let size = job(1).encoded_len();
    for (limit, accepted) in [(size, true), (size - 1, false)] {
        let rig = rig(|spec| spec.max_encoded_len = limit).await;
        assert_eq!(rig.publish([job(1)]).await[0].is_accepted(), accepted, "{limit}");
    }
    let rig = rig(|_| {}).await;
    let week = seconds(604_800);
    let LeaseModel::PerMessage { min, max } = rig.provider.capabilities(None).lease else { panic!() };
    assert_eq!((min, max), (Duration::from_millis(1), week));
    for (lease, accepted) in [(week, true), (week + min, false), (min, true), (Duration::ZERO, false)] {
        let options = ConsumeOptions { lease, ..ConsumeOptions::new("test", 1) };
        assert_eq!(rig.provider.consumer(&queue(), options).await.is_ok(), accepted, "{lease:?}");
    }
}
