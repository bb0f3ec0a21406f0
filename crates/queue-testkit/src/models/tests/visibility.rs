//! Timeouts, receipt handles and duplicates.

use std::collections::BTreeMap;

use queue_core::provider::{Beat, BeatOutcome, Rejection};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_message_comes_back_when_its_timeout_ends_and_the_old_handle_is_stale() {
    let bench = Bench::new(VisibilityModel::default());
    bench.put_all(0..1).await;
    let (first, second) = (bench.consumer(10).await, bench.consumer(10).await);
    let stale = take_one(&first).await;
    assert_eq!(stale.lease.remaining, Some(LEASE));
    assert!(second.fetch(1, LEASE - Duration::from_millis(1)).await.unwrap().is_empty());
    let fresh = second.fetch(1, secs(1)).await.unwrap().remove(0);
    assert_eq!(fresh.receipt.slot, stale.receipt.slot, "the same message");
    assert_ne!(fresh.receipt.epoch, stale.receipt.epoch, "another handle");
    assert_eq!((fresh.redelivered, fresh.started_before, fresh.attempt), (true, 1, 1));
    assert!(matches!(settle(&first, &stale, complete()).await, SettleOutcome::LeaseLost));
    let beat = first.heartbeat(&[Beat::extend(stale.receipt, LEASE)]).await.remove(0);
    assert!(matches!(beat, BeatOutcome::Lost));
    assert!(settle(&second, &fresh, complete()).await.is_settled());
    assert!(take(&second, 1).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_changes_the_timeout_up_to_twelve_hours() {
    let bench = Bench::new(VisibilityModel::default());
    bench.put_all(0..1).await;
    let consumer = bench.consumer(10).await;
    let delivery = take_one(&consumer).await;
    let held = async |beat: Beat| match consumer.heartbeat(&[beat]).await.remove(0) {
        BeatOutcome::Held(lease) => lease.remaining,
        _ => None,
    };
    tokio::time::advance(secs(20)).await;
    let silent = Beat { extend: None, ..Beat::extend(delivery.receipt, LEASE) };
    assert_eq!(held(silent).await, Some(secs(10)));
    assert_eq!(held(Beat::extend(delivery.receipt, secs(3_600))).await, Some(secs(3_600)));
    tokio::time::advance(secs(3_599)).await;
    assert_eq!(held(Beat::extend(delivery.receipt, secs(100 * 3_600))).await, Some(secs(12 * 3_600 - 3_619)));
    tokio::time::advance(secs(12 * 3_600)).await;
    assert_eq!(held(Beat::extend(delivery.receipt, LEASE)).await, None);
    assert_eq!(take(&consumer, 1).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_long_delay_is_refused_for_a_publish_and_kept_for_a_retry() {
    let bench = Bench::new(VisibilityModel::default());
    let outcomes = bench.put([delayed(&bench.job(0), secs(901)), delayed(&bench.job(1), secs(900))]).await;
    assert!(matches!(outcomes[0], PublishOutcome::Rejected(Rejection::DelayTooLong { .. })), "{outcomes:?}");
    assert!(outcomes[1].is_accepted());
    let consumer = bench.consumer(10).await;
    let delivery = consumer.fetch(1, secs(1_000)).await.unwrap().remove(0);
    settle(&consumer, &delivery, retry(secs(3_600))).await;
    assert!(consumer.fetch(1, secs(3_599)).await.unwrap().is_empty());
    assert_eq!(consumer.fetch(1, secs(2)).await.unwrap()[0].attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn receives_are_counted_but_a_snooze_is_no_crash() {
    let bench = Bench::new(VisibilityModel::default());
    bench.put_all(0..1).await;
    let consumer = bench.consumer(10).await;
    for _ in 0..20 {
        let delivery = consumer.fetch(1, secs(2)).await.unwrap().remove(0);
        assert_eq!(delivery.started_before, 0);
        settle(&consumer, &delivery, release(secs(1))).await;
    }
    let delivery = consumer.fetch(1, secs(2)).await.unwrap().remove(0);
    settle(&consumer, &delivery, release(Duration::ZERO)).await;
    assert_eq!(take_one(&consumer).await.started_before, 1, "given back by its visibility: a receive more");
}

#[tokio::test(start_paused = true)]
async fn duplicates_come_as_the_seed_says_and_each_is_settled_by_itself() {
    let run = async || {
        let bench = Bench::new(VisibilityModel { duplicates: 0.3, ..VisibilityModel::default() });
        bench.put_all(0..180).await;
        // A plain message keeps its name in its duplicates, and so its job's id.
        for _ in 180..200 {
            bench.broker.publish_raw(&bench.queue, "plain").unwrap();
        }
        let consumer = bench.consumer(1_000).await;
        let mut seen = BTreeMap::new();
        loop {
            let taken = take(&consumer, 1_000).await;
            if taken.is_empty() {
                break;
            }
            for delivery in taken {
                *seen.entry(delivery.envelope.id).or_insert(0) += 1;
                assert!(settle(&consumer, &delivery, complete()).await.is_settled());
            }
        }
        assert_eq!((bench.stats().await.pending, bench.stats().await.running), (0, 0));
        seen
    };
    let (first, second) = (run().await, run().await);
    assert_eq!(first, second, "the same seed, the same duplicates");
    assert_eq!(first.len(), 200);
    let doubled = first.values().filter(|times| **times > 1).count();
    assert!((30..90).contains(&doubled), "{doubled}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_outside_the_range_is_refused() {
    let bench = Bench::new(VisibilityModel::default());
    for lease in [Duration::from_millis(9), secs(12 * 3_600 + 1)] {
        let options = ConsumeOptions { lease, ..ConsumeOptions::new("worker", 1) };
        let error = bench.provider.consumer(&bench.queue, options).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::Validation);
    }
}
