//! The tracking store's suite: on the store in memory, on the same on a disk and in a folder, and on a plain reference, so that
//! the suite itself is known to be satisfiable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod reference_store;

use std::sync::{Arc, Mutex};

use queue_core::{Env, Result, Timestamp, store::TrackingStore};
use queue_memory::{JournalOptions, MemoryTracking, ModelDisk, TrackingLimits};
use queue_testkit::{
    conformance::tracking::run_tracking_suite,
    harness::{Ending, Factory, Restart, StoreUnderTest},
};
use reference_store::ReferenceStore;

fn main() {
    let reference = factory("reference", |env| Arc::new(ReferenceStore::new(env)));
    let memory = factory("memory", |env| Arc::new(MemoryTracking::with_env(env)));
    let mut trials: Vec<_> = [reference, memory, disk()].iter().flat_map(run_tracking_suite).collect();
    // The rest of it is about times, on which the folder has no bearing.
    trials.extend(run_tracking_suite(&folder()).into_iter().filter(|trial| trial.name().contains("::restart::")));
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit();
}

fn env() -> Env {
    Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7)
}

fn factory(name: &'static str, make: fn(Env) -> Arc<dyn TrackingStore>) -> Factory<StoreUnderTest> {
    Factory::new(name, true, move || async move {
        let env = env();
        Ok(Arc::new(StoreUnderTest { store: make(env.clone()), env, restart: None }))
    })
}

/// On a disk in memory, in virtual time.
fn disk() -> Factory<StoreUnderTest> {
    Factory::new("disk", true, || async { tested(env(), &JournalOptions::on_disk(&ModelDisk::new(), true), ()) })
}

/// In a folder, with its own thread, in real time.
fn folder() -> Factory<StoreUnderTest> {
    Factory::new("folder", false, || async {
        let dir = tempfile::tempdir().unwrap();
        tested(Env::system(), &JournalOptions::folder(dir.path()), dir)
    })
}

/// What the store stands on goes with its last restart.
fn tested<T: Send + Sync + 'static>(env: Env, journal: &JournalOptions, ground: T) -> Result<Arc<StoreUnderTest>> {
    let first = MemoryTracking::open(journal, env.clone(), TrackingLimits::default())?;
    let current = Arc::new((Mutex::new(first.clone()), ground));
    let (journal, inside) = (journal.clone(), env.clone());
    let restart: Restart = Arc::new(move |ending| {
        let (current, journal, env) = (Arc::clone(&current), journal.clone(), inside.clone());
        Box::pin(async move {
            let old = current.0.lock().unwrap().clone();
            match ending {
                Ending::Orderly => old.close().await?,
                Ending::Crash => old.abandon(),
            }
            let next = MemoryTracking::open(&journal, env, TrackingLimits::default())?;
            *current.0.lock().unwrap() = next.clone();
            Ok(Arc::new(next) as Arc<dyn TrackingStore>)
        })
    });
    Ok(Arc::new(StoreUnderTest { store: Arc::new(first), env, restart: Some(restart) }))
}
