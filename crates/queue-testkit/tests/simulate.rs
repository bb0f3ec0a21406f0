//! The simulator on the worlds of this crate: `cargo xtask simulate`.

use std::process::ExitCode;

fn main() -> ExitCode {
    queue_testkit::simulation::perform(&queue_testkit::simulation::worlds(), 400)
}
