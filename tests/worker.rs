//! A worker on the memory provider: what a handler can say, and what is done about it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Env, ErrorCode, Failure, Job, JobContext, JobScheduler, Priority, QueueName, QueueSpec, RetryPolicy, State,
    Timestamp,
    lifecycle::JobState,
    worker::{DrainReport, WorkerBuilder},
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Add {
    #[validate(range(max = 1000))]
    a: u32,
    b: u32,
}

impl Job for Add {
    const KIND: &'static str = "math.add";
    const QUEUE: &'static str = "math";
    type Output = u32;
}

fn queues() -> JobScheduler {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
    JobScheduler::with_env(Arc::new(MemoryProvider::with_env(env.clone())), env)
}

fn worker(queues: &JobScheduler) -> WorkerBuilder {
    queues.worker().queue("math", 4).heartbeat_on_runtime()
}

#[tokio::test(start_paused = true)]
async fn a_typed_job_returns_its_result() {
    let queues = queues();
    let running = worker(&queues)
        .state(100u32)
        .register(async |job: Add, State(base): State<u32>| Ok::<_, Failure>(base + job.a + job.b))
        .start()
        .await
        .unwrap();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), 103);
    assert_eq!(running.stop().await, DrainReport::default());
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retryable_failure_runs_again_after_its_backoff_and_then_dies() {
    let queues = queues();
    let runs = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&runs);
    let start = tokio::time::Instant::now();
    let running = worker(&queues)
        .register(move |_: Add, job: JobContext| {
            seen.lock().unwrap().push((job.attempt(), job.is_last_attempt(), start.elapsed().as_secs()));
            async { Err::<u32, _>(Failure::retry("not today")) }
        })
        .start()
        .await
        .unwrap();
    let policy = RetryPolicy::fixed(3, Duration::from_secs(60));
    let handle = queues.enqueue(Add { a: 1, b: 2 }).retry(policy).await.unwrap();
    let error = handle.result().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HandlerFailed);
    assert!(error.message().contains("3 attempts") && error.message().contains("not today"), "{error}");
    assert_eq!(*runs.lock().unwrap(), [(1, false, 0), (2, false, 60), (3, true, 120)]);
    let record = handle.record().await.unwrap();
    assert_eq!((record.state, record.history.len()), (JobState::Dead, 2));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn panics_timeouts_and_bad_payloads_are_the_jobs_own() {
    let queues = queues();
    let running = worker(&queues)
        .register(async |job: Add| match job.b {
            0 => panic!("zero is not a number"),
            1 => std::future::pending::<Result<u32, Failure>>().await,
            2 => Err(Failure::never("no")),
            3 => Err(Failure::Cancel),
            b => Ok(b),
        })
        .start()
        .await
        .unwrap();
    let enqueue = |b| queues.enqueue(Add { a: 0, b }).retry(RetryPolicy::never()).timeout(Duration::from_secs(5));
    let expect = [
        (0, JobState::Dead, Some(("HANDLER_PANICKED", true))),
        (1, JobState::Dead, Some(("TIMEOUT", true))),
        (2, JobState::Dead, Some(("HANDLER_FAILED", false))),
        (3, JobState::Cancelled, None),
        (4, JobState::Completed, None),
    ];
    for (b, state, error) in expect {
        let record = enqueue(b).await.unwrap().finished().await.unwrap();
        assert_eq!(record.state, state, "{b}");
        let found = record.error.as_ref().map(|error| (error.code.as_ref(), error.retryable));
        assert_eq!(found, error, "{b}");
    }
    // The type's own rules hold on both sides.
    assert_eq!(queues.enqueue(Add { a: 1001, b: 0 }).await.unwrap_err().code(), ErrorCode::Validation);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn snooze_spends_no_attempt_and_retry_after_does() {
    let queues = queues();
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let running = worker(&queues)
        .register(move |_: Add, job: JobContext| {
            let run = count.fetch_add(1, Ordering::Relaxed);
            async move {
                match run {
                    0 | 1 => Err(Failure::Snooze(Duration::from_secs(100))),
                    2 => {
                        let error = queue_core::JobError::custom("BUSY", "later");
                        Err(Failure::RetryAfter(Duration::from_secs(1000), error))
                    }
                    _ => Ok(job.attempt()),
                }
            }
        })
        .start()
        .await
        .unwrap();
    let start = tokio::time::Instant::now();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), 2);
    assert_eq!(start.elapsed().as_secs(), 1200);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_job_is_cancelled_within_a_second_and_dropped_after_its_grace() {
    let queues = queues();
    let running = worker(&queues)
        .register(async |job: Add, context: JobContext| match job.b {
            // One that listens, and one that does not.
            0 => {
                context.cancelled().await;
                Err(Failure::retry("stopped half-way"))
            }
            _ => std::future::pending::<Result<u32, Failure>>().await,
        })
        .start()
        .await
        .unwrap();
    for (b, at_most) in [(0, 1.0), (1, 6.0)] {
        let handle = queues.enqueue(Add { a: 1, b }).timeout(Duration::from_secs(3600)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(100)).await;
        let start = tokio::time::Instant::now();
        handle.cancel().await.unwrap();
        assert_eq!(handle.finished().await.unwrap().state, JobState::Cancelled);
        assert!(start.elapsed().as_secs_f64() <= at_most, "{b}: {:?}", start.elapsed());
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_a_long_job_and_carry_its_progress() {
    let queues = queues();
    let running = worker(&queues)
        .register(async |_: Add, context: JobContext| {
            context.progress(40.0);
            context.log("half-way");
            tokio::time::sleep(Duration::from_secs(300)).await;
            Ok::<_, Failure>(context.attempt())
        })
        .start()
        .await
        .unwrap();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).timeout(Duration::from_secs(3600)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let record = handle.record().await.unwrap();
    assert_eq!(record.progress.unwrap(), &br#"{"percent":40.0}"#[..]);
    assert_eq!(record.logs, ["half-way"]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(handle.record().await.unwrap().started_count, 1, "counted once, however many beats");
    let record = handle.finished().await.unwrap();
    assert_eq!((record.state, record.attempt), (JobState::Completed, 1));
    assert_eq!(record.started_count, 0, "it took no worker down");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_cut_off_loses_its_job_to_the_next() {
    let queues = queues();
    let first = worker(&queues)
        .name("first")
        .register(async |_: Add| std::future::pending::<Result<u32, Failure>>().await)
        .start()
        .await
        .unwrap();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).timeout(Duration::from_secs(3600)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(first);
    let second =
        worker(&queues).name("second").register(async |job: Add| Ok::<_, Failure>(job.a)).start().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(handle.result().await.unwrap(), 1);
    let record = handle.record().await.unwrap();
    assert_eq!((record.worker.as_deref(), record.attempt), (Some("second"), 1));
    assert!(start.elapsed() <= Duration::from_secs(31), "{:?}", start.elapsed());
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_its_workers_ends_as_poison() {
    let queues = queues();
    let mut spec = QueueSpec::new(QueueName::from_static("math"));
    spec.max_deliveries = 3;
    queues.declare(spec).await.unwrap();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).timeout(Duration::from_secs(3600)).await.unwrap();
    let mut runs = 0;
    while handle.record().await.unwrap().state != JobState::Dead {
        runs += 1;
        let killed = worker(&queues)
            .register(async |_: Add| std::future::pending::<Result<u32, Failure>>().await)
            .start()
            .await
            .unwrap();
        // Killed before its first heartbeat could count the start.
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(killed);
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(runs < 10, "it never ends");
    }
    // The first start is not marked; three marked ones follow; the next worker buries it.
    assert_eq!(runs, 5);
    assert_eq!(handle.record().await.unwrap().error.unwrap().code, "POISON");
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_releases_and_aborts() {
    let queues = queues();
    for b in 0..10 {
        // Two that take long, two that never end, six that wait for a slot.
        queues.enqueue(Add { a: 1, b }).timeout(Duration::from_secs(3600)).await.unwrap();
    }
    let running = worker(&queues)
        .prefetch(2)
        .drain_deadline(Duration::from_secs(60))
        .register(async |job: Add| {
            match job.b {
                0 | 1 => tokio::time::sleep(Duration::from_secs(30)).await,
                _ => std::future::pending().await,
            }
            Ok::<_, Failure>(job.b)
        })
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let report = running.stop().await;
    assert_eq!(report, DrainReport { done: 2, released: 2, aborted: 2 });
    let stats = queues.stats(&QueueName::from_static("math")).await.unwrap();
    assert_eq!((stats.pending, stats.running, stats.completed_total), (8, 0, 2));
}

/// What gives up because its worker stops runs again elsewhere, in whatever words it does; what somebody cancels does not.
#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_it_told_to_stop_and_a_cancel_does_not() {
    let queues = queues();
    let mut jobs = Vec::new();
    for b in 0..6 {
        jobs.push(queues.enqueue(Add { a: 1, b }).timeout(Duration::from_secs(3600)).await.unwrap());
    }
    const SECOND: Duration = Duration::from_secs(1);
    let stubborn = queues.worker().queue("math", 6).heartbeat_on_runtime().drain_deadline(SECOND);
    let running = stubborn
        .register(async |job: Add, context: JobContext| {
            context.cancelled().await;
            match job.b {
                0 => Err(Failure::Cancel),
                1 => Err(Failure::retry("told to stop")),
                2 => Err(Failure::never("no good")),
                3 => Ok(job.b),
                4 => {
                    tokio::time::sleep(2 * SECOND).await;
                    Err(Failure::Cancel)
                }
                _ => std::future::pending().await,
            }
        })
        .start()
        .await
        .unwrap();
    tokio::time::sleep(SECOND).await;
    let begun = tokio::time::Instant::now();
    let stop = tokio::spawn(running.stop());
    tokio::time::sleep(SECOND + SECOND / 2).await;
    // Told to stop half a second ago, and cancelled as well now.
    for job in &jobs[4..] {
        job.cancel().await.unwrap();
    }
    let report = stop.await.unwrap();
    assert_eq!(report, DrainReport { done: 2, released: 0, aborted: 2 });
    let took = begun.elapsed();
    assert!(took >= 6 * SECOND && took < 6 * SECOND + SECOND / 4, "the grace begins once: {took:?}");
    let mut ends = Vec::new();
    for job in &jobs {
        let record = job.record().await.unwrap();
        ends.push((record.state, record.attempt));
    }
    use JobState::{Cancelled, Completed, Dead, Pending};
    assert_eq!(ends, [Pending, Pending, Dead, Completed, Cancelled, Cancelled].map(|state| (state, 1)));
}

#[tokio::test(start_paused = true)]
async fn one_slot_starts_jobs_strictly_by_priority_and_age() {
    let queues = queues();
    let mut expected = Vec::new();
    for b in 0..200u32 {
        let level = 1 + (b * 7 % 15) as u8;
        queues.enqueue(Add { a: 0, b }).priority(Priority::new(level).unwrap()).await.unwrap();
        expected.push((std::cmp::Reverse(level), b));
    }
    expected.sort_unstable();
    let started = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&started);
    let running = queues
        .worker()
        .queue("math", 1)
        .heartbeat_on_runtime()
        .register(move |job: Add| {
            log.lock().unwrap().push(job.b);
            async { Ok::<_, Failure>(0) }
        })
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*started.lock().unwrap(), expected.iter().map(|(_, b)| *b).collect::<Vec<_>>());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tower_layers_wrap_every_handler() {
    let queues = queues();
    let (running_now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (now, peak) = (Arc::clone(&running_now), Arc::clone(&most));
    let running = queues
        .worker()
        .queue("math", 8)
        .heartbeat_on_runtime()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(3))
        .register(move |_: Add| {
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Failure>(0)
            }
        })
        .start()
        .await
        .unwrap();
    let mut handles = Vec::new();
    for b in 0..9 {
        handles.push(queues.enqueue(Add { a: 0, b }).await.unwrap());
    }
    for handle in handles {
        handle.result().await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_put_together_wrongly_is_refused_at_the_start() {
    let queues = queues();
    let handler = async |_: Add| Ok::<u32, Failure>(0);
    let start = |builder: WorkerBuilder| async { builder.start().await.unwrap_err() };
    assert!(start(queues.worker().register(handler)).await.message().contains("no queue"));
    assert!(start(queues.worker().queue("math", 1)).await.message().contains("no handler"));
    assert!(start(queues.worker().queue("math", 0).register(handler)).await.message().contains("at least 1"));
    let error = start(queues.worker().queue("ma th", 1).register(handler)).await;
    assert_eq!(error.code(), ErrorCode::Validation);
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn panics_outside_the_handlers_own_run_cost_no_slot_and_no_settlement() {
    let queues = queues();
    let running = queues
        .worker()
        .queue("math", 1)
        .heartbeat_on_runtime()
        .observe(|_| panic!("observed"))
        .register(async |job: Add| {
            if job.b == 0 {
                let _bomb = Bomb;
                std::future::pending::<()>().await;
            }
            Ok::<_, Failure>(job.b)
        })
        .start()
        .await
        .unwrap();
    let bomb = queues.enqueue(Add { a: 0, b: 0 }).timeout(Duration::from_secs(1)).retry(RetryPolicy::never());
    let record = bomb.await.unwrap().finished().await.unwrap();
    assert_eq!(record.error.unwrap().code, "TIMEOUT");
    assert_eq!(queues.enqueue(Add { a: 0, b: 7 }).await.unwrap().result().await.unwrap(), 7);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_nobody_handles_says_so() {
    let queues = queues();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).retry(RetryPolicy::never()).await.unwrap();
    let running = queues
        .worker()
        .queue("math", 1)
        .heartbeat_on_runtime()
        .service("other", tower::service_fn(async |_| Ok::<_, Failure>(None)))
        .start()
        .await
        .unwrap();
    assert!(handle.result().await.unwrap_err().message().contains("no handler for `math.add`"));
    running.stop().await;
}

/// Real threads and real time: a handler that blocks its thread for three leases keeps its job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_keeps_its_lease() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let running = queues
        .worker()
        .queue("math", 1)
        .lease(Duration::from_millis(200))
        .register(async |_: Add, job: JobContext| {
            #[allow(clippy::disallowed_methods, reason = "blocking is what is tested")]
            std::thread::sleep(Duration::from_millis(700));
            Ok::<_, Failure>(job.attempt())
        })
        .start()
        .await
        .unwrap();
    let handle = queues.enqueue(Add { a: 1, b: 2 }).await.unwrap();
    assert_eq!(handle.result().await.unwrap(), 1);
    assert!(handle.record().await.unwrap().worker.is_some());
    running.stop().await;
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_unique_job_is_one_job_until_it_is_finished() {
    let queues = queues();
    let first = queues.enqueue(Add { a: 1, b: 2 }).unique("sum").unwrap().await.unwrap();
    let second = queues.enqueue(Add { a: 9, b: 9 }).unique("sum").unwrap().await.unwrap();
    assert_eq!((first.id(), second.is_duplicate()), (second.id(), true));
    let running = worker(&queues).register(async |job: Add| Ok::<_, Failure>(job.a)).start().await.unwrap();
    assert_eq!(second.result().await.unwrap(), 1);
    let third = queues.enqueue(Add { a: 3, b: 0 }).unique("sum").unwrap().await.unwrap();
    assert!(!third.is_duplicate());
    let window = Duration::from_secs(60);
    let in_window = queues.enqueue(Add { a: 4, b: 0 }).unique_for(window).await.unwrap();
    in_window.result().await.unwrap();
    assert!(queues.enqueue(Add { a: 4, b: 0 }).unique_for(window).await.unwrap().is_duplicate());
    assert!(!queues.enqueue(Add { a: 5, b: 0 }).unique_for(window).await.unwrap().is_duplicate());
    tokio::time::sleep(window).await;
    assert!(!queues.enqueue(Add { a: 4, b: 0 }).unique_for(window).await.unwrap().is_duplicate());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_is_fetched_ahead_only_while_runs_are_brief() {
    let queues = queues();
    let (started, hour) = (Arc::new(AtomicU32::new(0)), Duration::from_secs(3_600));
    let count = Arc::clone(&started);
    let running = queues
        .worker()
        .queue("math", 1)
        .prefetch(1)
        .prefetch_while_brief(8)
        .heartbeat_on_runtime()
        .register(move |job: Add| {
            count.fetch_add(1, Ordering::Relaxed);
            let pause = Duration::from_micros(job.b.into());
            async move {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                Ok::<_, Failure>(0)
            }
        })
        .start()
        .await
        .unwrap();
    let in_hand = || running.status().pools[0].in_hand;
    let submit = async |jobs: usize, b: u32| {
        for _ in 0..jobs {
            queues.enqueue(Add { a: 0, b }).timeout(hour).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    submit(20, 10_000_000).await;
    assert_eq!(in_hand(), 2, "nothing has ended yet");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(in_hand(), 2, "what ended was not brief");
    tokio::time::sleep(Duration::from_secs(300)).await;
    submit(20, 0).await;
    assert_eq!((in_hand(), started.load(Ordering::Relaxed)), (0, 40));
    submit(20, 10_000_000).await;
    assert_eq!(in_hand(), 9, "what ended before was brief");
    tokio::time::sleep(Duration::from_secs(85)).await;
    assert_eq!(in_hand(), 2, "what ended since was not");
    running.stop().await;
}
