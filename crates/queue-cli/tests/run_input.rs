//! Inputs as they come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use bench::{Bench, all, statuses};
use serde_json::json;

#[test]
fn nothing_is_nothing_to_do() {
    let bench = Bench::new();
    for input in ["", "\n", "\r\n \n\t\n"] {
        bench.write("jobs", input);
        let ended = bench.run(&["jobs", "--exec", "false", "--results", "rows", "--force"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.starts_with("0 lines in "), "{ended:?}");
        assert_eq!(bench.read("rows"), "");
    }
}

#[test]
fn line_breaks_of_every_kind() {
    let bench = Bench::new();
    let input = "{\"payload\":1}\r\n\r\n{\"payload\":\"a\\r\"}\n\u{20}{\"payload\":3}\u{20}\r\n{\"payload\":4}";
    let mut rows = bench.rows_of(input, &["--exec", "cat"]);
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "line"), [1, 3, 4, 5]);
    assert_eq!(all(&rows, "result"), [&json!(1), &json!("a\r"), &json!(3), &json!(4)]);
    assert_eq!(statuses(&rows)["completed"], 4);

    let mut rows = bench.rows_of("\u{FEFF}one\r\n\ntwo words\nthree", &["--exec", "cat", "--lines"]);
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "result"), ["one", "two words", "three"]);
}

#[test]
fn what_is_no_job_is_said_and_the_rest_runs() {
    let bench = Bench::new();
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(2_000));
    let input = [
        b"{\"payload\":1}",
        long.as_bytes(),
        b"{\"payload\":\"\xFF\"}",
        b"{\"payload\":1,\"prioritty\":3}",
        b"{\"payload\":1,\"_note\":3}",
        b"{\"priority\":3}",
        b"[1]",
        b"not json",
        b"{\"payload\":1,\"priority\":16}",
        b"{\"payload\":1,\"delay\":\"soon\"}",
    ];
    let mut rows = bench.rows_of(input.join(&b'\n'), &["--exec", "cat", "--max-line", "1KiB", "--dead", "dead"]);
    rows.sort_by_key(|row| row["line"].as_u64());
    let completed: Vec<_> = rows.iter().filter(|row| row["status"] == "completed").map(|row| &row["line"]).collect();
    assert_eq!(completed, [1, 5]);
    let said = [
        (2, "2014 bytes"),
        (3, "not UTF-8"),
        (4, "\"prioritty\""),
        (6, "no \"payload\""),
        (7, "not a JSON object"),
        (8, "not JSON"),
        (9, "1 to 15"),
        (10, "not a duration"),
    ];
    for (line, what) in said {
        let row = &rows[line - 1];
        let message = row["error"]["message"].as_str().unwrap();
        assert_eq!((&row["status"], &row["attempts"], &row["id"]), (&json!("invalid"), &json!(0), &json!(null)));
        assert!(message.contains(what), "{message}");
    }
    assert_eq!(bench.rows("dead").len(), 8);
}

#[test]
fn a_line_of_exactly_the_limit_is_run() {
    let bench = Bench::new();
    let line = format!("{{\"payload\":\"{}\"}}", "x".repeat((3 << 20) - 14));
    let rows = bench.rows_of(format!("{line}\r\n"), &["--exec", "wc -c", "--max-line", "3MiB"]);
    assert_eq!((&rows[0]["status"], &rows[0]["result"]), (&json!("completed"), &json!((3 << 20) - 12)));
    let rows = bench.rows_of(&line, &["--exec", "wc -c"]);
    assert_eq!(rows[0]["status"], "invalid");
}

#[test]
fn stdin_is_an_input() {
    let bench = Bench::new();
    let args = ["-", "--lines", "--exec", "cat", "--results", "rows", "--quiet"];
    let ended = bench.run_on(b"a\nb\n\nc", &args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut rows = bench.rows("rows");
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "result"), ["a", "b", "c"]);
}

#[test]
fn a_stream_is_worked_off_while_it_is_written() {
    let bench = Bench::new();
    let mut command = bench.command(&["-", "--lines", "--shell", "--exec", "cat >> seen", "--quiet"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for line in 1..=3 {
        std::io::Write::write_all(&mut pipe, format!("{line}\n").as_bytes()).unwrap();
        std::io::Write::flush(&mut pipe).unwrap();
        let wanted: String = (1..=line).map(|n| n.to_string()).collect();
        assert!(bench::eventually(|| std::fs::read_to_string(bench.path("seen")).is_ok_and(|seen| seen == wanted)));
    }
    drop(pipe);
    assert_eq!(bench::finish(child).code, Some(0));
}

#[test]
fn strict_stops_at_the_first_invalid_line() {
    let bench = Bench::new();
    let input = "{\"payload\":1}\n{}\n{\"payload\":3}\n{}\n";
    let mut rows = bench.rows_of(input, &["--exec", "cat", "--strict"]);
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(all(&rows, "line"), [1, 2]);
    assert_eq!(all(&rows, "status"), ["completed", "invalid"]);
}

#[test]
fn text_is_read_without_its_quotes_and_json_as_it_is_written() {
    let bench = Bench::new();
    let input = "{\"payload\": {\"n\": 1.50,  \"s\": \"\\u00e9\"}}\n\
                 {\"payload\":\"say \\\"hi\\\"\",\"content_type\":\"text/plain\"}\n";
    bench.rows_of(input, &["--shell", "--exec", "cat; echo", "-j", "1"]);
    let rows = bench.read("rows");
    assert!(rows.contains(r#""result":{"n": 1.50,  "s": "\u00e9"},"#), "{rows}");
    assert!(rows.contains(r#""result":"say \"hi\"","#), "{rows}");
}
