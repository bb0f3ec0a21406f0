//! The conformance suite on the embedded provider with a journal, whose process is killed and begins again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod journal_harness;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, queue_testkit::conformance::run_suite(&journal_harness::factory())).exit();
}
