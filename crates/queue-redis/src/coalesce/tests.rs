#![allow(clippy::unwrap_used, reason = "a test")]
use std::time::Duration;

use super::*;

type Calls = Arc<Mutex<Vec<Vec<u32>>>>;

/// Calls that take ten milliseconds and double each number.
fn coalescer(seats: usize) -> (Arc<Coalescer<u8, u32, u32>>, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let carry = move |_, jobs: Vec<u32>| -> BoxFuture<'static, Vec<u32>> {
        noted.lock().unwrap().push(jobs.clone());
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            jobs.into_iter().map(|job| job * 2).collect()
        })
    };
    (Arc::new(Coalescer::new(seats, carry)), calls)
}

fn send(coalescer: &Arc<Coalescer<u8, u32, u32>>, job: u32) -> tokio::task::JoinHandle<Vec<u32>> {
    let coalescer = Arc::clone(coalescer);
    tokio::spawn(async move { coalescer.send(&0, vec![job]).await })
}

#[tokio::test(start_paused = true)]
async fn the_first_go_at_once_and_who_comes_then_rides_together() {
    let (coalescer, calls) = coalescer(4);
    let begun = tokio::time::Instant::now();
    let sent: Vec<_> = (1..=8).map(|job| send(&coalescer, job)).collect();
    for (job, answer) in (1..=8).zip(sent) {
        assert_eq!(answer.await.unwrap(), [job * 2]);
    }
    assert_eq!(*calls.lock().unwrap(), [vec![1], vec![2], vec![3, 4, 5, 6], vec![7, 8]]);
    assert_eq!(begun.elapsed(), Duration::from_millis(20));
    assert!(coalescer.lines.lock().is_empty(), "nothing is left of a line that nobody uses");
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_holds_nobody_up() {
    let (coalescer, calls) = coalescer(4);
    let mut sent: VecDeque<_> = (1..=5).map(|job| send(&coalescer, job)).collect();
    while coalescer.lines.lock().get(&0).is_none_or(|line| line.waiting.len() < 3) {
        tokio::task::yield_now().await;
    }
    // One that waits, and two under way: none may take the others with it. Each is seen to be gone before the next goes, or the one that
    // waits might ride on what the end of another lets go.
    for gone in [2, 0, 0] {
        let gone = sent.remove(gone).unwrap();
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
    }
    let mut sent = sent.into_iter();
    assert_eq!(sent.next().unwrap().await.unwrap(), [8]);
    assert_eq!(sent.next().unwrap().await.unwrap(), [10]);
    assert_eq!(calls.lock().unwrap().concat(), [1, 2, 4, 5]);
    assert!(coalescer.lines.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_line_does_not_wait_for_another() {
    let (coalescer, _) = coalescer(4);
    let busy: Vec<_> = (1..=3).map(|job| send(&coalescer, job)).collect();
    let begun = tokio::time::Instant::now();
    assert_eq!(coalescer.send(&1, vec![9, 10]).await, [18, 20]);
    assert_eq!(begun.elapsed(), Duration::from_millis(10));
    for busy in busy {
        busy.await.unwrap();
    }
}
