//! Twenty thousand jobs, as they come in life.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use std::fmt::Write as _;

use bench::{Bench, statuses};

const JOBS: u64 = 20_000;

/// One in a hundred always fails, one in ten fails once.
fn attempts_of(line: u64) -> u64 {
    match line {
        line if line % 100 == 0 => 3,
        line if line % 10 == 5 => 2,
        _ => 1,
    }
}

const SCRIPT: &str = r#"read -r payload; case "$payload" in
    *always*) echo "as asked" >&2; exit 1;;
    *once*) test "$QUEUE_ATTEMPT" -gt 1;;
esac; exit $?"#;

#[test]
fn every_line_ends_once_with_the_right_attempts() {
    let bench = Bench::new();
    let mut jobs = String::new();
    for line in 1..=JOBS {
        let fails = ["never", "once", "always"][attempts_of(line) as usize - 1];
        let priority = line * 7 % 15 + 1;
        writeln!(jobs, r#"{{"payload":{{"n":{line},"fails":"{fails}"}},"priority":{priority}}}"#).unwrap();
    }
    bench.write("jobs", jobs);
    let ended = bench.run(&[
        "jobs",
        "--shell",
        "--exec",
        SCRIPT,
        "--max-attempts",
        "3",
        "--backoff",
        "fixed:10ms",
        "-j",
        "4",
        "--results",
        "rows",
        "--dead",
        "dead",
        "--json",
    ]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);

    let mut rows = bench.rows("rows");
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(rows.len() as u64, JOBS);
    for (row, line) in rows.iter().zip(1..) {
        let attempts = attempts_of(line);
        let status = if attempts == 3 { "dead" } else { "completed" };
        assert_eq!((row["line"].as_u64(), row["attempts"].as_u64()), (Some(line), Some(attempts)), "{row}");
        assert_eq!(row["status"], status, "{row}");
        assert_eq!(row.get("error").is_some(), attempts == 3, "{row}");
    }
    let mut ids: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, JOBS);
    assert_eq!(statuses(&rows)["dead"], 200);
    assert_eq!(bench.rows("dead").len(), 200);

    let summary: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&summary["completed"], &summary["dead"]), (&19_800.into(), &200.into()));
    assert_eq!((&summary["attempts"], &summary["exit_status"]), (&(19_800 + 2_000 + 600).into(), &1.into()));
}
