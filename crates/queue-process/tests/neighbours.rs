//! Handlers that misbehave end as an error of their own job, and the jobs beside them hardly notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![cfg(target_os = "linux")]

mod machine;

use std::time::Duration;

use machine::{Scratch, gone, pids_in, sh, stopwatch};
use queue_core::{
    JobScheduler, QueueName, RetryPolicy,
    job::{ContentType, JobKind, JobRef},
    lifecycle::JobState,
    provider::PublishOptions,
    scheduler::{NewJob, Submitted},
    store::JobRecord,
};
use queue_memory::MemoryProvider;
use queue_process::{Limits, PoolOptions, ProcessHandler, ProcessPool, Program};
use tokio::task::JoinHandle;

/// What a job is to do; anything else is done at once. The first line it hears is the job, in either mode.
const DO: &str = r#"
    do_it() {
        case $1 in
            *leak*) awk 'BEGIN { s = "x"; while (length(s) < 1073741824) s = s s; exit 9 }' || exit $?;;
            *spin*) while :; do :; done;;
            *fork*) bomb() { [ $1 = 0 ] || { bomb $(($1 - 1)) | bomb $(($1 - 1)) & }; }; bomb 7; sleep 0.5; exit 3;;
            *deaf*) trap '' TERM; sleep 66 & echo $$ $! >> "$PIDS"; sleep 67;;
            *close*) exec >&-; [ "$QUEUE_EXEC_MODE" = pool ] || exit 4; sleep 68;;
            *signal*) kill -BUS $$;;
        esac
    }"#;
const ONESHOT: &str = r#"read -r line; do_it "$line"; echo 1"#;
const POOL: &str = r#"while read -r line; do do_it "${line##*payload}"; id=${line#*'"id":"'}
    printf '{"id":"%s","result":1}\n' "${id%%'"'*}"; done"#;

const BAD: [&str; 6] = ["leak", "spin", "fork", "deaf", "close", "signal"];

fn program(mode: &str, scratch: &Scratch) -> (Program, bool) {
    let limits = Limits {
        memory: Some(128 << 20),
        cpu_time: Some(Duration::from_secs(1)),
        open_files: Some(64),
        processes: Some(16),
        grace: Duration::from_millis(100),
        ..Limits::default()
    };
    let program = |limits| sh(&format!("{DO}\n{mode}")).with_limits(limits).variable("PIDS", scratch.path("pids"));
    match program(limits.clone()) {
        counted if counted.check().is_ok() => (counted, true),
        _ => (program(Limits { processes: None, ..limits }), false),
    }
}

async fn submit(queues: &JobScheduler, payloads: impl IntoIterator<Item = &'static str>) -> Vec<JobRef> {
    let job = |payload: &'static str| {
        let mut job = NewJob::new(JobKind::new("x").unwrap(), payload);
        job.options.content_type = ContentType::Text;
        job.options.timeout = Some(Duration::from_secs(if payload == "deaf" { 1 } else { 30 }));
        job.options.retry = Some(RetryPolicy::immediate(1));
        job
    };
    let jobs = payloads.into_iter().map(job).collect();
    let answers = queues.submit(&QueueName::new("q").unwrap(), jobs, &PublishOptions::default()).await;
    let accepted = |answer| match answer {
        Submitted::Accepted(job) => job,
        other => panic!("{other:?}"),
    };
    answers.into_iter().map(accepted).collect()
}

