//! The tracking store's suite on a plain reference store, so that the suite itself is known to be satisfiable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod reference_store;

use std::sync::Arc;

use queue_core::{Env, Timestamp};
use queue_testkit::{
    conformance::tracking::run_tracking_suite,
    harness::{Factory, StoreUnderTest},
};
use reference_store::ReferenceStore;

fn main() {
    let factory = Factory::new("reference", true, || async {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        Ok(Arc::new(StoreUnderTest { store: Arc::new(ReferenceStore::new(env.clone())), env }))
    });
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), run_tracking_suite(&factory)).exit();
}
