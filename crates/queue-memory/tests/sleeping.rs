//! Several consumers sleep, and none of them misses what comes due.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use std::{sync::Arc, time::Duration};

use bench::{START, consumer, job, provider, publish};
use queue_core::{Consumer, job::Envelope};
use tokio::{task::JoinHandle, time::Instant};

fn due_in(n: u64, seconds: u64) -> Envelope {
    job(n).edit(|parts| parts.not_before = Some(START + Duration::from_secs(seconds)))
}

/// How many come, and when.
async fn sleeps(consumer: Arc<dyn Consumer>, seconds: u64) -> JoinHandle<(usize, Duration)> {
    let began = Instant::now();
    let fetch = async move {
        let got = consumer.fetch(1, Duration::from_secs(seconds)).await.unwrap().len();
        (got, began.elapsed())
    };
    let sleeper = tokio::spawn(fetch);
    tokio::task::yield_now().await;
    sleeper
}

fn at(seconds: u64) -> std::ops::Range<Duration> {
    Duration::from_secs(seconds)..Duration::from_secs(seconds) + Duration::from_millis(5)
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_or_is_dropped_passes_the_timer_on() {
    for dropped in [false, true] {
        let provider = provider();
        let (short, long) = (consumer(&provider, 1).await, consumer(&provider, 1).await);
        let short = sleeps(short, 5).await;
        let long = sleeps(long, 300).await;
        publish(&provider, [due_in(1, 10)]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if dropped {
            short.abort();
            assert!(short.await.unwrap_err().is_cancelled());
        } else {
            assert_eq!(short.await.unwrap().0, 0);
        }
        let (got, took) = long.await.unwrap();
        assert_eq!(got, 1);
        assert!(at(10).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_served_passes_the_next_timer_on() {
    let provider = provider();
    let first = sleeps(consumer(&provider, 1).await, 300).await;
    let second = sleeps(consumer(&provider, 1).await, 300).await;
    publish(&provider, [due_in(1, 10), due_in(2, 20)]).await;
    let mut took = [first.await.unwrap().1, second.await.unwrap().1];
    took.sort_unstable();
    assert!(at(10).contains(&took[0]) && at(20).contains(&took[1]), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_due_as_the_wait_ends_is_taken() {
    let provider = provider();
    let sleeper = sleeps(consumer(&provider, 1).await, 10).await;
    publish(&provider, [due_in(1, 10)]).await;
    assert_eq!(sleeper.await.unwrap().0, 1);
}
