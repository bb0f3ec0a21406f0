//! The helpers for applications' tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use queue_core::{ErrorCode, Failure, Job, JobScheduler, Priority, QueueName, QueueSpec, RetryPolicy, State};
use queue_testkit::{assert_enqueued, refute_enqueued, testing::TestQueues};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Count {
    to: u32,
}

impl Job for Count {
    const KIND: &'static str = "count";
    const QUEUE: &'static str = "counters";
    type Output = u32;
}

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Other {}

impl Job for Other {
    const KIND: &'static str = "other";
    const QUEUE: &'static str = "others";
    type Output = ();
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

#[tokio::test(start_paused = true)]
async fn what_is_enqueued_is_found_and_a_failure_lists_it() {
    let queues = TestQueues::new();
    assert_eq!(
        queues.find_enqueued::<Count>(|_| true).await.unwrap_err(),
        "no `count` job that matches is enqueued. Nothing is enqueued."
    );
    queues.enqueue(Count { to: 3 }).priority(Priority::HIGH).await.unwrap();
    queues.enqueue(Other {}).delay(minute()).await.unwrap();

    assert_eq!(assert_enqueued!(queues, Count, |job| job.to == 3).job.to, 3);
    assert_enqueued!(queues, Count, |job| job.record.envelope.priority == Priority::HIGH);
    assert_enqueued!(queues, Other);
    refute_enqueued!(queues, Count, |job| job.to == 4);

    let report = queues.find_enqueued::<Count>(|job| job.to == 4).await.unwrap_err();
    let level = Priority::HIGH.level();
    assert_eq!(
        report,
        format!(
            "no `count` job that matches is enqueued. Enqueued are:\n  \
             count in counters: pending, attempt 1, priority {level}: {{\"to\":3}}\n  \
             other in others: scheduled, due 1704067260000ms, attempt 1, priority {}: {{}}",
            Priority::NORMAL.level()
        )
    );
    let report = queues.find_none_enqueued::<Count>(|_| true).await.unwrap_err();
    assert!(report.starts_with("a `count` job that matches is enqueued:\n  count in counters"), "{report}");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no `count` job that matches")]
async fn an_assertion_fails() {
    assert_enqueued!(TestQueues::new(), Count);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "a `count` job that matches is enqueued")]
async fn a_refutation_fails() {
    let queues = TestQueues::new();
    queues.enqueue(Count { to: 3 }).await.unwrap();
    refute_enqueued!(queues, Count);
}

#[tokio::test(start_paused = true)]
async fn a_long_list_and_a_long_payload_are_cut() {
    let queues = TestQueues::new();
    for n in 0..25 {
        queues.enqueue(Count { to: n }).await.unwrap();
    }
    let report = queues.find_enqueued::<Other>(|_| true).await.unwrap_err();
    assert_eq!(report.lines().count(), 22);
    assert!(report.ends_with("  … and 5 more"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn what_is_due_runs_once_and_what_is_not_waits_for_its_time() {
    let queues = TestQueues::new();
    let now = queues.enqueue(Count { to: 1 }).await.unwrap();
    queues.enqueue(Count { to: 2 }).delay(minute()).await.unwrap();
    let count = async |job: Count| Ok::<_, Failure>(job.to);
    let drained = queues.run(count).await.unwrap();
    assert_eq!((drained.runs.len(), drained.completed()), (1, 1));
    assert_eq!(now.result().await.unwrap(), 1);
    assert_eq!(queues.run(count).await.unwrap().runs.len(), 0);
    assert_enqueued!(queues, Count, |job| job.to == 2);
    queues.advance(minute()).await;
    assert_eq!(queues.run(count).await.unwrap().completed(), 1);
    refute_enqueued!(queues, Count);
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_enqueues_runs_too() {
    let queues = TestQueues::new();
    async fn count_down(job: Count, State(queues): State<JobScheduler>) -> Result<u32, Failure> {
        if job.to > 0 {
            queues.enqueue(Count { to: job.to - 1 }).await?;
        }
        Ok(job.to)
    }
    queues.enqueue(Count { to: 5 }).await.unwrap();
    let scheduler = queues.scheduler().clone();
    let drained = queues.drain("counters", |worker| worker.state(scheduler).register(count_down)).await.unwrap();
    assert_eq!(drained.completed(), 6);
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_apart() {
    let queues = TestQueues::new();
    let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
    queues.enqueue(Count { to: 0 }).retry(policy).await.unwrap();
    queues.enqueue(Count { to: 1 }).await.unwrap();
    queues.enqueue(Count { to: 2 }).await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&runs);
    let handler = move |job: Count| {
        seen.fetch_add(1, Ordering::Relaxed);
        async move {
            match job.to {
                0 => Err::<u32, _>(Failure::retry("again")),
                1 => Err(Failure::Snooze(minute())),
                _ => Err(Failure::Cancel),
            }
        }
    };
    let first = queues.run(handler.clone()).await.unwrap();
    assert_eq!((first.retried(), first.put_off(), first.cancelled(), first.dead()), (1, 1, 1, 0));
    queues.advance(minute() * 60).await;
    let second = queues.run(handler).await.unwrap();
    assert_eq!((second.retried(), second.put_off(), second.cancelled(), second.dead()), (0, 1, 0, 1));
    assert_eq!(runs.load(Ordering::Relaxed), 5);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_is_an_error_and_not_a_hang() {
    let queues = TestQueues::new();
    let queue = QueueName::from_static("counters");
    queues.declare(QueueSpec::new(queue.clone())).await.unwrap();
    queues.enqueue(Count { to: 1 }).await.unwrap();
    queues.admin().pause(&queue, true).await.unwrap();
    let error = queues.run(async |job: Count| Ok::<_, Failure>(job.to)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_enqueues_itself_for_ever_is_an_error_and_not_a_hang() {
    let queues = TestQueues::new();
    async fn again(job: Count, State(queues): State<JobScheduler>) -> Result<u32, Failure> {
        queues.enqueue(Count { to: job.to }).await?;
        Ok(job.to)
    }
    queues.enqueue(Count { to: 0 }).await.unwrap();
    let scheduler = queues.scheduler().clone();
    let error = queues.drain("counters", |worker| worker.state(scheduler).register(again)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_expires_at_its_claim_does_not_hang_the_drain() {
    let queues = TestQueues::new();
    queues.enqueue(Count { to: 0 }).ttl(minute()).await.unwrap();
    queues.advance(minute()).await;
    assert_eq!(queues.run(async |job: Count| Ok::<_, Failure>(job.to)).await.unwrap().runs.len(), 0);
}
