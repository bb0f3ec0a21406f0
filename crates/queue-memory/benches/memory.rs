//! The memory provider against a raw channel: `cargo xtask bench memory`.
//!
//! The baseline is an async `flume` channel bounded to 1,024 that carries a fresh 200-byte `Vec` from 4 producers to 4
//! consumers on 2 threads. Each row is the median of 5 runs that alternate with the baseline's, as machines are noisy.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use queue_core::{
    Env, Failure, Job, JobId, JobScheduler, QueueName, QueueProvider, QueueSpec,
    job::{Envelope, JobKind},
    limit::{Limit, LimitBy, LimitRule, LimitScope},
    provider::{ConsumeOptions, Disposition, OnFull, PublishOptions, Settlement},
    queue_spec::Tracking,
    scheduler::NewJob,
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use validator::Validate;

const SIDES: u64 = 4;
const RUNS: usize = 5;
const PAYLOAD: usize = 200;

/// For both sides: what one thread allocates another frees here, and glibc's allocator makes these wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    type Bench = (&'static str, u64, fn(&Runtime, u64) -> f64);
    let benches: [Bench; 4] = [
        ("provider_batch_100", 2_000_000, |runtime, jobs| runtime.block_on(provider(jobs, 100))),
        ("provider_single", 400_000, |runtime, jobs| runtime.block_on(provider(jobs, 1))),
        ("worker", 400_000, |runtime, jobs| runtime.block_on(worker(jobs, false))),
        ("worker_limited", 400_000, |runtime, jobs| runtime.block_on(worker(jobs, true))),
    ];
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (name, jobs, bench) in benches {
        if wanted.as_deref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let (mut values, mut baselines) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            baselines.push(runtime.block_on(channel(1_000_000)));
            values.push(bench(&runtime, jobs));
        }
        let (value, baseline) = (median(values), median(baselines));
        print_row(name, value, "jobs/s", baseline);
    }
    if wanted.is_none() {
        let (bytes, payload) = (bytes_per_job(&runtime), PAYLOAD as f64);
        print_row("queued_job_memory", bytes, "B", payload);
        let idle = runtime.block_on(idle_worker());
        print_row("idle_worker_cpu", idle * 1e3, "ms/s", 1e3);
        let parked = runtime.block_on(parked_worker());
        print_row("parked_worker_cpu", parked * 1e3, "ms/s", 1e3);
    }
}

