//! An input larger than memory goes through `queue run` in bounded memory.
//!
//! Scale 1 is 3 GB in lines of 256 KiB. Run it with `cargo xtask soak run`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

const BYTES: f64 = 3e9;
const LINE: usize = 256 << 10;
/// 64 MiB of window, as much of finished jobs and results on their way, 20 MB of unique keys, and the process itself.
const MOST_KIB: u64 = 300 << 10;

/// The binary, built as this test is: Cargo tells only a package's own tests where its programs are.
fn queue() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--package", "queue-cli", "--bin", "queue", "--message-format=json-render-diagnostics"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let artifacts =
        output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let built = artifacts.filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from)).last();
    built.expect("cargo names the executable")
}

/// Generated as it is read: nothing of it is on disk.
fn generate(child: &mut Child, lines: u64) -> thread::JoinHandle<()> {
    let mut pipe = BufWriter::with_capacity(1 << 20, child.stdin.take().unwrap());
    thread::spawn(move || {
        let padding = "x".repeat(LINE - 200);
        for n in 1..=lines {
            // One in a hundred repeats a key, one in fifty always fails.
            let key = n - u64::from(n % 100 == 0);
            let priority = n % 15 + 1;
            let fails = n % 50 == 7;
            // One in fifteen comes back whole, so that large results are on their way too.
            let echo = n % 15 == 0;
            let head = format!(
                r#"{{"priority":{priority},"unique_key":"key-{key}","payload":{{"fails":{fails},"echo":{echo},"text":""#
            );
            pipe.write_all(head.as_bytes()).unwrap();
            pipe.write_all(padding.as_bytes()).unwrap();
            pipe.write_all(b"\"}}\n").unwrap();
        }
        pipe.flush().unwrap();
    })
}

/// The most memory it ever held, in KiB.
fn peak(child: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Waits for its end, and says how much memory it took at most.
fn watch(child: &mut Child) -> (Option<i32>, u64) {
    let mut most = 0;
    loop {
        most = most.max(peak(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code(), most);
        }
        thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

fn rows(path: &Path) -> impl Iterator<Item = serde_json::Value> {
    let file = BufReader::new(std::fs::File::open(path).unwrap());
    file.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

#[test]
#[ignore = "a soak: run it with `cargo xtask soak run`"]
fn an_input_larger_than_memory() {
    let scale: f64 = std::env::var("QUEUE_SOAK_SCALE").map_or(1.0, |scale| scale.parse().unwrap());
    let lines = ((BYTES * scale / LINE as f64) as u64).max(200);
    let queue = queue();
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path().join("results");
    let mut command = Command::new(queue);
    let script = r#"head=$(head -c 40); case $head in
        *'"fails":true'*) exit 1;;
        *'"echo":true'*) printf '%s' "$head"; cat;;
    esac"#;
    command.args(["run", "-", "--shell", "--exec", script, "--max-attempts", "2", "--backoff", "fixed:50ms", "--json"]);
    command.arg("--results").arg(&results).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let writer = generate(&mut child, lines);
    let (code, most) = watch(&mut child);
    writer.join().unwrap();
    let mut summary = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut summary).unwrap();
    println!("{lines} lines of {} KiB: {} MiB at most; {summary}", LINE >> 10, most >> 10);

    assert_eq!(code, Some(1), "some always fail");
    let mut seen = vec![false; lines as usize];
    for row in rows(&results) {
        let n = row["line"].as_u64().unwrap();
        assert!(!std::mem::replace(&mut seen[n as usize - 1], true), "line {n} twice");
        let (status, attempts) = match n {
            n if n % 100 == 0 => ("duplicate", 0),
            n if n % 50 == 7 => ("dead", 2),
            _ => ("completed", 1),
        };
        assert_eq!((row["status"].as_str(), row["attempts"].as_u64()), (Some(status), Some(attempts)), "line {n}");
    }
    assert!(seen.iter().all(|seen| *seen), "a line has no row");
    assert!(most > 0 && most < MOST_KIB, "{} MiB", most >> 10);
}
