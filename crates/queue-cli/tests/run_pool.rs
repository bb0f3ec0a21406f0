//! `queue run` with processes that stay, with limits, and with the handlers of the book.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use std::{process::Command, time::Duration};

use bench::{Bench, all, eventually, is_gone, statuses};
use serde_json::{Value, json};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/run");

/// Echoes each payload.
const ECHO: &str = r#"while read -r line; do id=${line#*'"id":"'}; id=${id%%'"'*}; payload=${line##*'"payload":'}
    printf '{"id":"%s","result":%s\n' "$id" "$payload"; done; echo "$$" >> left"#;

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_key(|row| row["line"].as_u64());
    rows
}

#[allow(clippy::disallowed_methods, reason = "real processes live in real time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn the_handlers_of_the_book_do_what_they_say() {
    let bench = Bench::new();
    let input = "{\"payload\":{\"text\":\"one two  three\"}}\n{\"payload\":\"one\",\"content_type\":\"text/plain\"}\n\
                 {\"payload\":{\"no\":1}}\n{\"payload\":\"four five\"}\n";
    for (interpreter, ending) in [("python3", "py"), ("bash", "sh"), ("node", "mjs")] {
        if Command::new(interpreter).arg("--version").output().is_err() {
            eprintln!("left out: there is no {interpreter}");
            continue;
        }
        for (name, mode) in [("pool", "pool"), ("oneshot", "oneshot")] {
            let handler = format!("{EXAMPLES}/{name}-handler.{ending}");
            let rows = sorted(bench.rows_of(input, &["--exec", &format!("'{handler}'"), "--exec-mode", mode]));
            assert_eq!(all(&rows, "status"), ["completed", "completed", "dead", "completed"], "{handler}: {rows:?}");
            let words: Vec<_> = rows.iter().map(|row| row["result"]["words"].clone()).collect();
            assert_eq!(words, [json!(3), json!(1), Value::Null, json!(2)], "{handler}");
            assert_eq!(rows[2]["attempts"], 1, "{handler}: it is not to be retried");
        }
    }
}

#[test]
fn jobs_share_as_many_processes_as_were_asked_for_and_these_end_with_the_run() {
    let bench = Bench::new();
    let input: String = (0..200).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    let rows = sorted(bench.rows_of(input, &["--shell", "--exec", ECHO, "--exec-mode", "pool", "-j", "3"]));
    assert_eq!(rows.len(), 200);
    assert!(rows.iter().zip(0..).all(|(row, n)| row["result"] == json!(n) && row["attempts"] == 1));
    let left = bench.read("left");
    assert_eq!(left.lines().count(), 3, "they saw the end of their input: {left:?}");
    let rows = bench.rows_of(
        "{\"payload\":1}\n".repeat(10),
        &["--shell", "--exec", &format!("rm -f left; {ECHO}"), "--exec-mode", "pool", "-j", "1", "--max-jobs", "4"],
    );
    assert_eq!(statuses(&rows), [("completed", 10)].into());
}

#[test]
fn a_process_that_crashes_costs_its_job_an_attempt_and_nobody_else() {
    let bench = Bench::new();
    let script = r#"echo $$ >> pids; while read -r line; do case $line in *'"attempt":1,'*'"crash"'*) exit 4;; esac
        id=${line#*'"id":"'}; printf '{"id":"%s","result":1}\n' "${id%%'"'*}"; done"#;
    let input: String =
        (0..60).map(|n| if n % 20 == 7 { "{\"payload\":\"crash\"}\n" } else { "{\"payload\":1}\n" }).collect();
    let args = ["--shell", "--exec", script, "--exec-mode", "pool", "-j", "2", "--backoff", "none"];
    let rows = sorted(bench.rows_of(input, &args));
    assert_eq!(statuses(&rows), [("completed", 60)].into());
    let attempts: u64 = rows.iter().map(|row| row["attempts"].as_u64().unwrap()).sum();
    assert_eq!(attempts, 63);
    assert!(rows.iter().zip(0..).all(|(row, n)| row["attempts"] == if n % 20 == 7 { 2 } else { 1 }));
    let pids = bench.read("pids");
    assert!((3..=5).contains(&pids.lines().count()), "{pids}");
    assert!(eventually(|| pids.split_whitespace().all(is_gone)), "{pids}");
}

#[test]
fn a_second_interrupt_leaves_no_process() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n{\"payload\":1}\n");
    let script = "trap '' TERM; sleep 81 & echo $$ $! >> pids; read -r line; sleep 82";
    let child = bench.spawn(&["jobs", "--shell", "--exec", script, "--exec-mode", "pool", "-j", "2"]);
    let lines = bench.lines_appear("pids", 2);
    bench::signal(child.id(), "INT");
    pause(Duration::from_millis(300));
    bench::signal(child.id(), "INT");
    let ended = bench::finish(child);
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(eventually(|| lines.iter().flat_map(|line| line.split_whitespace()).all(is_gone)), "{lines:?}");
}

