//! Programs as they are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use bench::{Bench, all, eventually, is_gone};
use serde_json::json;

fn payloads(count: usize) -> String {
    "{\"payload\":0}\n".repeat(count)
}

#[test]
fn stdin_that_nobody_reads_is_no_failure() {
    let bench = Bench::new();
    let input = format!("{{\"payload\":\"{}\"}}\n", "x".repeat(900_000)).repeat(20);
    let rows = bench.rows_of(input, &["--exec", "true"]);
    assert!(rows.len() == 20 && rows.iter().all(|row| row["status"] == "completed" && row["attempts"] == 1));
}

#[test]
fn too_much_output_kills_and_is_not_retried() {
    let bench = Bench::new();
    let rows = bench.rows_of(payloads(2), &["--shell", "--exec", "head -c 104857600 /dev/zero; sleep 99"]);
    for row in &rows {
        assert_eq!((&row["status"], &row["attempts"]), (&json!("dead"), &json!(1)));
        assert_eq!(row["error"]["code"], "PAYLOAD_TOO_LARGE");
    }
    let rows = bench
        .rows_of(payloads(1), &["--shell", "--exec", "head -c 2000000 /dev/zero | tr '\\0' x", "--max-output", "2MB"]);
    assert_eq!(rows[0]["result"].as_str().unwrap().len(), 2_000_000);
}

#[test]
fn at_the_timeout_nothing_is_left() {
    let bench = Bench::new();
    let script = "trap '' TERM; sleep 91 & (sleep 92; :) & echo $$ $! >> pids; echo hung >&2; sleep 93";
    let args = ["--shell", "--exec", script, "--timeout", "400ms", "--max-attempts", "2", "--backoff", "none"];
    let rows = bench.rows_of(payloads(2), &args);
    for row in &rows {
        assert_eq!((&row["status"], &row["attempts"]), (&json!("dead"), &json!(2)));
        assert_eq!((&row["error"]["code"], &row["error"]["detail"]), (&json!("TIMEOUT"), &json!("hung")));
        assert!(row["run_ms"].as_u64().unwrap() >= 800 && row["run_ms"].as_u64().unwrap() < 5_000, "{row}");
    }
    let pids = bench.read("pids");
    assert_eq!(pids.lines().count(), 4);
    assert!(eventually(|| pids.split_whitespace().all(is_gone)), "{pids}");
}

/// The end of a program wakes none of the command's threads, and the program knows nothing of that.
#[test]
#[cfg(target_os = "linux")]
fn the_signal_of_a_programs_end_is_blocked_in_the_command_alone() {
    let bench = Bench::new();
    let script =
        "cat /proc/$PPID/task/*/status /proc/$$/status | sed -n 's/^SigBlk:.*\\(.\\)....$/\\1/p' | tr -d '\\n'";
    let rows = bench.rows_of(payloads(1), &["--shell", "--exec", script]);
    // A number or a text, as the digits come.
    let result = rows[0]["result"].to_string();
    let digits = result.trim_matches('"');
    let (command, program) = digits.split_at(digits.len() - 1);
    // Its bit is the lowest of that digit. A thread that is just starting a program blocks others as well.
    let is_blocked = |digit: char| digit.to_digit(16).is_some_and(|bits| bits & 1 == 1);
    assert!(command.len() > 1 && command.chars().all(is_blocked) && program == "0", "{rows:?}");
}

#[test]
fn what_a_program_leaves_behind_dies_with_it() {
    let bench = Bench::new();
    let rows = bench.rows_of(payloads(3), &["--shell", "--exec", "sleep 94 & echo $! >> pids"]);
    assert!(rows.iter().all(|row| row["status"] == "completed" && row["run_ms"].as_u64() < Some(5_000)));
    let pids = bench.read("pids");
    assert!(eventually(|| pids.split_whitespace().all(is_gone)), "{pids}");
}

#[test]
fn the_timeout_of_a_line_beats_that_of_the_run() {
    let bench = Bench::new();
    let input = "{\"payload\":1,\"timeout\":\"200ms\",\"max_attempts\":1}\n{\"payload\":2}\n";
    let mut rows = bench.rows_of(input, &["--exec", "sleep 1", "-j", "2"]);
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "status"), ["dead", "completed"]);
}

#[test]
fn a_killed_program_is_retried() {
    let bench = Bench::new();
    let script = "test $QUEUE_ATTEMPT -gt 1 || kill -9 $$; echo $QUEUE_ATTEMPT of $QUEUE_MAX_ATTEMPTS";
    let rows =
        bench.rows_of(payloads(1), &["--shell", "--exec", script, "--backoff", "fixed:20ms", "--max-attempts", "7"]);
    assert_eq!((&rows[0]["attempts"], &rows[0]["result"]), (&json!(2), &json!("2 of 7")));
    let rows = bench.rows_of(payloads(1), &["--shell", "--exec", "kill -9 $$", "--max-attempts", "1"]);
    assert_eq!(rows[0]["error"]["message"], "killed by signal 9");
}

#[test]
fn the_environment_names_the_job() {
    let bench = Bench::new();
    let script = "echo $QUEUE_NAME $QUEUE_KIND $QUEUE_JOB_ID";
    let input = "{\"payload\":1,\"kind\":\"mail\"}\n{\"payload\":1}\n";
    let mut rows = bench.rows_of(input, &["--shell", "--exec", script, "--queue", "post"]);
    rows.sort_by_key(|row| row["line"].as_u64());
    for (row, kind) in rows.iter().zip(["mail", "exec"]) {
        assert_eq!(row["result"], format!("post {kind} {}", row["id"].as_str().unwrap()));
    }
}

#[test]
fn exits_decide() {
    let bench = Bench::new();
    let cases = [("0", 0, "completed", 1), ("65", 1, "dead", 1), ("1", 1, "dead", 2), ("127", 1, "dead", 2)];
    for (exit, code, status, attempts) in cases {
        bench.write("jobs", payloads(1));
        let script = format!("exit {exit}");
        let args = ["jobs", "--shell", "--exec", &script, "--max-attempts", "2", "--backoff", "none"];
        let ended = bench.run(&[&args[..], &["--results", "rows", "--force"]].concat());
        assert_eq!(ended.code, Some(code), "{exit}");
        let row = &bench.rows("rows")[0];
        assert_eq!((&row["status"], &row["attempts"]), (&json!(status), &json!(attempts)), "{exit}");
    }
}

#[test]
fn a_program_that_cannot_start_ends_the_run_before_any_job_is_blamed() {
    let bench = Bench::new();
    bench.write("jobs", payloads(50));
    // Found and executable, but for another machine: only the start tells.
    bench.write("foreign", b"\x7FELF\x02\x01\x01\0nothing that runs here");
    std::fs::set_permissions(bench.path("foreign"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ended = bench.run(&["jobs", "--exec", "./foreign", "--results", "rows"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.starts_with("error: --exec: \"./foreign\" is no program for this machine"), "{ended:?}");
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{ended:?}");
    let rows = bench.rows("rows");
    assert_eq!(rows.len(), 50);
    assert!(rows.iter().all(|row| row["status"] == "aborted" && row["attempts"] == 0));
    assert!(ended.took < Duration::from_secs(20), "{ended:?}");

    let ended = bench.run(&["jobs", "--exec", "./no-such-program", "--results", "none"]);
    assert_eq!(ended.code, Some(2));
    assert!(!bench.path("none").exists());
}
