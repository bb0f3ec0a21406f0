//! What it takes to begin again with many waiting jobs, and what a job takes of memory.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

use std::time::{Duration, Instant};

use queue_core::{
    Env, JobId, QueueName, QueueProvider,
    job::{Envelope, JobKind},
    provider::{Durability, OnFull, PublishOptions},
};
use queue_memory::{JournalOptions, MemoryProvider};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: u64 = 1_000;
const PAYLOAD: usize = 200;

fn main() {
    let jobs = std::env::var("QUEUE_BENCH_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1_000_000u64);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let journal = JournalOptions::folder(dir.path());
    let started = Instant::now();
    runtime.block_on(fill(&journal, jobs));
    let filled = started.elapsed();
    println!(r#"{{"name":"journal_fill","value":{:.0},"unit":"jobs/s"}}"#, jobs as f64 / filled.as_secs_f64());
    for how in ["clean", "killed"] {
        let before = resident();
        let started = Instant::now();
        let provider = MemoryProvider::open(&journal, Env::system()).unwrap();
        let took = started.elapsed();
        let found = provider.recovery().unwrap().clone();
        assert_eq!(found.jobs, jobs);
        let bytes = resident().saturating_sub(before) / jobs;
        println!(
            r#"{{"name":"journal_open_{how}","value":{:.2},"unit":"s","bytes_per_job":{bytes},"clean":{}}}"#,
            took.as_secs_f64(),
            found.clean
        );
        // The first claim, so that the file is not as it was closed.
        runtime.block_on(async {
            let name = QueueName::from_static("q");
            let options = queue_core::provider::ConsumeOptions::new("w", 1);
            let consumer = provider.consumer(&name, options).await.unwrap();
            assert_eq!(consumer.fetch(1, Duration::from_secs(5)).await.unwrap().len(), 1);
            provider.note("k", "v", Durability::Synced).await.unwrap();
        });
        provider.abandon();
    }
}

async fn fill(journal: &JournalOptions, jobs: u64) {
    let provider = MemoryProvider::open(journal, Env::system()).unwrap();
    let name = QueueName::from_static("q");
    let options = PublishOptions { on_full: OnFull::Wait, ..PublishOptions::default() };
    let now = Env::system().now();
    for first in (0..jobs).step_by(BATCH as usize) {
        let batch = (first..first + BATCH).map(|n| {
            Envelope::builder(JobId::derive(b"job", n), JobKind::from_static("k"), vec![7; PAYLOAD], now).seal()
        });
        let outcomes = provider.publish(&name, batch.collect(), &options).await;
        assert!(outcomes.iter().all(queue_core::provider::PublishOutcome::is_accepted));
    }
    provider.close().await.unwrap();
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
