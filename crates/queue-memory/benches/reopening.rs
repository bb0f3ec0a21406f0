//! What it takes to begin again with many waiting jobs, and what a job takes of memory.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

use std::{path::Path, time::Instant};

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
    match std::env::var("QUEUE_BENCH_STAGE") {
        // Each in a process of its own, so that what it takes of memory is its own.
        Ok(stage) => perform(&stage, Path::new(&std::env::var("QUEUE_BENCH_DIR").unwrap()), jobs),
        Err(_) => {
            let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
            for stage in ["fill", "clean", "killed"] {
                let mut child = std::process::Command::new(std::env::current_exe().unwrap());
                let child = child.env("QUEUE_BENCH_STAGE", stage).env("QUEUE_BENCH_DIR", dir.path());
                assert!(child.status().unwrap().success());
            }
        }
    }
}

fn perform(stage: &str, dir: &Path, jobs: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let journal = JournalOptions::folder(dir);
    let (before, started) = (resident(), Instant::now());
    if stage == "fill" {
        runtime.block_on(fill(&journal, jobs));
        let rate = jobs as f64 / started.elapsed().as_secs_f64();
        println!(r#"{{"name":"journal_fill","value":{rate:.0},"unit":"jobs/s"}}"#);
        return;
    }
    let provider = MemoryProvider::open(&journal, Env::system()).unwrap();
    let (took, cpu) = (started.elapsed().as_secs_f64(), processor());
    let found = provider.recovery().unwrap();
    assert_eq!((found.jobs, found.clean), (jobs, stage == "clean"));
    let bytes = resident().saturating_sub(before) / jobs;
    println!(
        r#"{{"name":"journal_open_{stage}","value":{took:.2},"unit":"s","processor":{cpu:.2},"bytes_per_job":{bytes}}}"#
    );
    runtime.block_on(provider.note("k", "v", Durability::Synced)).unwrap();
    provider.abandon();
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

/// Seconds of it, so far.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.split(' ').skip(13).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
