//! What a program finds ignored: what this process ignores, but for SIGPIPE.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{future::pending, process::Command};

use queue_process::{Execution, Program};

/// Set where this test runs in a process of its own, to what that one ignores.
const IGNORED: &str = "TEST_IGNORED";
/// As `/proc` counts signals.
const PIPE: u64 = 1 << 12;
/// The C library's own.
const INTERNAL: u64 = 0b11 << 31;

fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & !INTERNAL
}

async fn ignored_in(program: Program) -> u64 {
    let finished = program.run(Execution::default(), pending()).await.unwrap();
    ignored(std::str::from_utf8(&finished.stdout).unwrap())
}

#[tokio::test]
async fn what_is_ignored_stays_ignored() {
    let Ok(expected) = std::env::var(IGNORED) else { return in_processes_of_their_own() };
    let expected = expected.parse::<u64>().unwrap();
    assert_eq!(ignored(&std::fs::read_to_string("/proc/self/status").unwrap()), expected | PIPE);
    let status = || Program::new("cat").args(["/proc/self/status"]);
    assert_eq!(ignored_in(status()).await, expected);
    // This one is not started the cheap way.
    assert_eq!(ignored_in(status().directory("/")).await, expected);
}

/// A process cannot ignore signals by safe means; a shell can for the one that it becomes.
fn in_processes_of_their_own() {
    // The last one has no name.
    for (trap, expected) in [(":", 0), ("trap '' HUP USR1", 1 | 1 << 9), ("trap '' HUP 40", 1 | 1 << 39)] {
        let mut test = Command::new("bash");
        test.args(["-c", &format!("{trap}; exec \"$0\" --exact what_is_ignored_stays_ignored")]);
        let ended =
            test.arg(std::env::current_exe().unwrap()).env(IGNORED, u64::to_string(&expected)).output().unwrap();
        assert!(ended.status.success(), "{trap}: {}", String::from_utf8_lossy(&ended.stdout));
    }
}
