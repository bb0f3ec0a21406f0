//! The journal against the library it is made of: `cargo xtask bench journal`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]
#![allow(dead_code, unused_imports, unreachable_pub, reason = "the room is included as it is")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use redb::{Database, Durability, TableDefinition};

#[path = "../src/journal/mod.rs"]
mod journal;

use journal::{Batch, Journal, Options, Table, Urgency, key};

const VALUE: usize = 280;
const BATCH: u64 = 100;
const RUNS: usize = 5;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let batches = 300;
    let (mut room, mut raw, mut one) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        raw.push(raw_redb(batches, true));
        room.push(runtime.block_on(room_level(batches)));
        one.push(raw_redb(batches, false));
    }
    let (room, raw, one) = (median(room), median(raw), median(one));
    print_row("journal_synced", room, "jobs/s", raw);
    print_row("two_phase_cost", raw, "jobs/s", one);
    runtime.block_on(large());
}

async fn large() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (journal, _) = Journal::open(dir.path(), &Options::default(), |_| Ok(())).unwrap();
    let mut n = 0;
    for step in 0..10 {
        let started = Instant::now();
        for i in 0..1_000 {
            let mut batch = Batch::new();
            for _ in 0..BATCH {
                n += 1;
                batch.put(Table::Jobs, &key(1, n), &[7; VALUE]);
            }
            let ticket = journal.append(&batch, Urgency::Within(Duration::from_secs(1)));
            if journal.ready().is_err() {
                journal.committed(ticket).await.unwrap();
            }
        }
        let t = journal.append(&Batch::new(), Urgency::Now);
        println!("{step}: 100k in {:?}", started.elapsed());
    }
    journal.close().await.unwrap();
    println!("{} MB", std::fs::metadata(dir.path().join("journal.redb")).unwrap().len() >> 20);
    for how in ["clean", "killed"] {
        let started = Instant::now();
        let mut bytes = 0;
        let (journal, recovered) = Journal::open(dir.path(), &Options::default(), |row| {
            bytes += row.value.len();
            Ok(())
        })
        .unwrap();
        println!("opened {how} {recovered:?} in {:?} {bytes}", started.elapsed());
        std::fs::copy(dir.path().join("journal.redb"), dir.path().join("copy")).unwrap();
        journal.abandon();
        std::fs::rename(dir.path().join("copy"), dir.path().join("journal.redb")).unwrap();
    }
}

async fn room_level(batches: u64) -> f64 {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (journal, _) = Journal::open(dir.path(), &Options::default(), |_| Ok(())).unwrap();
    let started = Instant::now();
    for n in 0..batches {
        let mut batch = Batch::new();
        for i in 0..BATCH {
            batch.put(Table::Jobs, &key(1, n * BATCH + i), &[7; VALUE]);
        }
        let ticket = journal.append(&batch, Urgency::Now);
        journal.committed(ticket).await.unwrap();
    }
    let rate = rate(batches * BATCH, started);
    journal.close().await.unwrap();
    rate
}

fn raw_redb(batches: u64, two_phase: bool) -> f64 {
    const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let database = Database::create(dir.path().join("raw.redb")).unwrap();
    let started = Instant::now();
    for n in 0..batches {
        let mut write = database.begin_write().unwrap();
        write.set_two_phase_commit(two_phase);
        {
            let mut table = write.open_table(ROWS).unwrap();
            for i in 0..BATCH {
                table.insert(&key(1, n * BATCH + i)[..], &[7; VALUE + 16][..]).unwrap();
            }
        }
        write.commit().unwrap();
    }
    rate(batches * BATCH, started)
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
