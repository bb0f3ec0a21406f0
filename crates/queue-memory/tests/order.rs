//! What returns to the head stands where it stood.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use std::time::Duration;

use bench::{consumer, fetched, ids, job, provider, publish};
use queue_core::provider::{Disposition, ReleaseReason, Settlement};

fn released() -> Disposition {
    Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown }
}

#[tokio::test(start_paused = true)]
async fn jobs_released_together_or_in_any_order_keep_theirs() {
    for backwards in [false, true] {
        let provider = provider();
        publish(&provider, (1..=4).map(job)).await;
        let consumer = consumer(&provider, 10).await;
        let taken = consumer.fetch(3, Duration::ZERO).await.unwrap();
        let mut batch: Vec<_> = taken.iter().map(|taken| Settlement::new(taken.receipt, released())).collect();
        if backwards {
            batch.reverse();
        }
        consumer.settle(&batch).await;
        assert_eq!(fetched(&*consumer, 10).await, ids(1..=4));
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_whose_leases_end_together_keep_their_order() {
    let provider = provider();
    publish(&provider, (1..=4).map(job)).await;
    let consumer = consumer(&provider, 10).await;
    consumer.fetch(3, Duration::ZERO).await.unwrap();
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(fetched(&*consumer, 10).await, ids(1..=4));
}

#[tokio::test(start_paused = true)]
async fn a_retried_job_gets_a_new_place_and_keeps_that() {
    let provider = provider();
    publish(&provider, (1..=3).map(job)).await;
    let consumer = consumer(&provider, 10).await;
    let error = queue_core::JobError::custom("TEMP", "again");
    bench::run_one(&*consumer, Disposition::Retry { after: Duration::ZERO, error }).await;
    let taken = consumer.fetch(3, Duration::ZERO).await.unwrap();
    for taken in taken.iter().rev() {
        consumer.settle(&[Settlement::new(taken.receipt, released())]).await;
    }
    assert_eq!(fetched(&*consumer, 10).await, ids([2, 3, 1]));
}
