//! Ctrl-C, SIGTERM, and what is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use std::{process::Stdio, time::Duration};

use bench::{Bench, Ended, eventually, finish, is_gone, signal, statuses};
use serde_json::Value;

const SCRIPT: &str = "echo $$ >> started; sleep 1.5; echo $$ >> finished";

/// Starts a hundred jobs, two at a time, and sends these signals once two run.
fn interrupted(bench: &Bench, script: &str, signals: &[&str]) -> (Ended, Vec<Value>) {
    bench.write("jobs", "{\"payload\":1}\n".repeat(100));
    let child = bench.spawn(&["jobs", "--shell", "--exec", script, "-j", "2", "--results", "rows"]);
    bench.lines_appear("started", 2);
    for name in signals {
        signal(child.id(), name);
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let ended = finish(child);
    let rows = bench.rows("rows");
    assert_eq!(rows.len(), 100);
    let mut lines: Vec<_> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, (1..=100).collect::<Vec<_>>());
    (ended, rows)
}

#[test]
fn the_first_lets_finish_what_runs() {
    for name in ["INT", "TERM"] {
        let bench = Bench::new();
        let (ended, rows) = interrupted(&bench, SCRIPT, &[name]);
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stderr.contains("2 running programs may finish"), "{ended:?}");
        assert_eq!(statuses(&rows), [("aborted", 98), ("completed", 2)].into());
        let waiting = rows.iter().filter(|row| row["status"] == "aborted");
        assert!(waiting.into_iter().all(|row| row["attempts"] == 0 && row["error"]["code"] == "CANCELLED"));
        assert_eq!(bench.read("finished").lines().count(), 2);
        assert_eq!(bench.read("started").lines().count(), 2, "nothing else was started");
    }
}

#[test]
fn the_second_kills_it() {
    let bench = Bench::new();
    let (ended, rows) = interrupted(&bench, "sleep 95 & echo $$ $! >> started; sleep 96", &["INT", "INT"]);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.took < Duration::from_secs(20), "{ended:?}");
    assert_eq!(statuses(&rows), [("aborted", 100)].into());
    let ran: Vec<_> = rows.iter().filter(|row| row["attempts"] == 1).collect();
    assert!(ran.len() == 2 && ran.iter().all(|row| row["run_ms"].as_u64() > Some(100)), "{ran:?}");
    let pids = bench.read("started");
    assert!(eventually(|| pids.split_whitespace().all(is_gone)), "{pids}");
}

#[test]
fn a_failure_while_draining_is_not_retried() {
    let bench = Bench::new();
    let (ended, rows) = interrupted(&bench, "echo x >> started; sleep 1; exit 1", &["INT"]);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert_eq!(statuses(&rows), [("aborted", 100)].into());
    let ran: Vec<_> = rows.iter().filter(|row| row["attempts"] == 1).collect();
    assert_eq!(ran.len(), 2);
    assert!(ran[0]["error"]["detail"].as_str().unwrap().contains("exit status 1"), "{}", ran[0]);
}

#[test]
fn what_is_stuck_is_explained_when_asked_for() {
    let bench = Bench::new();
    let jobs = [
        r#"{"payload": "fail", "max_attempts": 2, "backoff": "fixed:60s", "priority": 9}"#,
        r#"{"payload": "sleep"}"#,
        r#"{"payload": "sleep"}"#,
        r#"{"payload": "sleep", "delay": "1h"}"#,
    ];
    let script = r#"read -r job; echo x >> started; case $job in *fail*) exit 3;; *) sleep 60;; esac"#;
    for (option, asked) in [(&["--json"][..], true), (&["--quiet", "--explain=300ms"][..], false)] {
        bench.write("jobs", jobs.join("\n"));
        bench.write("started", "");
        let child = bench.spawn(&[&["jobs", "--shell", "--exec", script, "-j", "1"][..], option].concat());
        bench.lines_appear("started", 2);
        for name in [if asked { "QUIT" } else { "CONT" }, "INT", "INT"] {
            std::thread::park_timeout(Duration::from_millis(500));
            signal(child.id(), name);
        }
        let ended = finish(child);
        let said =
            |line: &str| ended.stderr.lines().find(|said| said.trim_start().starts_with(line)).unwrap_or_default();
        assert!(ended.stderr.contains("1 running, 3 waiting"), "{ended:?}");
        assert!(said("line 2 runs for").ends_with("attempt 1"), "{ended:?}");
        let retried = said("line 1 waits: attempt 2 waits until 20");
        assert!(retried.contains("exit status 3"), "{ended:?}");
        assert!(said("line 3 waits:").contains("it is fetched; the next free slot takes it"), "{ended:?}");
        assert!(said("line 4 waits: it is delayed until 20").contains('T'), "{ended:?}");
    }
}

#[test]
fn an_input_that_never_ends_does_not_hold_it() {
    let bench = Bench::new();
    let mut command =
        bench.command(&["-", "--lines", "--shell", "--exec", "cat; echo x >> started", "--results", "rows"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, b"one\n").unwrap();
    bench.lines_appear("started", 1);
    signal(child.id(), "INT");
    let ended = finish(child);
    drop(pipe);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.took < Duration::from_secs(20), "{ended:?}");
    assert_eq!(bench.rows("rows").len(), 1);
}

#[test]
fn an_output_that_nobody_reads_does_not_hold_the_second() {
    let bench = Bench::new();
    bench.write("jobs", "x\n".repeat(5_000));
    let args = ["jobs", "--lines", "--shell", "--exec", "echo $$ >> started; head -c 30000 /dev/zero | tr '\\0' x"];
    let mut child = bench.spawn(&[&args[..], &["--results", "/dev/stdout", "-j", "2"]].concat());
    // Held, unread.
    let stdout = child.stdout.take();
    bench.lines_appear("started", 20);
    std::thread::park_timeout(Duration::from_millis(500));
    signal(child.id(), "INT");
    std::thread::park_timeout(Duration::from_millis(300));
    signal(child.id(), "INT");
    let ended = finish(child);
    drop(stdout);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.took < Duration::from_secs(20), "{ended:?}");
    assert!(ended.stderr.contains("takes no more rows"), "{ended:?}");
}

#[test]
fn a_pipe_that_nobody_opens_does_not_hold_it() {
    let bench = Bench::new();
    assert!(std::process::Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
    let child = bench.spawn(&["pipe", "--exec", "true", "--results", "rows"]);
    std::thread::park_timeout(Duration::from_millis(500));
    signal(child.id(), "INT");
    let ended = finish(child);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.took < Duration::from_secs(20) && !bench.path("rows").exists(), "{ended:?}");
}