#[test]
fn a_pool_that_cannot_start_ends_the_run() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n");
    bench.write("foreign", b"\x7FELF\x02\x01\x01\0nothing that runs here");
    Command::new("chmod").arg("+x").arg(bench.path("foreign")).status().unwrap();
    let ended = bench.run(&["jobs", "--exec", "./foreign", "--exec-mode", "pool"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.starts_with("error: --exec: \"./foreign\" is no program for this machine"), "{ended:?}");
}

#[test]
fn limits_are_named_where_they_are_reached() {
    let bench = Bench::new();
    for mode in ["oneshot", "pool"] {
        let script = r#"read -r line; case $line in
            *spin*) while :; do :; done;;
            *leak*) exec awk 'BEGIN { s = "x"; while (length(s) < 1073741824) s = s s; exit 9 }';;
            esac; exit 0"#;
        let input = "{\"payload\":\"spin\"}\n{\"payload\":\"leak\"}\n";
        let args = ["--shell", "--exec", script, "--exec-mode", mode, "--max-attempts", "1"];
        let limits = ["--cpu-limit", "1s", "--memory-limit", "128MiB", "--max-open-files", "64"];
        let rows = sorted(bench.rows_of(input, &[&args[..], &limits].concat()));
        assert_eq!(rows[0]["error"]["code"], "CPU_TIME_LIMIT", "{mode}: {rows:?}");
        let message = rows[1]["error"]["message"].as_str().unwrap();
        assert!(message.ends_with("(its limits: 128 MiB of memory, 64 open files)"), "{mode}: {message}");
    }
}

/// In a mount namespace of its own, where no cgroup can be written to.
#[test]
fn a_limit_that_cannot_be_kept_is_refused_by_name() {
    let bench = Bench::new();
    bench.write("jobs", "{\"payload\":1}\n");
    let script = "for place in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts); do \
                  mount -o remount,bind,ro \"$place\" || exit 99; done; exec \"$0\" run \"$@\"";
    let queue = env!("CARGO_BIN_EXE_queue");
    let args = ["jobs", "--exec", "true", "--max-processes", "9", "--results", "rows"];
    let ran =
        Command::new("unshare").args(["-m", "sh", "-c", script, queue]).args(args).current_dir(bench.path("")).output();
    match ran {
        Ok(output) if !matches!(output.status.code(), Some(99 | 1)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(
                said.starts_with("error: --max-processes: the number of processes cannot be limited here: "),
                "{said}"
            );
            assert!(said.contains("rlimits count per user and do not bind root"), "{said}");
            assert!(!bench.path("rows").exists());
        }
        _ => eprintln!("left out: no mount namespace can be made here"),
    }
}

#[test]
fn a_crowd_of_processes_stops_at_the_limit() {
    let bench = Bench::new();
    // Should the limit fail, it ends by itself.
    let script = "bomb() { [ $1 = 0 ] || { bomb $(($1 - 1)) | bomb $(($1 - 1)) & }; }; bomb 7; sleep 0.5; exit 3";
    bench.write("jobs", "{\"payload\":1}\n");
    let args =
        ["jobs", "--shell", "--exec", script, "--max-processes", "12", "--max-attempts", "1", "--results", "rows"];
    let ended = bench.run(&args);
    if ended.stderr.starts_with("error: --max-processes: ") {
        eprintln!("left out: {}", ended.stderr);
        return;
    }
    let row = &bench.rows("rows")[0];
    assert_eq!(row["error"]["code"], "PROCESS_LIMIT", "{row}");
    // Status 3, or 2 where the first shell itself was refused: whoever comes when the crowd is full.
    let message = row["error"]["message"].as_str().unwrap();
    assert!(message.contains("; it was refused another process") && message.ends_with("at its limit of 12"), "{row}");
}

#[test]
fn a_handler_may_answer_with_any_code() {
    let bench = Bench::new();
    let handler = r#"while read -r line; do id=${line#*'"id":"'}; id=${id%%'"'*}
        printf '{"id":"%s","error":{"code":"CONFIG","message":"no settings","retryable":false}}\n' "$id"; done"#;
    let input = "{\"payload\":1}\n{\"payload\":2}\n";
    let rows = bench.rows_of(input, &["--shell", "--exec", handler, "--exec-mode", "pool", "-j", "1"]);
    assert_eq!(all(&rows, "status"), ["dead", "dead"], "it is the job's failure, and ends no run: {rows:?}");
    assert_eq!(rows[0]["error"]["code"], "CONFIG");
}

#[test]
fn explaining_all_the_time_leaves_time_for_the_run() {
    let bench = Bench::new();
    let args = ["-", "--lines", "--exec", "sleep 0.3", "-j", "1", "--explain=1us", "--results", "rows"];
    let ended = bench.run_on(b"1\n2\n", &args);
    assert_eq!(all(&bench.rows("rows"), "status"), ["completed", "completed"], "{ended:?}");
}
