//! The tracking store's suite: on the store in memory, and on a plain reference, so that the suite itself is known to be
//! satisfiable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod reference_store;

use std::sync::Arc;

use queue_core::{Env, Timestamp, store::TrackingStore};
use queue_memory::MemoryTracking;
use queue_testkit::{
    conformance::tracking::run_tracking_suite,
    harness::{Factory, StoreUnderTest},
};
use reference_store::ReferenceStore;

fn main() {
    let reference = factory("reference", |env| Arc::new(ReferenceStore::new(env)));
    let memory = factory("memory", |env| Arc::new(MemoryTracking::with_env(env)));
    let trials = [reference, memory].iter().flat_map(run_tracking_suite).collect();
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials).exit();
}

fn factory(name: &'static str, make: fn(Env) -> Arc<dyn TrackingStore>) -> Factory<StoreUnderTest> {
    Factory::new(name, true, move || async move {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        Ok(Arc::new(StoreUnderTest { store: make(env.clone()), env }))
    })
}