async fn ended(queues: &JobScheduler, job: &JobRef) -> JobRecord {
    for _ in 0..6_000 {
        let record = queues.get(job).await.unwrap();
        if record.state.is_terminal() {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", queues.get(job).await);
}

async fn all_complete(queues: &JobScheduler, jobs: &[JobRef]) {
    for job in jobs {
        let record = ended(queues, job).await;
        assert_eq!(record.state, JobState::Completed, "{:?}", record.error);
    }
}

/// Each misbehaves among two hundred that do not.
async fn mixed(queues: &JobScheduler, counted: bool, scratch: &Scratch) {
    let bad = BAD.into_iter().filter(|what| counted || *what != "fork");
    let jobs: Vec<&str> = bad.flat_map(|what| [what].into_iter().chain(["good"; 33])).collect();
    let (elapsed, ()) = stopwatch(async {
        let all = submit(queues, jobs.clone()).await;
        for (what, job) in jobs.iter().zip(&all) {
            let record = ended(queues, job).await;
            let Some(error) = record.error else {
                assert!(record.state == JobState::Completed && *what == "good", "{what} completed");
                continue;
            };
            let said = match *what {
                "leak" => "128 MiB of memory",
                "spin" => "1 s of CPU time",
                "fork" => "at its limit of 16",
                "deaf" => "killed at its timeout",
                "close" if error.message.contains("stdout") => "closed its stdout",
                "close" => "exit status 4",
                "signal" => "killed by signal 7",
                other => panic!("{other}: {error}"),
            };
            assert!(error.message.contains(said), "{what}: {error}");
        }
    })
    .await;
    assert!(elapsed < Duration::from_secs(60), "{elapsed:?}");
    let pids = pids_in(&std::fs::read(scratch.path("pids")).unwrap());
    assert!(gone(&pids).await, "{pids:?}");
}

/// How long good jobs take on average, a batch after the other, until a task has ended.
async fn good_jobs_during<T>(queues: &JobScheduler, task: JoinHandle<T>) -> Duration {
    let (mut time, mut batches) = (Duration::ZERO, 0);
    while batches == 0 || !task.is_finished() {
        let jobs = submit(queues, ["good"; 150]).await;
        time += stopwatch(all_complete(queues, &jobs)).await.0;
        batches += 1;
    }
    task.await.unwrap();
    time / batches
}

/// How long good jobs take with five hands, alone, and while one hand is kept by a bad one after the other.
async fn slowed_down(handler: Handler, counted: bool) -> (Duration, Duration) {
    let queues = JobScheduler::new(MemoryProvider::new());
    let worker = queues.worker().queue("q", 5);
    let worker = match handler.clone() {
        Handler::OneShot(handler) => worker.fallback(handler),
        Handler::Pool(pool) => worker.fallback(pool),
    };
    let worker = worker.start().await.unwrap();
    all_complete(&queues, &submit(&queues, ["good"; 5]).await).await;
    // As long as the bad ones take, about.
    let alone = good_jobs_during(&queues, tokio::spawn(tokio::time::sleep(Duration::from_secs(2)))).await;
    let bad = {
        let queues = queues.clone();
        tokio::spawn(async move {
            for what in BAD.into_iter().filter(|what| (counted || *what != "fork") && *what != "spin") {
                let jobs = submit(&queues, [what]).await;
                assert_eq!(ended(&queues, &jobs[0]).await.state, JobState::Dead, "{what}");
            }
        })
    };
    let beside = good_jobs_during(&queues, bad).await;
    worker.stop().await;
    if let Handler::Pool(pool) = handler {
        pool.shutdown().await;
    }
    (alone, beside)
}

#[derive(Clone)]
enum Handler {
    OneShot(ProcessHandler),
    Pool(ProcessPool),
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shot_each_bad_one_ends_by_its_own_error() {
    let scratch = Scratch::new();
    let (program, counted) = program(ONESHOT, &scratch);
    let queues = JobScheduler::new(MemoryProvider::new());
    let worker = queues.worker().queue("q", 4).fallback(ProcessHandler::new(program)).start().await.unwrap();
    mixed(&queues, counted, &scratch).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pool_each_bad_one_ends_by_its_own_error() {
    let scratch = Scratch::new();
    let (program, counted) = program(POOL, &scratch);
    let queues = JobScheduler::new(MemoryProvider::new());
    let pool = ProcessPool::new(program, PoolOptions { size: 4, ..PoolOptions::default() }).unwrap();
    let worker = queues.worker().queue("q", 4).fallback(pool.clone()).start().await.unwrap();
    mixed(&queues, counted, &scratch).await;
    worker.stop().await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_not_slowed_down() {
    let scratch = Scratch::new();
    for mode in [ONESHOT, POOL] {
        let (program, counted) = program(mode, &scratch);
        let handler = match mode == POOL {
            true => {
                Handler::Pool(ProcessPool::new(program, PoolOptions { size: 5, ..PoolOptions::default() }).unwrap())
            }
            false => Handler::OneShot(ProcessHandler::new(program)),
        };
        let (alone, beside) = slowed_down(handler, counted).await;
        eprintln!("150 good jobs: alone {alone:?}, beside bad ones {beside:?}");
        // A neighbour that waited for a bad one would take a second.
        assert!(beside < alone * 3 + Duration::from_millis(200), "alone {alone:?}, beside {beside:?}");
    }
}
