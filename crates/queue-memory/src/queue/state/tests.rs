//! What is counted and kept comes back to nothing, and old places and timers never outgrow the live ones.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, QueueProvider,
    job::{JobKind, JobRef, QueueName, Unique},
    provider::{Cancel, ConsumeOptions, Consumer, Disposition, OnFull, PublishOptions, Settlement},
    queue_spec::Retention,
};

use super::*;
use crate::{MemoryProvider, queue::Queue};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn name() -> QueueName {
    QueueName::from_static("q")
}

fn job(n: u64) -> Envelope {
    Envelope::builder(JobId::derive(b"job", n), JobKind::from_static("k"), &b""[..], START).seal()
}

async fn provider(change: impl FnOnce(&mut QueueSpec)) -> (MemoryProvider, Arc<Queue>) {
    let provider = MemoryProvider::with_env(Env::seeded(START, 1));
    let mut spec = QueueSpec::new(name());
    change(&mut spec);
    provider.declare(&spec).await.unwrap();
    let queue = provider.shared.queue(&name());
    (provider, queue)
}

async fn publish(provider: &MemoryProvider, jobs: Vec<Envelope>) {
    let outcomes = provider.publish(&name(), jobs, &PublishOptions::default()).await;
    assert!(outcomes.iter().all(queue_core::provider::PublishOutcome::is_accepted), "{outcomes:?}");
}

async fn consumer(provider: &MemoryProvider) -> Arc<dyn Consumer> {
    provider.consumer(&name(), ConsumeOptions::new("test", 1)).await.unwrap()
}

fn consumers(queue: &Queue) -> usize {
    queue.with(|state| state.consumers.iter_from(0).count())
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_is_forgotten_with_its_last_delivery() {
    let (provider, queue) = provider(|_| {}).await;
    drop(consumer(&provider).await);
    assert_eq!(consumers(&queue), 0);
    publish(&provider, vec![job(1)]).await;
    let holder = consumer(&provider).await;
    assert_eq!(holder.fetch(1, Duration::ZERO).await.unwrap().len(), 1);
    drop(holder);
    assert_eq!(consumers(&queue), 1, "it holds a lease");
    tokio::time::advance(Duration::from_secs(31)).await;
    queue.with(|state| state.advance(provider.shared.now()));
    assert_eq!(consumers(&queue), 0);
}

#[tokio::test(start_paused = true)]
async fn a_closed_consumer_that_lives_keeps_its_place() {
    let (provider, queue) = provider(|_| {}).await;
    publish(&provider, vec![job(1)]).await;
    let holder = consumer(&provider).await;
    let held = holder.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    holder.close(Duration::ZERO).await;
    holder.settle(&[Settlement::new(held.receipt, Disposition::Complete { result: None })]).await;
    assert_eq!(consumers(&queue), 1);
    drop(holder);
    assert_eq!(consumers(&queue), 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_stopped_waiting_is_not_counted() {
    let (provider, queue) = provider(|spec| spec.max_len = Some(1)).await;
    let waiting = || queue.with(|state| (state.sleepers, state.barred, state.queuers));
    let (one, second) = (Duration::from_secs(1), consumer(&provider).await);
    let sleeping = tokio::time::timeout(Duration::from_millis(500), second.fetch(1, one));
    let ((), dropped) = tokio::join!(async { assert_eq!(waiting(), (0, 0, 0)) }, sleeping);
    assert!(dropped.is_err());
    assert_eq!(waiting(), (0, 0, 0));

    publish(&provider, vec![job(1)]).await;
    assert_eq!(second.fetch(1, one).await.unwrap().len(), 1);
    publish(&provider, vec![job(2)]).await;
    let options = PublishOptions { on_full: OnFull::Wait, deadline: one, ..PublishOptions::default() };
    let name = name();
    let (barred, full) = tokio::join!(second.fetch(1, one), provider.publish(&name, vec![job(3)], &options));
    assert_eq!((barred.unwrap().len(), full[0].is_accepted()), (0, false));
    assert_eq!(waiting(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_unique_key_is_forgotten_with_its_window_and_not_before() {
    let (provider, queue) = provider(|_| {}).await;
    let key = |key: &str, seconds: u64| {
        let window = Some(Duration::from_secs(seconds));
        Some(Box::new(Unique { key: UniqueKey::new(key).unwrap(), window }))
    };
    publish(&provider, vec![job(1).edit(|parts| parts.unique = key("a", 5))]).await;
    publish(&provider, vec![job(2).edit(|parts| parts.unique = key("b", 50))]).await;
    let kept = async |after: u64| {
        tokio::time::advance(Duration::from_secs(after)).await;
        provider.maintain(true).await.unwrap();
        queue.with(|state| (state.keys.len(), state.windows.len()))
    };
    assert_eq!(kept(4).await, (2, 2));
    assert_eq!(kept(1).await, (1, 1));
    // Held anew meanwhile: the end of the old window is not the end of the new one.
    publish(&provider, vec![job(3).edit(|parts| parts.unique = key("a", 5))]).await;
    queue.with(|state| {
        let unique = Unique { key: UniqueKey::new("a").unwrap(), window: Some(Duration::from_secs(20)) };
        state.hold(&unique, JobId::derive(b"job", 3), provider.shared.now());
    });
    assert_eq!(kept(5).await, (2, 2));
    assert_eq!(kept(45).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn old_places_and_timers_give_way_once_they_outnumber_the_live_ones() {
    let (provider, queue) = provider(|spec| spec.retention = Retention { count: 0, ..Retention::default() }).await;
    let store = provider.job_store().unwrap();
    let come_and_go = async |jobs: std::ops::Range<u64>| {
        for n in jobs {
            // One place in line, and one timer.
            publish(&provider, vec![job(n).edit(|parts| parts.expires_at = Some(START + Duration::from_secs(9)))])
                .await;
            store.cancel(&[JobRef::new(name(), JobId::derive(b"job", n))], &Cancel::by("me")).await;
        }
    };
    let lens = || queue.with(|state| (state.line.len(), state.timers.len()));
    let limits = || queue.with(|state| (state.line_limit, state.timers_limit));
    let live = 10_000..10_010;
    let late = |n| job(n).edit(|parts| parts.expires_at = Some(START + Duration::from_secs(9)));
    publish(&provider, live.map(late).collect()).await;
    come_and_go(0..1_000).await;
    assert_eq!((lens(), limits()), ((1_010, 1_010), (SLACK, SLACK)), "not yet worth it");
    come_and_go(1_000..3_000).await;
    let bound = 2 * 10 + SLACK;
    assert_eq!(limits(), (bound, bound));
    assert!(lens().0 <= bound + 1 && lens().1 <= bound + 1, "{:?}", lens());
    let holder = provider.consumer(&name(), ConsumeOptions::new("test", 100)).await.unwrap();
    assert_eq!(holder.fetch(100, Duration::ZERO).await.unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn as_many_forgotten_ids_are_known_as_suit_the_retention() {
    for (count, most) in [(1, 1_000), (150, 1_500), (2_000, 10_000)] {
        let (provider, queue) = provider(|spec| spec.retention = Retention { count, ..spec.retention }).await;
        let ended = most + count + 5;
        publish(&provider, (0..ended).map(job).collect()).await;
        queue.with(|state| state.purge(provider.shared.now()));
        let known = |n| queue.with(|state| state.is_gone(job(n).id));
        assert_eq!([0, 4, 5, most + 4, most + 5].map(known), [false, false, true, true, false], "{count}");
        assert!(queue.with(|state| state.find(job(most + 5).id)).is_some(), "it is remembered itself");
    }
}
