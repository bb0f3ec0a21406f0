//! Sessions, prefetching, and what an acknowledgement is worth.

use queue_core::{
    QueueSpec,
    provider::{Beat, BeatOutcome, LeaseModel, Rejection},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_job_that_may_outlast_the_session_is_refused() {
    let bench = Bench::new(PushModel::default());
    let LeaseModel::Session { max_hold } = bench.provider.capabilities(None).lease else { unreachable!() };
    let jobs = [bench.job(0).edit(|parts| parts.timeout = max_hold + secs(1)), bench.job(1)];
    let outcomes = bench.put(jobs).await;
    assert!(matches!(outcomes[0], PublishOutcome::Rejected(Rejection::ExceedsMaxHold { .. })), "{outcomes:?}");
    assert!(outcomes[1].is_accepted());
    let mut spec = QueueSpec::new(QueueName::from_static("slow"));
    spec.timeout = max_hold + secs(1);
    assert_eq!(bench.provider.declare(&spec).await.unwrap_err().code(), ErrorCode::ExceedsMaxHold);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_held_too_long_ends_the_whole_session() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..2).await;
    let consumer = bench.consumer(10).await;
    let first = take_one(&consumer).await;
    tokio::time::advance(secs(20 * 60)).await;
    let second = take_one(&consumer).await;
    tokio::time::advance(secs(11 * 60)).await;
    let beats = consumer.heartbeat(&[first.receipt, second.receipt].map(|receipt| Beat::extend(receipt, LEASE))).await;
    assert!(beats.iter().all(|beat| matches!(beat, BeatOutcome::Lost)), "no heartbeat extends a session");
    let again = take(&consumer, 10).await;
    assert_eq!(ids(&again), [id(0), id(1)]);
    assert!(again.iter().all(|delivery| delivery.redelivered && delivery.started_before == 1));
    assert!(matches!(settle(&consumer, &first, complete()).await, SettleOutcome::LeaseLost));
    assert!(settle(&consumer, &again[0], complete()).await.is_settled());
}

#[tokio::test(start_paused = true)]
async fn another_session_cannot_use_a_receipt_and_the_memory_dies_with_its_own() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..2).await;
    let (first, second) = (bench.consumer(1).await, bench.consumer(1).await);
    let delivery = take_one(&first).await;
    assert!(matches!(settle(&second, &delivery, complete()).await, SettleOutcome::LeaseLost));
    assert!(settle(&first, &delivery, complete()).await.is_settled());
    assert!(matches!(settle(&first, &delivery, complete()).await, SettleOutcome::AlreadySettled));
    bench.broker.restart();
    assert!(matches!(settle(&first, &delivery, complete()).await, SettleOutcome::LeaseLost));
    take_one(&first).await;
    assert!(matches!(settle(&first, &delivery, complete()).await, SettleOutcome::LeaseLost));
}

#[tokio::test(start_paused = true)]
async fn what_is_buffered_is_not_lost_to_others() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..5).await;
    let hoarder = bench.consumer(5).await;
    assert_eq!(ids(&take(&hoarder, 1).await), [id(0)]);
    let other = bench.consumer(5).await;
    assert!(take(&other, 5).await.is_empty(), "the rest was pushed to the first consumer");
    assert_eq!(bench.stats().await.pending, 4, "buffered is not running");

    // Nobody fetches it there: it goes back, and wakes the one who waits.
    let taken = other.fetch(1, secs(60)).await.unwrap();
    assert_eq!((ids(&taken), taken[0].started_before), (vec![id(1)], 0));
    assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(5));
    other.demand(1).await.unwrap();
    assert_eq!(other.close(Duration::ZERO).await.returned, 3);
    assert_eq!(ids(&take(&hoarder, 5).await), [id(1), id(2), id(3), id(4)]);
}

#[tokio::test(start_paused = true)]
async fn a_demand_of_zero_gives_the_buffer_back_at_once() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..3).await;
    let (hoarder, other) = (bench.consumer(5).await, bench.consumer(5).await);
    take_one(&hoarder).await;
    let (fetched, demanded) = tokio::join!(other.fetch(5, secs(1)), hoarder.demand(0));
    demanded.unwrap();
    assert_eq!(ids(&fetched.unwrap()), [id(1), id(2)]);
    assert_eq!(bench.now(), Timestamp::from_millis(START));
}

#[tokio::test(start_paused = true)]
async fn time_in_the_buffer_is_no_time_held() {
    let model = PushModel { max_hold: secs(6), buffer_age: secs(5) };
    let bench = Bench::new(model);
    bench.put([0, 1].map(|n| bench.job(n).edit(|parts| parts.timeout = secs(5)))).await;
    let consumer = bench.consumer(5).await;
    let first = take_one(&consumer).await;
    tokio::time::advance(secs(4)).await;
    let second = take_one(&consumer).await;
    assert!(settle(&consumer, &first, complete()).await.is_settled());
    tokio::time::advance(secs(5)).await;
    assert!(settle(&consumer, &second, complete()).await.is_settled());
}

#[tokio::test(start_paused = true)]
async fn an_urgent_job_passes_a_full_buffer() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..4).await;
    let consumer = bench.consumer(4).await;
    take_one(&consumer).await;
    bench.put([with_priority(&bench.job(9), 15)]).await;
    assert_eq!(ids(&take(&consumer, 1).await), [id(9)]);
    assert!(take(&consumer, 9).await.len() <= 2, "never more than the demand");
}

#[tokio::test(start_paused = true)]
async fn purge_takes_the_buffer_too_and_close_reports_it() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..5).await;
    let consumer = bench.consumer(5).await;
    let running = take_one(&consumer).await;
    assert_eq!(bench.provider.admin().purge(&bench.queue).await.unwrap(), 4);
    assert!(settle(&consumer, &running, complete()).await.is_settled());

    bench.put_all(5..8).await;
    let running = take_one(&consumer).await;
    let (report, settled) = tokio::join!(consumer.close(secs(5)), settle(&consumer, &running, complete()));
    assert!(settled.is_settled());
    assert_eq!((report.returned, report.still_open), (2, 0));
    assert_eq!(bench.now(), Timestamp::from_millis(START), "nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn a_job_released_at_shutdown_stands_at_the_head() {
    let bench = Bench::new(PushModel::default());
    bench.put_all(0..3).await;
    let consumer = bench.consumer(1).await;
    let first = take_one(&consumer).await;
    settle(&consumer, &first, release(Duration::ZERO)).await;
    let again = take_one(&consumer).await;
    assert_eq!((again.envelope.id, again.redelivered, again.started_before), (id(0), true, 0));
}
