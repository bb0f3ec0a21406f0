//! Results, dead letters and the summary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use std::{fs, process::Stdio, time::Duration};

use bench::{Bench, finish, statuses};
use serde_json::json;

#[test]
fn an_existing_file_is_refused_unless_forced() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n");
    bench.write("rows", "precious");
    let ended = bench.run(&["jobs", "--exec", "cat", "--results", "rows"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("--force"), "{ended:?}");
    assert_eq!(bench.read("rows"), "precious");
    let ended = bench.run(&["jobs", "--exec", "cat", "--results", "rows", "--force"]);
    assert_eq!((ended.code, bench.rows("rows").len()), (Some(0), 1));
}

#[test]
fn the_dead_can_be_fed_in_again() {
    let bench = Bench::new();
    let input = "{\"payload\":\"good\"}\n{\"payload\":{\"a\":1.0},\"priority\":9,\"_note\":\"x\"}\nbroken\n";
    let script = "read -r p; case $p in *a*) exit 65;; esac";
    let rows = bench.rows_of(input, &["--shell", "--exec", script, "--dead", "dead"]);
    assert_eq!(statuses(&rows), [("completed", 1), ("dead", 1), ("invalid", 1)].into());
    let dead = bench.rows("dead");
    assert_eq!(dead.len(), 2);
    let job = dead.iter().find(|row| row.get("payload").is_some()).unwrap();
    assert_eq!(
        (&job["priority"], &job["_note"], &job["_error"]["message"]),
        (&json!(9), &json!("x"), &json!("exit status 65"))
    );

    // Mended: the cause is gone, and the broken line is taken out.
    let mended: String =
        bench.read("dead").lines().filter(|line| !line.contains("_raw")).map(|l| format!("{l}\n")).collect();
    let rows = bench.rows_of(mended, &["--exec", "cat"]);
    assert_eq!((rows.len(), &rows[0]["status"], &rows[0]["result"]), (1, &json!("completed"), &json!({"a": 1.0})));

    // A line of text dies and comes back as the same text.
    bench.rows_of("say \"x\"", &["--lines", "--exec", "false", "--max-attempts", "1", "--dead", "dead"]);
    let rows = bench.rows_of(bench.read("dead"), &["--exec", "cat"]);
    assert_eq!(rows[0]["result"], "say \"x\"");
}

#[test]
fn a_full_disk_is_said_and_ends_the_run() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n".repeat(3_000));
    for option in ["--results", "--dead"] {
        let ended = bench.run(&["jobs", "--exec", "false", "--max-attempts", "1", option, "/dev/full"]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("error: cannot write to \"/dev/full\""), "{ended:?}");
        assert!(ended.stderr.contains("No space left"), "{ended:?}");
        assert_eq!(ended.stderr.matches("error:").count(), 1, "{ended:?}");
        assert!(ended.took < Duration::from_secs(30), "{ended:?}");
    }
}

#[test]
fn the_last_rows_are_not_lost_silently() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n");
    // So little that it fits the buffer: only the flush at the end fails.
    let ended = bench.run(&["jobs", "--exec", "true", "--results", "/dev/full"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("cannot write"), "{ended:?}");
}

#[test]
fn a_reader_that_leaves_ends_the_run() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n".repeat(3_000));
    let mut child = bench.spawn(&["jobs", "--exec", "true", "--results", "/dev/stdout"]);
    drop(child.stdout.take());
    let ended = finish(child);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("Broken pipe"), "{ended:?}");

    let mut child = bench.command(&["jobs", "--exec", "true", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = finish(child);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("cannot write the summary"), "{ended:?}");

    let mut child = bench.spawn(&["jobs", "--exec", "true"]);
    drop(child.stderr.take());
    assert_eq!(finish(child).code, Some(0), "nobody needs to read stderr");
}

#[test]
fn a_slow_reader_holds_the_run_and_loses_nothing() {
    let bench = Bench::new();
    bench.write("jobs", format!("{{\"payload\":\"{}\"}}\n", "x".repeat(60_000)).repeat(400));
    let mut child = bench.spawn(&["jobs", "--exec", "cat", "--results", "/dev/stdout", "--timeout", "1s", "--quiet"]);
    // Longer than any timeout: nothing may be blamed on the jobs.
    std::thread::park_timeout(Duration::from_secs(9));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let ended = finish(child);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 400);
}

#[test]
fn the_summary_is_for_people_or_for_machines() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n{\"payload\":2}\n{}\n");
    let people = bench.run(&["jobs", "--exec", "cat"]);
    assert_eq!((people.code, people.stdout.as_str()), (Some(1), ""));
    for word in ["3 lines in", "jobs/s", "completed", "invalid", "p99", "wait", "run"] {
        assert!(people.stderr.contains(word), "{word}: {}", people.stderr);
    }
    let machines = bench.run(&["jobs", "--exec", "cat", "--json"]);
    assert_eq!((machines.code, machines.stderr.as_str()), (Some(1), ""));
    let summary: serde_json::Value = serde_json::from_str(&machines.stdout).unwrap();
    assert_eq!((&summary["completed"], &summary["invalid"], &summary["lines"]), (&json!(2), &json!(1), &json!(3)));
    assert!(summary["run_ms"]["p50"].as_f64().unwrap() > 0.0);
    let quiet = bench.run(&["jobs", "--exec", "cat", "--quiet"]);
    assert_eq!((quiet.code, quiet.stdout.as_str(), quiet.stderr.as_str()), (Some(1), "", ""));
}

#[test]
fn an_unknown_provider_is_named_with_those_there_are() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n");
    let ended = bench.run(&["jobs", "--exec", "cat", "--provider", "zebra://host", "--results", "rows"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("zebra") && ended.stderr.contains("memory"), "{ended:?}");
    assert!(!bench.path("rows").exists());
    assert_eq!(fs::read_dir(bench.path(".")).unwrap().count(), 1);
}
