//! The tracking store's suite: on the store in memory, on the same on a disk and in a folder, and on a plain reference, so that
//! the suite itself is known to be satisfiable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod reference_store;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use queue_core::{Env, Result, Timestamp, store::TrackingStore};
use queue_memory::{Disk, MemoryTracking, TrackingLimits};
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
    Factory::new("disk", true, || async {
        let (env, disk) = (env(), Disk::new());
        let inside = env.clone();
        tested(env, move || {
            let (disk, env) = (disk.clone(), inside.clone());
            Box::pin(async move { MemoryTracking::open_on(&disk, env, TrackingLimits::default()).await })
        })
        .await
    })
}

/// In a folder, with its own thread, in real time.
fn folder() -> Factory<StoreUnderTest> {
    Factory::new("folder", false, || async {
        let (env, dir) = (Env::system(), Arc::new(tempfile::tempdir().unwrap()));
        let inside = env.clone();
        tested(env, move || {
            // It goes with the last store in it.
            let (dir, env) = (Arc::clone(&dir), inside.clone());
            Box::pin(
                async move { MemoryTracking::open(PathBuf::from(dir.path()), env, TrackingLimits::default()).await },
            )
        })
        .await
    })
}

async fn tested(
    env: Env,
    open: impl Fn() -> BoxFuture<'static, Result<MemoryTracking>> + Send + Sync + 'static,
) -> Result<Arc<StoreUnderTest>> {
    let first = open().await?;
    let (current, open) = (Arc::new(Mutex::new(first.clone())), Arc::new(open));
    let restart: Restart = Arc::new(move |ending| {
        let (current, open) = (Arc::clone(&current), Arc::clone(&open));
        Box::pin(async move {
            let old = current.lock().unwrap().clone();
            match ending {
                Ending::Orderly => old.close().await?,
                Ending::Crash => old.crash(),
            }
            let next = open().await?;
            *current.lock().unwrap() = next.clone();
            Ok(Arc::new(next) as Arc<dyn TrackingStore>)
        })
    });
    Ok(Arc::new(StoreUnderTest { store: Arc::new(first), env, restart: Some(restart) }))
}
