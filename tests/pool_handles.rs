//! What a running job says, and what it is told, through any handle: progress, logs, cancellation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use queue_core::{
    Env, ErrorCode, Failure, Job, JobContext, JobScheduler, Timestamp,
    event::Progress,
    lifecycle::JobState,
    store::{CancelOutcome, JobRecord},
    worker::WorkerBuilder,
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Steps {
    steps: u32,
}

impl Job for Steps {
    const KIND: &'static str = "steps";
    const QUEUE: &'static str = "q";
    type Output = ();
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn queues() -> JobScheduler {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1);
    JobScheduler::with_env(Arc::new(MemoryProvider::with_env(env.clone())), env)
}

fn worker(queues: &JobScheduler) -> WorkerBuilder {
    queues.worker().queue("q", 2).heartbeat_on_runtime().drain_deadline(seconds(1))
}

/// One step a second, of which it tells.
async fn steps(job: Steps, context: JobContext) -> Result<(), Failure> {
    for step in 1..=job.steps {
        tokio::time::sleep(seconds(1)).await;
        let percent = f64::from(step) * 100.0 / f64::from(job.steps);
        context.report(&Progress { percent, stage: Some(format!("step {step}")), message: None });
    }
    Ok(())
}

async fn never(_: Steps) -> Result<(), Failure> {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn progress_is_followed_from_any_handle_until_the_job_is_finished() {
    let queues = queues();
    let running = worker(&queues).register(steps).start().await.unwrap();
    let job = queues.enqueue(Steps { steps: 4 }).await.unwrap();
    let elsewhere = queues.handle::<()>(job.job().clone());
    let begun = Instant::now();
    let mut seen = Vec::new();
    let mut progress = elsewhere.progress().await.unwrap();
    while let Some(said) = progress.next().await {
        let said = said.unwrap();
        seen.push((said.percent, said.stage.unwrap(), begun.elapsed().as_secs()));
    }
    let step = |number: u32| (f64::from(number) * 25.0, format!("step {number}"), u64::from(number));
    assert_eq!(seen, [1, 2, 3, 4].map(step));
    assert!(begun.elapsed() < seconds(5), "it ends with the job: {:?}", begun.elapsed());
    // Afterwards there is what was said last, and the end.
    let last: Vec<_> = job.progress().await.unwrap().collect().await;
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].as_ref().unwrap().percent, 100.0);
    let mut unknown = job.job().clone();
    unknown.id = queue_core::JobId::derive(b"nobody", 0);
    let mut none = queues.handle::<()>(unknown).progress().await.unwrap();
    assert_eq!(none.next().await.unwrap().unwrap_err().code(), ErrorCode::NotFound);
    assert!(none.next().await.is_none());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn logs_are_bounded_in_lines_and_bytes_and_cut_between_characters() {
    let queues = queues();
    let (lines, bytes) = (JobRecord::MAX_LOGS, JobRecord::MAX_LOG_LINE);
    let chatty = move |job: Steps, context: JobContext| async move {
        for line in 0..job.steps {
            if line % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            context.log(format!("{line:04} {}", "€".repeat(bytes)));
        }
        Ok::<_, Failure>(())
    };
    let running = worker(&queues).register(chatty).start().await.unwrap();
    let job = queues.enqueue(Steps { steps: 1_234 }).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    let soon = job.logs().await.unwrap();
    assert!(!soon.is_empty() && soon.len() <= lines, "readable while it runs: {}", soon.len());
    job.finished().await.unwrap();
    let logs = job.logs().await.unwrap();
    let numbers: Vec<usize> = logs.iter().map(|line| line[..4].parse().unwrap()).collect();
    assert_eq!(numbers, (1_234 - lines..1_234).collect::<Vec<_>>(), "the newest, in order");
    for line in &logs {
        assert!(line.len() <= bytes && line.len() > bytes - 3 && !line.contains('\u{FFFD}'), "{}", line.len());
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_handler_within_a_second_and_a_forced_one_drops_it_at_once() {
    let queues = queues();
    let running = worker(&queues).register(never).start().await.unwrap();
    for (grace, at_most) in [(Duration::ZERO, 1.0), (seconds(3), 4.0), (seconds(20), 21.0)] {
        let job = queues.enqueue(Steps { steps: 0 }).timeout(seconds(3_600)).await.unwrap();
        tokio::time::sleep(seconds(2)).await;
        let begun = Instant::now();
        assert_eq!(job.cancel_with(grace).await.unwrap(), CancelOutcome::Requested);
        assert_eq!(job.finished().await.unwrap().state, JobState::Cancelled);
        let took = begun.elapsed();
        assert!(took >= grace && took.as_secs_f64() <= at_most, "{grace:?}: {took:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_later_cancel_may_shorten_the_grace_and_never_lengthens_it() {
    let queues = queues();
    let running = worker(&queues).register(never).start().await.unwrap();
    let job = queues.enqueue(Steps { steps: 0 }).timeout(seconds(3_600)).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    for grace in [1_000, 500, 2_000] {
        job.cancel_with(seconds(grace)).await.unwrap();
        tokio::time::sleep(seconds(1)).await;
    }
    let begun = Instant::now();
    assert_eq!(job.finished().await.unwrap().state, JobState::Cancelled);
    assert!((seconds(490)..seconds(505)).contains(&begun.elapsed()), "{:?}", begun.elapsed());

    let job = queues.enqueue(Steps { steps: 0 }).timeout(seconds(3_600)).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    job.cancel_with(seconds(1_000)).await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    let begun = Instant::now();
    job.cancel_with(Duration::ZERO).await.unwrap();
    assert_eq!(job.finished().await.unwrap().state, JobState::Cancelled);
    assert!(begun.elapsed() <= seconds(1), "{:?}", begun.elapsed());
    running.stop().await;
}
