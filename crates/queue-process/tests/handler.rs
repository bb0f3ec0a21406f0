//! A worker whose handler is a program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod machine;

use std::time::Duration;

use machine::{gone, pids_in, sh, stopwatch};
use queue_core::{
    JobScheduler, QueueName, RetryPolicy, Worker,
    job::{JobKind, JobRef},
    lifecycle::JobState,
    provider::{Cancel, PublishOptions},
    scheduler::{NewJob, Submitted},
    store::JobRecord,
};
use queue_memory::MemoryProvider;
use queue_process::ProcessHandler;

struct Bench {
    queues: JobScheduler,
    worker: Worker,
}

impl Bench {
    async fn new(script: &str) -> Self {
        let queues = JobScheduler::new(MemoryProvider::new());
        let handler = ProcessHandler::new(sh(script));
        let worker = queues.worker().queue("q", 2).drain_deadline(Duration::from_millis(200)).fallback(handler);
        let worker = worker.start().await.unwrap();
        Self { queues, worker }
    }

    async fn submit(&self, payload: &'static str, timeout: Duration, attempts: u32) -> JobRef {
        let mut job = NewJob::new(JobKind::new("mail").unwrap(), payload);
        job.options.timeout = Some(timeout);
        job.options.retry = Some(RetryPolicy::immediate(attempts));
        match self.queues.submit(&QueueName::new("q").unwrap(), vec![job], &PublishOptions::default()).await.pop() {
            Some(Submitted::Accepted(job)) => job,
            other => panic!("{other:?}"),
        }
    }

    async fn record_when(&self, job: &JobRef, holds: impl Fn(&JobRecord) -> bool) -> JobRecord {
        for _ in 0..1_000 {
            let record = self.queues.get(job).await.unwrap();
            if holds(&record) {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.queues.get(job).await);
    }

    async fn ended(&self, job: &JobRef) -> JobRecord {
        self.record_when(job, |record| record.state.is_terminal()).await
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_program_sees_its_job_and_its_exit_decides() {
    let script = r#"read -r what; case "$what" in
        env) echo "$QUEUE_NAME $QUEUE_KIND $QUEUE_ATTEMPT $QUEUE_MAX_ATTEMPTS $QUEUE_JOB_ID";;
        once) echo no >&2; test "$QUEUE_ATTEMPT" -gt 1 && echo '{"n": 1}';;
        fail) echo why >&2; exit 3;;
        never) exit 65;;
        esac"#;
    let bench = Bench::new(script).await;

    let env = bench.submit("env", MINUTE, 5).await;
    let record = bench.ended(&env).await;
    assert_eq!(record.result.unwrap(), format!("\"q mail 1 5 {}\"", env.id));

    let once = bench.submit("once", MINUTE, 5).await;
    let record = bench.ended(&once).await;
    assert_eq!((record.state, record.attempt), (JobState::Completed, 2));
    assert_eq!(record.result.unwrap(), r#"{"n": 1}"#);

    let fail = bench.submit("fail", MINUTE, 3).await;
    let record = bench.ended(&fail).await;
    let error = record.error.unwrap();
    assert_eq!((record.state, record.attempt), (JobState::Dead, 3));
    assert_eq!((&*error.message, error.detail.as_deref()), ("exit status 3", Some("why")));

    let never = bench.submit("never", MINUTE, 3).await;
    let record = bench.ended(&never).await;
    assert_eq!((record.state, record.attempt), (JobState::Dead, 1));
    bench.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_own_timeout_kills_the_group_and_keeps_what_was_said() {
    let bench = Bench::new("echo stuck >&2; sleep 97 & echo $$ $! >&2; sleep 98").await;
    let job = bench.submit("", Duration::from_millis(500), 1).await;
    let (elapsed, record) = stopwatch(bench.ended(&job)).await;
    let error = record.error.unwrap();
    assert_eq!(&*error.code, "TIMEOUT");
    assert!(error.message.contains("killed at its timeout"), "{error}");
    let detail = error.detail.unwrap();
    let pids = pids_in(detail.strip_prefix("stuck\n").unwrap().as_bytes());
    assert!(gone(&pids).await, "{pids:?}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    bench.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_program_as_sigterm() {
    let scratch = machine::Scratch::new();
    let file = scratch.path("said");
    let script = format!("trap 'echo term > {0}; exit 1' TERM; while :; do sleep 0.02; done", file.display());
    let bench = Bench::new(&script).await;
    let job = bench.submit("", MINUTE, 3).await;
    bench.record_when(&job, |record| record.state == JobState::Running).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.queues.cancel(&job, &Cancel::by("a test")).await.unwrap();
    let (elapsed, record) = stopwatch(bench.ended(&job)).await;
    assert_eq!(record.state, JobState::Cancelled);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "term\n");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    bench.worker.stop().await;
}

/// Whatever a program says when it is told to stop: it was not its job that somebody did not want.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_beyond_its_deadline_gives_the_job_back() {
    for end in ["exit 0", "exit 1", "exit 65", "trap - TERM; kill -TERM $$"] {
        let scratch = machine::Scratch::new();
        let file = scratch.path("said");
        let script = format!("trap 'echo term > {0}; {end}' TERM; while :; do sleep 0.02; done", file.display());
        let bench = Bench::new(&script).await;
        let job = bench.submit("", MINUTE, 3).await;
        bench.record_when(&job, |record| record.state == JobState::Running).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (elapsed, report) = stopwatch(bench.worker.stop()).await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "term\n");
        assert_eq!((report.done, report.released, report.aborted), (0, 0, 1), "{end}");
        let record = bench.queues.get(&job).await.unwrap();
        assert_eq!((record.state, record.attempt), (JobState::Pending, 1), "{end}: {record:?}");
        assert!(elapsed < Duration::from_secs(3), "{end}: {elapsed:?}");
    }
}
