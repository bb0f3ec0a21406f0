//! SIGCHLD blocked in this process's threads, and in no program.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{future::pending, thread};

use queue_process::{Execution, Program, block_sigchld};

/// As `/proc` counts signals.
const SIGCHLD: u64 = 1 << 16;

/// What a thread or program blocks, by its status.
fn blocked(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

fn blocked_here() -> u64 {
    blocked(&std::fs::read_to_string("/proc/thread-self/status").unwrap())
}

async fn blocked_in(program: Program) -> u64 {
    let finished = program.run(Execution::default(), pending()).await.unwrap();
    blocked(std::str::from_utf8(&finished.stdout).unwrap())
}

#[test]
fn programs_take_it_although_those_who_start_them_do_not() {
    thread::spawn(|| {
        assert_eq!(blocked_here() & SIGCHLD, 0);
        assert!(block_sigchld());
        assert!(!block_sigchld(), "it is blocked already");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let status = || Program::new("cat").args(["/proc/self/status"]);
            assert_eq!(blocked_in(status()).await & SIGCHLD, 0);
            // This one is not started the cheap way.
            assert_eq!(blocked_in(status().directory("/")).await & SIGCHLD, 0);
            assert_eq!(blocked_here() & SIGCHLD, SIGCHLD);
        });
    })
    .join()
    .unwrap();
}
