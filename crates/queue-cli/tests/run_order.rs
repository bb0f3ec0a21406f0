//! Who runs when, and who does not run at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use std::fmt::Write as _;

use bench::{Bench, all, statuses};
use serde_json::json;

#[test]
fn jobs_start_strictly_by_priority_and_first_in_first_out_within_it() {
    let bench = Bench::new();
    let mut input = String::new();
    let mut expected: Vec<(u64, u64)> = Vec::new();
    for line in 1..=1_500 {
        let priority = line * 37 % 15 + 1;
        expected.push((15 - priority, line));
        writeln!(input, "{{\"payload\":{line},\"priority\":{priority}}}").unwrap();
    }
    expected.sort_unstable();
    let rows = bench.rows_of(input, &["--exec", "true", "-j", "1"]);
    let ended: Vec<u64> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(ended, expected.into_iter().map(|(_, line)| line).collect::<Vec<_>>());
}

#[test]
fn a_file_is_lined_up_before_the_first_job_starts() {
    let bench = Bench::new();
    // So large that reading takes longer than starting.
    let mut input = format!("{{\"payload\":\"{}\"}}\n", "x".repeat(100_000)).repeat(300);
    input.push_str("{\"payload\":\"urgent\",\"priority\":15}\n");
    let rows = bench.rows_of(input, &["--exec", "true", "-j", "1"]);
    assert_eq!((rows.len(), &rows[0]["line"]), (301, &json!(301)));
}

#[test]
fn a_delay_is_kept_and_is_no_wait() {
    let bench = Bench::new();
    let input = "{\"payload\":1,\"delay\":\"700ms\",\"priority\":15}\n{\"payload\":2,\"priority\":1}\n\
                 {\"payload\":3,\"delay\":\"300ms\"}\n{\"payload\":4}\n";
    bench.write("jobs", input);
    let ended = bench.run(&["jobs", "--exec", "true", "-j", "1", "--results", "rows"]);
    let rows = bench.rows("rows");
    assert_eq!(all(&rows, "line"), [4, 2, 3, 1]);
    assert!(ended.took.as_millis() >= 700, "{ended:?}");
    assert!(rows.iter().all(|row| row["wait_ms"].as_u64() < Some(300)), "{rows:?}");
}

#[test]
fn a_job_that_waited_too_long_expires() {
    let bench = Bench::new();
    let input = "{\"payload\":\"slow\",\"priority\":15}\n{\"payload\":1,\"ttl\":\"200ms\"}\n\
                 {\"payload\":2,\"ttl\":\"1m\"}\n{\"payload\":3,\"ttl\":\"300ms\",\"delay\":\"20s\"}\n";
    bench.write("jobs", input);
    let script = "read -r p; case $p in *slow*) sleep 1;; esac";
    let ended = bench.run(&["jobs", "--shell", "--exec", script, "-j", "1", "--results", "rows"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let mut rows = bench.rows("rows");
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "status"), ["completed", "expired", "completed", "expired"]);
    assert_eq!((&rows[1]["attempts"], &rows[1]["error"]["code"]), (&json!(0), &json!("EXPIRED")));
    assert!(ended.took.as_secs() < 10, "its delay is not waited for: {ended:?}");
}

#[test]
fn many_that_expire_at_once_all_get_their_row() {
    let bench = Bench::new();
    let rows = bench.rows_of("{\"payload\":1,\"ttl\":\"1ms\",\"delay\":\"1h\"}\n".repeat(12_345), &["--exec", "true"]);
    assert_eq!(statuses(&rows), [("expired", 12_345)].into());
}

#[test]
fn a_unique_key_is_run_once() {
    let bench = Bench::new();
    let input = "{\"payload\":1,\"unique_key\":\"a\"}\n{\"payload\":2,\"unique_key\":\"b\"}\n\
                 {\"payload\":3,\"unique_key\":\"a\"}\n{\"payload\":4}\n{\"payload\":5,\"unique_key\":\"a\"}\n";
    bench.write("jobs", input);
    let ended = bench.run(&["jobs", "--shell", "--exec", "cat >> ran", "--results", "rows"]);
    assert_eq!(ended.code, Some(0), "duplicates are no failure: {ended:?}");
    let mut rows = bench.rows("rows");
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "status"), ["completed", "completed", "duplicate", "completed", "duplicate"]);
    let ran = bench.read("ran");
    assert!(ran.len() == 3 && ran.contains('1') && ran.contains('2') && ran.contains('4'), "{ran}");
}

#[test]
fn backoff_is_kept_between_attempts() {
    let bench = Bench::new();
    let input = "{\"payload\":1}\n{\"payload\":2,\"backoff\":\"none\",\"max_attempts\":2}\n";
    bench.write("jobs", input);
    let args = ["jobs", "--exec", "false", "--max-attempts", "3", "--backoff", "fixed:400ms", "--results", "rows"];
    let ended = bench.run(&args);
    assert_eq!(ended.code, Some(1));
    let rows = bench.rows("rows");
    assert_eq!((all(&rows, "line"), all(&rows, "attempts")), (vec![&json!(2), &json!(1)], vec![&json!(2), &json!(3)]));
    assert!(ended.took.as_millis() >= 800 && ended.took.as_secs() < 10, "{ended:?}");
}
