//! The conformance suite: one property of [`queue_core::provider`] a case.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use queue_testkit::{conformance::run_suite, harness::{Factory, Harness}};
//! # fn my_harness() -> Arc<dyn Harness> { unimplemented!() }
//! // tests/conformance.rs, with `harness = false` in Cargo.toml
//! let factory = Factory::new("mine", false, || async { Ok(my_harness()) });
//! libtest_mimic::run(&libtest_mimic::Arguments::from_args(), run_suite(&factory)).exit();
//! ```

mod case;
mod context;
mod run;

mod admin;
mod claim;
mod dead_letter;
mod delay;
mod expiry;
mod flow;
mod follow_up;
mod hostile;
mod lease;
mod lifecycle;
mod load;
mod order;
mod park;
mod partitions;
mod publish;
mod refusal;
mod retry;
mod settle;
mod shutdown;
mod store;
mod theft;
mod topics;
pub mod tracking;
mod unique;
mod waiting;
mod watch;

pub use case::{Case, Failed, Need, Outcome};
pub use context::Ctx;
pub use run::{is_asked_for, run_case, run_suite, survey, unavailable};

/// Every case, theme by theme.
pub fn all_cases() -> impl Iterator<Item = &'static Case> {
    let themes: [&'static [Case]; 24] = [
        publish::CASES,
        unique::CASES,
        claim::CASES,
        settle::CASES,
        retry::CASES,
        delay::CASES,
        expiry::CASES,
        dead_letter::CASES,
        follow_up::CASES,
        lease::CASES,
        order::CASES,
        partitions::CASES,
        park::CASES,
        waiting::CASES,
        topics::CASES,
        flow::CASES,
        shutdown::CASES,
        admin::CASES,
        refusal::CASES,
        store::CASES,
        watch::CASES,
        lifecycle::CASES,
        hostile::CASES,
        load::CASES,
    ];
    themes.into_iter().flatten()
}

/// The case of that name.
#[must_use]
pub fn find_case(name: &str) -> Option<&'static Case> {
    all_cases().find(|case| case.name == name)
}