fn print_row(name: &str, value: f64, unit: &str, baseline: f64) {
    let ratio = value / baseline;
    println!(r#"{{"name":"{name}","value":{value:.1},"unit":"{unit}","baseline":{baseline:.1},"ratio":{ratio:.3}}}"#);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(jobs: u64, started: Instant) -> f64 {
    jobs as f64 / started.elapsed().as_secs_f64()
}

async fn channel(messages: u64) -> f64 {
    let (sender, receiver) = flume::bounded::<Vec<u8>>(1_024);
    let started = Instant::now();
    let mut sides = Vec::new();
    for _ in 0..SIDES {
        let sender = sender.clone();
        sides.push(tokio::spawn(async move {
            for _ in 0..messages / SIDES {
                sender.send_async(vec![7; PAYLOAD]).await.unwrap();
            }
        }));
        let receiver = receiver.clone();
        sides.push(tokio::spawn(async move {
            while let Ok(message) = receiver.recv_async().await {
                std::hint::black_box(message);
            }
        }));
    }
    drop((sender, receiver));
    for side in sides {
        side.await.unwrap();
    }
    rate(messages, started)
}

fn queue() -> QueueName {
    QueueName::from_static("bench")
}

/// Publish, fetch and settle through the trait object, in batches of `batch`.
async fn provider(jobs: u64, batch: u64) -> f64 {
    let env = Env::system();
    let provider: Arc<dyn QueueProvider> = Arc::new(MemoryProvider::new());
    let mut spec = QueueSpec::new(queue());
    spec.max_len = Some(1_024);
    // A channel remembers nothing either.
    spec.tracking = Tracking::Off;
    provider.declare(&spec).await.unwrap();
    let options = PublishOptions { on_full: OnFull::Wait, ..PublishOptions::default() };
    let left = Arc::new(AtomicU64::new(jobs));
    let started = Instant::now();
    let mut sides = Vec::new();
    for _ in 0..SIDES {
        let (publisher, env, options) = (Arc::clone(&provider), env.clone(), options.clone());
        sides.push(tokio::spawn(async move {
            let kind = JobKind::from_static("bench");
            for _ in 0..jobs / SIDES / batch {
                let now = env.now();
                let job = |_| {
                    Envelope::builder(JobId::fresh_at(now, &*env.random), kind.clone(), vec![7; PAYLOAD], now).seal()
                };
                let outcomes = publisher.publish(&queue(), (0..batch).map(job).collect(), &options).await;
                assert!(outcomes.iter().all(|outcome| outcome.is_accepted()));
            }
        }));
        let (provider, left) = (Arc::clone(&provider), Arc::clone(&left));
        sides.push(tokio::spawn(async move {
            let outstanding = usize::try_from(batch).unwrap();
            let consumer = provider.consumer(&queue(), ConsumeOptions::new("bench", outstanding)).await.unwrap();
            while left.load(Ordering::Relaxed) > 0 {
                let deliveries = consumer.fetch(outstanding, Duration::from_millis(50)).await.unwrap();
                let done = |delivery: &queue_core::provider::Delivery| {
                    Settlement::new(delivery.receipt, Disposition::Complete { result: None })
                };
                let settlements: Vec<_> = deliveries.iter().map(done).collect();
                let outcomes = consumer.settle(&settlements).await;
                assert!(outcomes.iter().all(|outcome| outcome.is_settled()));
                left.fetch_sub(outcomes.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    for side in sides {
        side.await.unwrap();
    }
    rate(jobs, started)
}

#[derive(Serialize, Deserialize, Validate)]
struct Nothing {
    number: u64,
    text: String,
}

impl Job for Nothing {
    const KIND: &'static str = "nothing";
    const QUEUE: &'static str = "bench";
    type Output = ();
}

/// A typed handler that does nothing, tracking on, jobs submitted in batches of 100 by 4 producers. Limited, each job takes
/// and gives back a place of a limit that never refuses.
async fn worker(jobs: u64, limited: bool) -> f64 {
    let queues = JobScheduler::new(MemoryProvider::new());
    if limited {
        let scope = LimitScope::of(LimitBy::Kind, Nothing::KIND);
        queues.limit(LimitRule { scope, limit: Limit::Concurrency { max: 1_000 } }).unwrap();
    }
    let mut spec = QueueSpec::new(queue());
    spec.max_len = Some(4_096);
    queues.declare(spec).await.unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let finished = Arc::new(tokio::sync::Notify::new());
    let (count, ended) = (Arc::clone(&done), Arc::clone(&finished));
    let running = queues
        .worker()
        .queue("bench", 512)
        .register(move |_: Nothing| {
            if count.fetch_add(1, Ordering::Relaxed) + 1 == jobs {
                ended.notify_one();
            }
            std::future::ready(Ok::<_, Failure>(()))
        })
        .start()
        .await
        .unwrap();
    let started = Instant::now();
    for _ in 0..SIDES {
        let queues = queues.clone();
        tokio::spawn(async move {
            let options = PublishOptions { on_full: OnFull::Wait, ..PublishOptions::default() };
            let kind = JobKind::from_static("nothing");
            for _ in 0..jobs / SIDES / 100 {
                let text = "x".repeat(PAYLOAD - 26);
                let payload = serde_json::to_vec(&Nothing { number: 1, text }).unwrap();
                let batch = (0..100).map(|_| NewJob::new(kind.clone(), payload.clone())).collect();
                queues.submit(&queue(), batch, &options).await;
            }
        });
    }
    finished.notified().await;
    let rate = rate(jobs, started);
    running.stop().await;
    queues.close().await.unwrap();
    rate
}

/// Growth of this process while a million jobs wait.
fn bytes_per_job(runtime: &Runtime) -> f64 {
    const JOBS: u64 = 1_000_000;
    let provider = MemoryProvider::new();
    let env = Env::system();
    let kind = JobKind::from_static("bench");
    let before = resident_bytes();
    runtime.block_on(async {
        for _ in 0..JOBS / 100 {
            let now = env.now();
            let job =
                |_| Envelope::builder(JobId::fresh_at(now, &*env.random), kind.clone(), vec![7; PAYLOAD], now).seal();
            provider.publish(&queue(), (0..100).map(job).collect(), &PublishOptions::default()).await;
        }
    });
    (resident_bytes() - before) / JOBS as f64
}

/// Seconds of processor time a second of an idle worker costs.
async fn idle_worker() -> f64 {
    let queues = JobScheduler::new(MemoryProvider::new());
    let idle = async |_: Nothing| Ok::<_, Failure>(());
    let running = queues.worker().queue("bench", 64).register(idle).start().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (before, seconds) = (processor_seconds(), 3);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = processor_seconds() - before;
    running.stop().await;
    queues.close().await.unwrap();
    used / seconds as f64
}

/// Seconds of processor time a second of a worker costs while 100,000 jobs are parked.
async fn parked_worker() -> f64 {
    const JOBS: u64 = 100_000;
    let queues = JobScheduler::new(MemoryProvider::new());
    let scope = LimitScope::of(LimitBy::Kind, Nothing::KIND);
    queues.limit(LimitRule { scope, limit: Limit::SlidingWindow { max: 1, per: Duration::from_secs(3_600) } }).unwrap();
    let idle = async |_: Nothing| Ok::<_, Failure>(());
    let running = queues.worker().queue("bench", 64).register(idle).start().await.unwrap();
    let payload = serde_json::to_vec(&Nothing { number: 1, text: String::new() }).unwrap();
    for _ in 0..JOBS / 100 {
        let batch = (0..100).map(|_| NewJob::new(JobKind::from_static(Nothing::KIND), payload.clone())).collect();
        queues.submit(&queue(), batch, &PublishOptions::default()).await;
    }
    while queues.stats(&queue()).await.unwrap().parked < JOBS - 1 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (before, seconds) = (processor_seconds(), 10);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = processor_seconds() - before;
    running.stop().await;
    queues.close().await.unwrap();
    used / seconds as f64
}

/// From `/proc`, so that no crate is needed; zero elsewhere than on Linux.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(0.0, |kib| kib * 1024.0)
}

fn processor_seconds() -> f64 {
    let schedstat = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let run = schedstat.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    run.filter_map(|text| text.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}
