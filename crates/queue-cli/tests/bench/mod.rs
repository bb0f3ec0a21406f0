//! Runs the binary in a directory of its own, and reads what it left.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

pub(crate) struct Bench(tempfile::TempDir);

/// How the binary ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// Longer than any test; a run that takes it hangs.
const HANGS: Duration = Duration::from_secs(240);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `queue run`, in the directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_queue"));
        command.current_dir(self.0.path()).arg("run").args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        finish(self.spawn(args))
    }

    /// With this on its stdin.
    pub(crate) fn run_on(&self, stdin: &[u8], args: &[&str]) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let bytes = stdin.to_vec();
        let writer = thread::spawn(move || pipe.write_all(&bytes));
        let ended = finish(child);
        let _ = writer.join().unwrap();
        ended
    }

    /// Runs these lines and returns how each ended, in the order they did.
    pub(crate) fn rows_of(&self, input: impl AsRef<[u8]>, args: &[&str]) -> Vec<Value> {
        self.write("jobs", input);
        let mut all = vec!["jobs", "--results", "rows", "--force", "--quiet"];
        all.extend(args);
        let ended = self.run(&all);
        assert!(ended.stderr.is_empty(), "{ended:?}");
        self.rows("rows")
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the file has so many lines.
    pub(crate) fn lines_appear(&self, name: &str, lines: usize) -> Vec<String> {
        let written = || fs::read_to_string(self.path(name)).unwrap_or_default();
        assert!(eventually(|| written().lines().count() >= lines), "{name}: {}", written());
        written().lines().map(str::to_owned).collect()
    }
}

/// Waits for its end.
#[allow(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) fn finish(child: Child) -> Ended {
    let begun = Instant::now();
    let (id, (done, still)) = (child.id(), std::sync::mpsc::channel());
    let watchdog = thread::spawn(move || {
        if still.recv_timeout(HANGS) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            signal(id, "KILL");
        }
    });
    let output = child.wait_with_output().unwrap();
    drop::<std::sync::mpsc::Sender<()>>(done);
    watchdog.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let took = begun.elapsed();
    Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr), took }
}

pub(crate) fn signal(process: u32, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &process.to_string()]).status().unwrap();
    assert!(status.success(), "{process} is gone");
}

#[allow(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > Duration::from_secs(30) {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Whether no process of this number runs; a zombie does not.
pub(crate) fn is_gone(process: &str) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", process]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    state.is_empty() || state.starts_with('Z')
}

/// How many rows have which status.
pub(crate) fn statuses(rows: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row["status"].as_str().unwrap()).or_default() += 1;
    }
    counts
}

/// A member of each row.
pub(crate) fn all<'a>(rows: &'a [Value], member: &str) -> Vec<&'a Value> {
    rows.iter().map(|row| &row[member]).collect()
}
