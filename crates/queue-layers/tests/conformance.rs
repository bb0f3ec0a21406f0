//! The conformance suite on the tracked layer over each of the three model transports, with each store, under virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod pairing;

use std::sync::Arc;

use queue_memory::MemoryTracking;
use queue_testkit::{
    conformance::run_suite,
    harness::{Factory, Harness},
    models::{LogModel, PushModel, VisibilityModel},
};

/// Each shape with the store that the last argument makes.
macro_rules! over_each_model {
    ($store:literal, $make:expr) => {
        [
            pairing::factory(concat!("tracked_push+", $store), || PushModel::default().into(), $make),
            pairing::factory(concat!("tracked_log+", $store), || LogModel::default().into(), $make),
            pairing::factory(concat!("tracked_visibility+", $store), || VisibilityModel::default().into(), $make),
        ]
    };
}

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let factories: Vec<Factory<dyn Harness>> =
        over_each_model!("memory", |env| Arc::new(MemoryTracking::with_env(env.clone()))).into();
    let trials = factories.iter().flat_map(run_suite).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
