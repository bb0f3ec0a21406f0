//! What outliving the process costs: `cargo xtask bench journal`.
//!
//! The baseline is redb as it is: one thread that inserts rows of the same size, as many a commit, and commits in the same
//! way, in a file of its own on the same disk. Rows that are compared are medians of runs that alternate.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use queue_core::{
    Env, JobId, QueueName, QueueProvider, QueueSpec,
    job::{Envelope, JobKind},
    provider::{ConsumeOptions, Consumer, Disposition, Durability, PublishOptions, Settlement},
};
use queue_memory::{JournalOptions, MemoryProvider};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const RUNS: usize = 5;
const PAYLOAD: usize = 200;
const BATCH: u64 = 100;
/// Batches a run.
const BATCHES: u64 = 500;
const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let benches: [(&str, fn(&Runtime)); 3] = [
        ("journal_synced", |runtime| runtime.block_on(synced())),
        ("two_phase_cost", |_| two_phase()),
        ("journal_many", many),
    ];
    for (name, bench) in benches {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            bench(&runtime);
        }
    }
}

/// The provider's publish, each batch awaited, against the library.
async fn synced() {
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let dir = folder();
        let provider = open(dir.path());
        declare(&provider).await;
        let started = Instant::now();
        publish(&provider, BATCHES, BATCH).await;
        values.push(rate(BATCHES * BATCH, started));
        provider.close().await.unwrap();
        baselines.push(raw(BATCHES, row_len(dir.path()), true));
    }
    compared("journal_synced", median(values), "jobs/s", median(baselines));
}

/// What a power loss in the middle of a commit costs to be told from damage: the library in two phases against one.
fn two_phase() {
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        baselines.push(raw(BATCHES, 300, false));
        values.push(raw(BATCHES, 300, true));
    }
    compared("two_phase_cost", median(values), "rows/s", median(baselines));
}

/// A queue in which a million jobs wait: what a job costs then, and how long opening it takes.
fn many(runtime: &Runtime) {
    let dir = folder();
    let provider = open(dir.path());
    runtime.block_on(declare(&provider));
    let consumer = runtime.block_on(provider.consumer(&queue(), ConsumeOptions::new("bench", 100))).unwrap();
    runtime.block_on(publish(&provider, FEW / BATCH, BATCH));
    let few = runtime.block_on(lives(&provider, &*consumer));
    runtime.block_on(publish(&provider, (MANY - FEW) / 1_000, 1_000));
    let many = runtime.block_on(lives(&provider, &*consumer));
    compared("journal_flat_1m", many, "jobs/s", few);
    // As a process that was killed leaves it.
    let killed = folder();
    std::fs::copy(dir.path().join("journal.redb"), killed.path().join("journal.redb")).unwrap();
    runtime.block_on(async {
        consumer.close(Duration::ZERO).await;
        provider.close().await.unwrap();
    });
    drop((provider, consumer));
    let (seconds, bytes) = start_up(dir.path());
    compared("journal_startup_1m", seconds, "s", 5.0);
    alone("journal_startup_1m_memory", bytes / MANY as f64, "B/job");
    compared("journal_startup_1m_killed", start_up(killed.path()).0, "s", 5.0);
    let file = std::fs::metadata(dir.path().join("journal.redb")).unwrap().len();
    alone("journal_file_1m", file as f64 / MANY as f64, "B/job");
}

/// How long opening takes, and by how much the process grows.
fn start_up(dir: &Path) -> (f64, f64) {
    let before = resident_bytes();
    let started = Instant::now();
    let provider = open(dir);
    let seconds = started.elapsed().as_secs_f64();
    assert!(provider.recovery().unwrap().jobs >= MANY);
    (seconds, resident_bytes() - before)
}

fn queue() -> QueueName {
    QueueName::from_static("bench")
}

/// On the disk of the build, as temporary folders often are in memory.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(dir: &Path) -> MemoryProvider {
    MemoryProvider::open(&JournalOptions::folder(dir), Env::system()).unwrap()
}

async fn declare(provider: &MemoryProvider) {
    let mut spec = QueueSpec::new(queue());
    spec.durability = Some(Durability::Synced);
    spec.max_len = None;
    provider.declare(&spec).await.unwrap();
}

async fn publish(provider: &MemoryProvider, batches: u64, batch: u64) {
    let (env, kind) = (Env::system(), JobKind::from_static("bench"));
    for _ in 0..batches {
        let now = env.now();
        let job = |_| Envelope::builder(JobId::fresh_at(now, &*env.random), kind.clone(), vec![7; PAYLOAD], now).seal();
        let jobs = (0..batch).map(job).collect();
        let outcomes = provider.publish(&queue(), jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{:?}", outcomes[0]);
    }
}

/// Whole lives in batches, all synced: published, fetched, settled.
async fn lives(provider: &MemoryProvider, consumer: &dyn Consumer) -> f64 {
    let started = Instant::now();
    for _ in 0..BATCHES {
        publish(provider, 1, BATCH).await;
        let deliveries = consumer.fetch(BATCH as usize, Duration::from_secs(1)).await.unwrap();
        assert_eq!(deliveries.len() as u64, BATCH);
        let done = |delivery: &queue_core::provider::Delivery| {
            Settlement::new(delivery.receipt, Disposition::Complete { result: None })
        };
        let settlements: Vec<_> = deliveries.iter().map(done).collect();
        assert!(consumer.settle(&settlements).await.iter().all(|outcome| outcome.is_settled()));
    }
    rate(BATCHES * BATCH, started)
}

const KEY: usize = 12;
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("jobs");

/// Rows of `len` bytes, key included, as many a commit as a batch has jobs.
fn raw(batches: u64, len: usize, two_phase: bool) -> f64 {
    let dir = folder();
    let database = Database::create(dir.path().join("raw.redb")).unwrap();
    let value = vec![7; len - KEY];
    let started = Instant::now();
    for first in (0..batches * BATCH).step_by(BATCH as usize) {
        let mut write = database.begin_write().unwrap();
        write.set_two_phase_commit(two_phase);
        {
            let mut rows = write.open_table(ROWS).unwrap();
            for n in first..first + BATCH {
                let mut key = [0; KEY];
                key[KEY - 8..].copy_from_slice(&n.to_be_bytes());
                rows.insert(&key[..], value.as_slice()).unwrap();
            }
        }
        write.commit().unwrap();
    }
    rate(batches * BATCH, started)
}

/// What a job's row takes in a closed journal, key included.
fn row_len(dir: &Path) -> usize {
    let database = Database::open(dir.join("journal.redb")).unwrap();
    let rows = database.begin_read().unwrap().open_table(ROWS).unwrap();
    let (key, value) = rows.first().unwrap().unwrap();
    key.value().len() + value.value().len()
}

fn compared(name: &str, value: f64, unit: &str, baseline: f64) {
    let ratio = value / baseline;
    println!(r#"{{"name":"{name}","value":{value:.2},"unit":"{unit}","baseline":{baseline:.2},"ratio":{ratio:.3}}}"#);
}

fn alone(name: &str, value: f64, unit: &str) {
    println!(r#"{{"name":"{name}","value":{value:.1},"unit":"{unit}","baseline":null,"ratio":null}}"#);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(jobs: u64, started: Instant) -> f64 {
    jobs as f64 / started.elapsed().as_secs_f64()
}

/// From `/proc`, so that no crate is needed; zero elsewhere than on Linux.
fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(0.0, |kib| kib * 1024.0)
}
