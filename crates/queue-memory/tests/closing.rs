//! What consumers and publishers hear when their queue is dropped or their provider closed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use std::{sync::Arc, time::Duration};

use bench::{consumer, provider, publish, queue};
use queue_core::{ErrorCode, QueueProvider, QueueSpec};

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
        publish(&provider, [bench::job(1)]).await;
        let taker = consumer(&provider, 1).await;
        taker.close(Duration::ZERO).await;
        if dropped {
            provider.drop_queue(&queue(), false).await.unwrap();
        }
        provider.close().await.unwrap();
        assert!(taker.fetch(1, Duration::from_secs(60)).await.unwrap().is_empty());
    }
}
