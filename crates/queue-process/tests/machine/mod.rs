//! Looks at the machine's processes, as the tests need it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use queue_process::{Limits, Program};
use rustix::process::{Pid, Signal, test_kill_process, test_kill_process_group};

pub(crate) fn sh(script: &str) -> Program {
    Program::shell(script).unwrap()
}

pub(crate) fn limited(program: Program, timeout_ms: u64) -> Program {
    program.with_limits(Limits { timeout: Duration::from_millis(timeout_ms), ..Limits::default() })
}

#[allow(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) async fn stopwatch<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let output = work.await;
    (begun.elapsed(), output)
}

/// What this machine cannot show is told past the test harness, which would swallow it; CI must be able to.
pub(crate) fn leave_out(what: &str, why: &str) {
    use std::io::Write as _;
    let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
    assert!(!required, "left out: {what}: {why}");
    let _ = writeln!(std::io::stderr(), "left out: {what}: {why}");
}

pub(crate) fn pids_in(text: &[u8]) -> Vec<i32> {
    let text = String::from_utf8_lossy(text);
    text.split_whitespace().map(|word| word.parse().unwrap_or_else(|_| panic!("{word:?} in {text:?}"))).collect()
}

/// Neither these processes nor groups led by them run any more; a zombie does not run.
pub(crate) async fn gone(pids: &[i32]) -> bool {
    eventually(|| pids.iter().all(|pid| !runs(*pid) && !group_runs(*pid))).await
}

/// Nobody waits to be reaped under this number.
pub(crate) async fn reaped(pid: i32) -> bool {
    eventually(|| test_kill_process(Pid::from_raw(pid).unwrap()).is_err()).await
}

pub(crate) fn kill(pid: i32) {
    let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    for _ in 0..200 {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn runs(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok() && !is_zombie(pid)
}

fn group_runs(group: i32) -> bool {
    if test_kill_process_group(Pid::from_raw(group).unwrap()).is_err() {
        return false;
    }
    // The group still has members: do any of them run? (Killed orphans wait for init to reap them.)
    let output = std::process::Command::new("ps").args(["-A", "-o", "pgid=,stat="]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.next() == Some(&group.to_string()) && !columns.next().is_some_and(|state| state.starts_with('Z'))
    })
}

fn is_zombie(pid: i32) -> bool {
    let output = std::process::Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().starts_with('Z')
}

/// A directory for a test's own files, removed at its end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("queue-process-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
