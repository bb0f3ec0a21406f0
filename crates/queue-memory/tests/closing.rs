//! What consumers and publishers hear when their queue is dropped or their provider closed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use std::{sync::Arc, time::Duration};

use bench::{consumer, fetched, ids, job, provider, publish, queue, run_one};
use queue_core::{
    ErrorCode, QueueProvider, QueueSpec,
    provider::{Delivery, Disposition, OnFull, PublishOptions, PublishOutcome, Rejection, Settlement},
};
use queue_memory::MemoryProvider;
use tokio::task::JoinHandle;

/// A worker fetches in a loop: an empty answer at once would make it spin.
#[tokio::test(start_paused = true)]
async fn fetching_from_a_dropped_queue_is_an_error_also_while_it_waits() {
    let provider = provider();
    let taker = consumer(&provider, 1).await;
    let waiting = tokio::spawn({
        let taker = Arc::clone(&taker);
        async move { taker.fetch(1, Duration::from_secs(60)).await }
    });
    tokio::task::yield_now().await;
    provider.drop_queue(&queue(), false).await.unwrap();
    let started = tokio::time::Instant::now();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), ErrorCode::NotFound);
    for wait in [Duration::ZERO, Duration::from_secs(60)] {
        assert_eq!(taker.fetch(1, wait).await.unwrap_err().code(), ErrorCode::NotFound);
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    // A new queue of that name is another one.
    provider.declare(&QueueSpec::new(queue())).await.unwrap();
    assert_eq!(taker.fetch(1, Duration::ZERO).await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn fetching_on_a_closed_provider_is_an_error_also_while_it_waits() {
    let provider = provider();
    let taker = consumer(&provider, 1).await;
    let waiting = tokio::spawn({
        let taker = Arc::clone(&taker);
        async move { taker.fetch(1, Duration::from_secs(60)).await }
    });
    tokio::task::yield_now().await;
    provider.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), ErrorCode::Closed);
    assert_eq!(taker.fetch(1, Duration::ZERO).await.unwrap_err().code(), ErrorCode::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_consumers_own_close_is_answered_empty_whatever_else_is_gone() {
    for dropped in [false, true] {
        let provider = provider();
        publish(&provider, [job(1)]).await;
        let taker = consumer(&provider, 1).await;
        taker.close(Duration::ZERO).await;
        if dropped {
            provider.drop_queue(&queue(), false).await.unwrap();
        }
        provider.close().await.unwrap();
        assert!(taker.fetch(1, Duration::from_secs(60)).await.unwrap().is_empty());
    }
}

async fn full_queue(provider: &MemoryProvider) {
    let mut spec = QueueSpec::new(queue());
    spec.max_len = Some(1);
    provider.declare(&spec).await.unwrap();
    publish(provider, [job(1)]).await;
}

fn publish_when_there_is_room(provider: &MemoryProvider) -> JoinHandle<PublishOutcome> {
    let provider = provider.clone();
    let options = PublishOptions { on_full: OnFull::Wait, ..PublishOptions::default() };
    tokio::spawn(async move { provider.publish(&queue(), vec![job(2)], &options).await.remove(0) })
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_waits_on_a_dropped_queue_publishes_to_the_next_at_once() {
    let provider = provider();
    full_queue(&provider).await;
    let waiting = publish_when_there_is_room(&provider);
    tokio::task::yield_now().await;
    provider.drop_queue(&queue(), false).await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(waiting.await.unwrap().is_accepted());
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(fetched(&*consumer(&provider, 1).await, 1).await, ids([2]));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_dropped_when_empty_loses_nothing_that_was_accepted() {
    let provider = provider();
    full_queue(&provider).await;
    let waiting = publish_when_there_is_room(&provider);
    tokio::task::yield_now().await;
    // The publisher is told of the room, and the queue is dropped before it runs.
    run_one(&*consumer(&provider, 1).await, Disposition::Complete { result: None }).await;
    provider.drop_queue(&queue(), true).await.unwrap();
    assert!(waiting.await.unwrap().is_accepted());
    assert_eq!(fetched(&*consumer(&provider, 1).await, 1).await, ids([2]));
}

#[test]
fn publishing_while_queues_are_dropped_loses_nothing_that_was_accepted() {
    let provider = provider();
    let publisher = provider.clone();
    let accepted = std::thread::spawn(move || {
        let publish = async |n| usize::from(publish(&publisher, [job(n)]).await[0].is_accepted());
        (0..20_000).map(|n| block_on(publish(n))).sum::<usize>()
    });
    let mut taken = 0;
    loop {
        let done = accepted.is_finished();
        let jobs = block_on(async {
            let taker = consumer(&provider, 100).await;
            let Ok(jobs) = taker.fetch(100, Duration::ZERO).await else { return 0 };
            let settle = |job: &Delivery| Settlement::new(job.receipt, Disposition::Complete { result: None });
            taker.settle(&jobs.iter().map(settle).collect::<Vec<_>>()).await;
            let _ = provider.drop_queue(&queue(), true).await;
            jobs.len()
        });
        taken += jobs;
        if done && jobs == 0 {
            break;
        }
    }
    assert_eq!(taken, accepted.join().unwrap());
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_waits_on_a_provider_which_closes_is_told_so() {
    let provider = provider();
    full_queue(&provider).await;
    let waiting = publish_when_there_is_room(&provider);
    tokio::task::yield_now().await;
    provider.close().await.unwrap();
    match waiting.await.unwrap() {
        PublishOutcome::Rejected(Rejection::Unavailable(error)) => assert_eq!(error.code(), ErrorCode::Closed),
        other => panic!("{other:?}"),
    }
}
