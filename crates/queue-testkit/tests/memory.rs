//! The conformance suite on the embedded provider, under virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod memory_harness;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(&arguments, queue_testkit::conformance::run_suite(&memory_harness::factory())).exit();
}
