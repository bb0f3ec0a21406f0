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
    (Arc::new(Coalescer::new(seats, |job| *job as usize, carry)), calls)
}

fn send(coalescer: &Arc<Coalescer<u8, u32, u32>>, job: u32) -> tokio::task::JoinHandle<Option<Vec<u32>>> {
    let coalescer = Arc::clone(coalescer);
    tokio::spawn(async move { coalescer.send(&0, vec![job]).await })
}

#[tokio::test(start_paused = true)]
async fn the_first_go_at_once_and_who_comes_then_rides_together() {
    let (coalescer, calls) = coalescer(4);
    let begun = tokio::time::Instant::now();
    let sent: Vec<_> = (1..=8).map(|job| send(&coalescer, job)).collect();
    for (job, answer) in (1..=8).zip(sent) {
        assert_eq!(answer.await.unwrap().unwrap(), [job * 2]);
    }
    assert_eq!(*calls.lock().unwrap(), [vec![1], vec![2], vec![3, 4, 5, 6], vec![7, 8]]);
    assert_eq!(begun.elapsed(), Duration::from_millis(20));
    assert!(coalescer.lines.lock().lines.is_empty(), "nothing is left of a line that nobody uses");
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_holds_nobody_up() {
    let (coalescer, calls) = coalescer(4);
    let mut sent: VecDeque<_> = (1..=5).map(|job| send(&coalescer, job)).collect();
    while coalescer.lines.lock().lines.get(&0).is_none_or(|line| line.waiting.len() < 3) {
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
    assert_eq!(sent.next().unwrap().await.unwrap().unwrap(), [8]);
    assert_eq!(sent.next().unwrap().await.unwrap().unwrap(), [10]);
    assert_eq!(calls.lock().unwrap().concat(), [1, 2, 4, 5]);
    assert!(coalescer.lines.lock().lines.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_line_does_not_wait_for_another() {
    let (coalescer, _) = coalescer(4);
    let busy: Vec<_> = (1..=3).map(|job| send(&coalescer, job)).collect();
    let begun = tokio::time::Instant::now();
    assert_eq!(coalescer.send(&1, vec![9, 10]).await.unwrap(), [18, 20]);
    assert_eq!(begun.elapsed(), Duration::from_millis(10));
    for busy in busy {
        busy.await.unwrap();
    }
}

/// Calls of which those with the job 0 never end, and those with the job 13 panic.
fn fragile() -> Arc<Coalescer<u8, u32, u32>> {
    let carry = |_, jobs: Vec<u32>| -> BoxFuture<'static, Vec<u32>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(!jobs.contains(&13), "it breaks");
            if jobs.contains(&0) {
                std::future::pending::<()>().await;
            }
            jobs
        })
    };
    Arc::new(Coalescer::new(1, |_| 1, carry))
}

#[tokio::test(start_paused = true)]
async fn calls_that_panic_hold_nobody_up() {
    let coalescer = fragile();
    // Two that go first, two flights that break, and who waits behind them.
    let sent: Vec<_> = [13, 13, 13, 13, 5, 6].into_iter().map(|job| send(&coalescer, job)).collect();
    let mut answers = Vec::new();
    for sent in sent {
        answers.push(tokio::time::timeout(Duration::from_secs(1), sent).await.expect("the line stands still").ok());
    }
    assert_eq!(answers[2..], [Some(Some(vec![])), Some(Some(vec![])), Some(Some(vec![5])), Some(Some(vec![6]))]);
    assert!(coalescer.lines.lock().lines.is_empty());
}

#[test]
fn a_runtime_that_ends_leaves_the_line_to_others() {
    let coalescer = fragile();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (theirs, ours) = (runtime(), runtime());
    theirs.block_on(async {
        for _ in 0..4 {
            send(&coalescer, 0);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    let mut sent = None;
    ours.block_on(async {
        sent = Some(send(&coalescer, 7));
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    let sent = sent.unwrap();
    assert!(!sent.is_finished());
    drop(theirs);
    let answer = ours.block_on(async { tokio::time::timeout(Duration::from_secs(5), sent).await });
    assert_eq!(answer.expect("the line stands still").unwrap(), Some(vec![7]));
    assert!(coalescer.lines.lock().lines.is_empty());
}

#[tokio::test(start_paused = true)]
async fn closed_it_takes_nobody_and_answers_who_waits() {
    let (coalescer, calls) = coalescer(4);
    let sent: Vec<_> = (1..=3).map(|job| send(&coalescer, job)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    coalescer.close();
    assert_eq!(coalescer.send(&0, vec![4]).await, None);
    let mut answers = Vec::new();
    for sent in sent {
        answers.push(sent.await.unwrap());
    }
    assert_eq!(answers, [Some(vec![2]), Some(vec![4]), None]);
    assert_eq!(calls.lock().unwrap().concat(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_no_more_bytes_than_one_may() {
    let (coalescer, calls) = coalescer(10);
    let most = u32::try_from(CALL_BYTES).unwrap();
    let jobs = [1, 2, most / 2, most / 2 - 1, 3, most + 1, 4];
    let sent: Vec<_> = jobs.into_iter().map(|job| send(&coalescer, job)).collect();
    for sent in sent {
        assert_eq!(sent.await.unwrap().unwrap().len(), 1);
    }
    let calls = calls.lock().unwrap();
    assert_eq!(*calls, [vec![1], vec![2], vec![most / 2, most / 2 - 1], vec![3], vec![most + 1], vec![4]]);
}
