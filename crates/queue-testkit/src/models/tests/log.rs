//! Assignments, offsets and commits.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_not_committed_is_delivered_again_after_a_crash() {
    for (commit_every, expected) in [(Duration::ZERO, vec![1, 3]), (secs(1), vec![0, 1, 2, 3])] {
        let bench = Bench::new(LogModel { partitions: 1, commit_every, ..LogModel::default() });
        assert_eq!(bench.provider.capabilities(None).settle_confirmed, commit_every.is_zero());
        bench.put_all(0..4).await;
        let consumer = bench.consumer(10).await;
        let taken = take(&consumer, 10).await;
        for index in [2, 0] {
            assert!(settle(&consumer, &taken[index], complete()).await.is_settled());
        }
        bench.provider.crash();
        let survivor = consumer_of(&bench.broker.connect(), &bench.queue, 10).await;
        let expected: Vec<JobId> = expected.into_iter().map(id).collect();
        assert_eq!(ids(&take(&survivor, 10).await), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_commit_happens_by_itself_and_at_a_clean_close() {
    let model = LogModel { partitions: 1, commit_every: secs(1), ..LogModel::default() };
    for clean in [false, true] {
        let bench = Bench::new(model.clone());
        bench.put_all(0..2).await;
        let consumer = bench.consumer(10).await;
        let taken = take(&consumer, 10).await;
        settle(&consumer, &taken[0], complete()).await;
        if clean {
            consumer.close(Duration::ZERO).await;
        } else {
            assert!(consumer.fetch(1, secs(2)).await.unwrap().is_empty());
            bench.provider.crash();
        }
        let survivor = consumer_of(&bench.broker.connect(), &bench.queue, 10).await;
        assert_eq!(ids(&take(&survivor, 10).await), [id(1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_moves_is_drained_first() {
    let bench = Bench::new(LogModel { partitions: 2, ..LogModel::default() });
    bench.put_all(0..4).await;
    let first = bench.consumer(2).await;
    let held = take(&first, 2).await;
    let second = bench.consumer(10).await;
    assert!(take(&second, 10).await.is_empty(), "what is out holds its partition");
    first.demand(4).await.unwrap();
    let more = take(&first, 1).await;
    assert_eq!(take(&first, 4).await.len(), 0, "nothing more comes from the partition that moves");
    for delivery in held.iter().chain(&more) {
        assert!(settle(&first, delivery, complete()).await.is_settled(), "a receipt stands while it drains");
    }
    bench.put_all(4..6).await;
    let (left, right) = (ids(&take(&first, 10).await), ids(&take(&second, 10).await));
    assert_eq!((left.len(), right.len()), (1, 2));
    assert!(!right.contains(&left[0]));
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_bounded_and_then_the_receipt_is_stale() {
    let bench = Bench::new(LogModel { partitions: 2, ..LogModel::default() });
    bench.put_all(0..2).await;
    let first = bench.consumer(10).await;
    let held = take(&first, 10).await;
    let second = bench.consumer(10).await;
    let moved = second.fetch(10, secs(60)).await.unwrap();
    assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(5));
    assert_eq!((moved.len(), moved[0].redelivered), (1, true));
    for delivery in &held {
        let stale = delivery.envelope.id == moved[0].envelope.id;
        let outcome = settle(&first, delivery, complete()).await;
        assert_eq!(matches!(outcome, SettleOutcome::LeaseLost), stale, "{outcome:?}");
    }
    assert!(settle(&second, &moved[0], complete()).await.is_settled());
}

#[tokio::test(start_paused = true)]
async fn consumers_beyond_the_partitions_stand_by() {
    let bench = Bench::new(LogModel { partitions: 1, ..LogModel::default() });
    let first = bench.consumer(10).await;
    let second = bench.consumer(10).await;
    bench.put_all(0..3).await;
    assert!(take(&second, 10).await.is_empty());
    assert_eq!(take(&first, 10).await.len(), 3);
    first.close(Duration::ZERO).await;
    assert_eq!(take(&second, 10).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_never_holds_an_offset() {
    let bench = Bench::new(LogModel { partitions: 1, ..LogModel::default() });
    bench.put_all(0..3).await;
    let consumer = bench.consumer(1).await;
    settle(&consumer, &take_one(&consumer).await, retry(secs(3_600))).await;
    settle(&consumer, &take_one(&consumer).await, release(Duration::ZERO)).await;
    let order = [take_one(&consumer).await.envelope.id];
    assert_eq!(order, [id(2)], "a released job goes to the tail: an offset cannot be given back");
    bench.provider.crash();
    let survivor = consumer_of(&bench.broker.connect(), &bench.queue, 10).await;
    assert_eq!(ids(&take(&survivor, 10).await), [id(2), id(1)]);
    assert_eq!(bench.stats().await.retrying, 1);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_held_too_long_is_taken_away() {
    let bench = Bench::new(LogModel::default());
    bench.put_all(0..1).await;
    let consumer = bench.consumer(10).await;
    let first = take_one(&consumer).await;
    let again = consumer.fetch(1, secs(31 * 60)).await.unwrap();
    assert_eq!((ids(&again), again[0].redelivered), (vec![id(0)], true));
    assert!(matches!(settle(&consumer, &first, complete()).await, SettleOutcome::LeaseLost));
    assert!(settle(&consumer, &again[0], complete()).await.is_settled());
}
