//! `--journal`: a run that goes on where it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;
mod killed;

use std::{collections::BTreeMap, fs, process::Stdio, thread, time::Duration};

use bench::{Bench, Ended, all, finish, signal, statuses};
use killed::{Campaign, Dice, SmallDisk};
use serde_json::{Value, json};

const COUNT: &str = "read -r n; echo $n >> ran";

fn jobs(numbers: std::ops::RangeInclusive<u64>) -> String {
    numbers.map(|n| format!("{{\"payload\": {n}}}\n")).collect()
}

fn run(bench: &Bench, exec: &str, more: &[&str]) -> Ended {
    let args = ["jobs", "--journal", "journal", "--results", "rows", "--shell", "--exec", exec, "-j", "2"];
    bench.run(&[&args[..], more].concat())
}

fn lines(rows: &[Value]) -> Vec<u64> {
    let mut lines: Vec<u64> = rows.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    lines.sort_unstable();
    lines
}

/// Runs it until that many programs have started, then kills it.
fn killed_after(bench: &Bench, exec: &str, file: &str, started: usize, more: &[&str]) {
    let args = ["jobs", "--journal", "journal", "--results", "rows", "--shell", "--exec", exec, "-j", "2"];
    let child = bench.spawn(&[&args[..], more].concat());
    bench.lines_appear(file, started);
    // What has ended by now is to be on disk.
    thread::park_timeout(Duration::from_millis(500));
    signal(child.id(), "KILL");
    assert_eq!(finish(child).code, None);
}

#[test]
fn killed_ten_times_it_loses_nothing_and_repeats_nothing() {
    let mut dice = Dice::new();
    for pool in [false, true] {
        let bench = Bench::new();
        let longest = Duration::from_millis(400);
        let campaign = Campaign { jobs: 400, concurrency: 3, pool, longest, kills: 10, disk: None, look: true };
        let tally = campaign.fight(&bench, &mut dice);
        println!("{tally:?}");
    }
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let Some(disk) = SmallDisk::new(24) else { return };
    let bench = Bench::new();
    let campaign = Campaign {
        jobs: 200,
        concurrency: 3,
        pool: false,
        longest: Duration::from_millis(500),
        kills: 4,
        disk: Some(disk.path().to_owned()),
        look: false,
    };
    let tally = campaign.fight(&bench, &mut Dice::new());
    println!("{tally:?}: {}", bench.read("stderr"));
}

#[test]
fn a_full_disk_is_said_and_the_run_goes_on_by_itself() {
    let Some(disk) = SmallDisk::new(24) else { return };
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=300));
    let at = |name: &str| disk.path().join(name).display().to_string();
    let script = "read -r n; echo $n >> ran; sleep 0.05; echo $n";
    let args = ["jobs", "--journal", &at("journal"), "--results", &at("rows"), "--shell", "--exec", script, "-j", "2"];
    let child = bench.spawn(&args);
    bench.lines_appear("ran", 10);
    killed::fill(&disk.path().join("filler"));
    // What the journal's file has room for still runs.
    let ran = [3, 1].map(|seconds| {
        thread::park_timeout(Duration::from_secs(seconds));
        bench.read("ran").lines().count()
    });
    assert!(ran[0] == ran[1] && ran[0] < 300, "nothing new is started: {ran:?}");
    fs::remove_file(at("filler")).unwrap();
    let ended = finish(child);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("waiting: ") && ended.stderr.contains("full"), "{ended:?}");
    assert!(ended.stderr.contains("going on: "), "{ended:?}");
    assert_eq!(bench.read("ran").lines().count(), 300, "nothing ran twice");
    let rows = fs::read_to_string(at("rows")).unwrap();
    assert_eq!(rows.lines().count(), 300);
}

#[test]
fn a_finished_run_says_so_and_does_nothing() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=5) + "broken\n");
    let first = run(&bench, COUNT, &[]);
    assert_eq!((first.code, bench.rows("rows").len()), (Some(1), 6), "{first:?}");
    let rows = bench.read("rows");
    for options in [&[][..], &["--force"], &["--json"]] {
        let again = run(&bench, COUNT, options);
        assert_eq!(again.code, Some(1), "as the first time: {again:?}");
        assert_eq!(bench.read("rows"), rows);
        assert_eq!(bench.read("ran").lines().count(), 5, "nothing ran");
        if options == ["--json"] {
            let summary: Value = serde_json::from_str(&again.stdout).unwrap();
            assert_eq!((&summary["done_before"], &summary["completed"]), (&json!(6), &json!(5)), "{summary}");
            assert_eq!((&summary["attempts"], &summary["jobs_per_second"]), (&json!(5), &json!(0.0)), "{summary}");
        } else {
            assert!(again.stderr.contains("resumed: 6 done before"), "{again:?}");
            assert!(again.stderr.contains("all of it was done before"), "{again:?}");
        }
    }
}

#[test]
fn lines_may_be_appended() {
    let bench = Bench::new();
    let mut input = jobs(1..=3).trim_end().to_owned();
    bench.write("jobs", &input);
    assert_eq!(run(&bench, COUNT, &[]).code, Some(0));
    input += &format!("\n\n{}", jobs(5..=6));
    bench.write("jobs", &input);
    let ended = run(&bench, COUNT, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(lines(&bench.rows("rows")), [1, 2, 3, 5, 6], "the last line had no break when it was read");
    // And once more, with nothing new.
    assert_eq!(run(&bench, COUNT, &[]).code, Some(0));
    assert_eq!(bench.read("ran").lines().filter(|line| !line.is_empty()).count(), 5);
}

#[test]
fn what_was_in_flight_runs_again_and_what_was_done_does_not() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=6));
    let script = "read -r n; echo $n >> ran; [ $n -lt 3 ] || [ -e go ] || sleep 30; echo $n";
    killed_after(&bench, script, "ran", 4, &[]);
    bench.write("go", "");
    let ended = run(&bench, script, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut ran = BTreeMap::new();
    for line in bench.read("ran").lines() {
        *ran.entry(line.parse::<u64>().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(ran, [(1, 1), (2, 1), (3, 2), (4, 2), (5, 1), (6, 1)].into());
    let rows = bench.rows("rows");
    assert_eq!(lines(&rows), [1, 2, 3, 4, 5, 6]);
    assert!(rows.iter().all(|row| row["result"] == row["line"] && row["attempts"] == 1), "{rows:?}");
}

#[test]
fn attempts_and_keys_are_counted_over_all_lives() {
    let bench = Bench::new();
    let input = [
        r#"{"payload": "twice", "unique_key": "a"}"#,
        r#"{"payload": "slow"}"#,
        r#"{"payload": "again", "unique_key": "a"}"#,
        "broken",
    ];
    bench.write("jobs", input.join("\n") + "\n");
    let script = "read -r n; echo $n $QUEUE_ATTEMPT >> ran; [ $n = '\"slow\"' ] && [ ! -e go ] && sleep 30;
                  [ $n = '\"twice\"' ] && exit 1; true";
    killed_after(&bench, script, "ran", 2, &["--max-attempts", "2", "--backoff", "fixed:2s"]);
    bench.write("go", "");
    // Behind what was read: this key is known as well.
    bench.write("jobs", input.join("\n") + "\n{\"payload\": \"later\", \"unique_key\": \"a\"}\n");
    let ended = run(&bench, script, &["--max-attempts", "9", "--backoff", "none", "--dead", "dead"]);
    assert_eq!(ended.code, Some(2), "--dead was not given before: {ended:?}");
    let ended = run(&bench, script, &["--max-attempts", "9", "--backoff", "none"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let rows = bench.rows("rows");
    assert_eq!(statuses(&rows), [("completed", 1), ("dead", 1), ("duplicate", 2), ("invalid", 1)].into());
    let ran = bench.read("ran");
    let twice: Vec<&str> = ran.lines().filter(|line| line.contains("twice")).collect();
    assert_eq!(twice, ["\"twice\" 1", "\"twice\" 2"], "as it was submitted: {ran}");
}

#[test]
fn ctrl_c_leaves_a_run_that_goes_on() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=40));
    let script = "read -r n; echo $n >> ran; sleep 0.2";
    let mut lives = 0;
    loop {
        let args = ["jobs", "--journal", "journal", "--results", "rows", "--shell", "--exec", script, "-j", "4"];
        let child = bench.spawn(&args);
        lives += 1;
        if lives < 4 {
            bench.lines_appear("ran", 8 * lives);
            signal(child.id(), "INT");
            if lives == 3 {
                thread::park_timeout(Duration::from_millis(50));
                signal(child.id(), "INT");
            }
        }
        let ended = finish(child);
        if lives == 4 {
            assert_eq!(ended.code, Some(0), "{ended:?}");
            break;
        }
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stderr.contains("the same command goes on where it was"), "{ended:?}");
        let rows = bench.rows("rows");
        assert!(rows.iter().all(|row| row["status"] == "completed"), "nothing is aborted: {rows:?}");
    }
    assert_eq!(lines(&bench.rows("rows")), (1..=40).collect::<Vec<_>>());
    let ran = bench.read("ran").lines().count();
    assert!((40..=44).contains(&ran), "only what the second Ctrl-C cut off ran again: {ran}");
}

#[test]
fn without_results_the_counts_are_kept() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=20) + "broken\n");
    let script = "read -r n; echo $n >> ran; [ $n -lt 15 ] || [ -e go ] || sleep 30; [ $n != 4 ] || exit 65";
    let args = ["jobs", "--journal", "journal", "--shell", "--exec", script, "-j", "2", "--json"];
    let child = bench.spawn(&args);
    bench.lines_appear("ran", 16);
    // Long enough for the counts to be noted, of some of them.
    thread::park_timeout(Duration::from_millis(700));
    signal(child.id(), "KILL");
    finish(child);
    bench.write("go", "");
    let ended = bench.run(&args);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&summary["completed"], &summary["dead"], &summary["invalid"]), (&json!(19), &json!(1), &json!(1)));
    assert_eq!(summary["done_before"], json!(14 + 1), "{summary}");
    assert_eq!(bench.read("ran").lines().count(), 22);
}

#[test]
fn a_journal_has_one_process() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=2));
    let script = "echo x >> ran; sleep 8";
    let child = bench.spawn(&["jobs", "--journal", "journal", "--shell", "--exec", script]);
    bench.lines_appear("ran", 1);
    let second = bench.run(&["jobs", "--journal", "journal", "--shell", "--exec", script]);
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.stderr.contains("journal") && second.stderr.contains("open already"), "{second:?}");
    let second = bench.run(&["jobs", "--journal", "journal", "--fresh", "--shell", "--exec", script]);
    assert_eq!(second.code, Some(2), "not even --fresh: {second:?}");
    assert_eq!(finish(child).code, Some(0));
}

#[test]
fn fresh_begins_anew() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=3));
    let slow = "echo x >> ran; sleep 30";
    killed_after(&bench, slow, "ran", 2, &[]);
    bench.write("ran", "");
    let ended = run(&bench, COUNT, &["--fresh"]);
    assert_eq!(ended.code, Some(2), "the rows of the old run: {ended:?}");
    assert!(ended.stderr.contains("--force"), "{ended:?}");
    let ended = run(&bench, COUNT, &["--fresh", "--force"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("resumed"), "{ended:?}");
    assert_eq!(lines(&bench.rows("rows")), [1, 2, 3]);
    // Another input takes the directory over.
    bench.write("jobs", jobs(7..=8));
    assert_eq!(run(&bench, COUNT, &[]).code, Some(2));
    assert_eq!(run(&bench, COUNT, &["--fresh", "--force"]).code, Some(0));
    assert_eq!(lines(&bench.rows("rows")), [1, 2]);
    let ended = bench.run(&["jobs", "--fresh", "--exec", "cat"]);
    assert_eq!(ended.code, Some(2), "only with a journal");
}

#[test]
fn what_cannot_be_resumed_is_refused_with_what_to_do() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=9));
    assert!(std::process::Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
    let refused = |args: &[&str], said: &[&str]| {
        let ended = bench.run(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        for said in said {
            assert!(ended.stderr.contains(said), "{args:?}: {said:?}: {ended:?}");
        }
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    };
    let base = ["--journal", "journal", "--shell", "--exec", COUNT];
    refused(&[&["-"], &base[..]].concat(), &["stdin", "cannot be read again", "to a file first"]);
    refused(&[&["pipe"], &base[..]].concat(), &["a pipe"]);
    refused(&[&["jobs", "--provider", "redis://localhost"], &base[..]].concat(), &["--provider"]);
    refused(&[&["jobs", "--results", "/dev/stdout"], &base[..]].concat(), &["--results", "no file"]);
    refused(&[&["jobs", "--dead", "/dev/null"], &base[..]].concat(), &["--dead", "no file"]);
    refused(&[&["missing"], &base[..]].concat(), &["missing"]);
    assert!(!bench.path("journal").exists(), "nothing was begun");

    killed_after(&bench, "cat; echo x >> ran; sleep 30", "ran", 2, &[]);
    let base = ["--journal", "journal", "--results", "rows", "--shell", "--exec", COUNT];
    let good = [&["jobs"], &base[..]].concat();
    refused(&[&good[..], &["--lines"]].concat(), &["--lines was not given", "--fresh"]);
    refused(&[&good[..], &["--max-line", "2MiB"]].concat(), &["--max-line"]);
    refused(&[&good[..], &["--queue", "other"]].concat(), &["--queue was run"]);
    refused(&["jobs", "--journal", "journal", "--exec", "cat"], &["--results was \"rows\"", "not given"]);
    bench.write("other", jobs(2..=9));
    refused(&[&["other"], &base[..]].concat(), &["the run of \"jobs\"", "a directory of its own"]);
    // Lines that were read were edited; it begins as it did.
    let head: String = format!("{{\"payload\": \"{}\"}}\n", "x".repeat(70_000));
    for (name, edited) in [("edited", jobs(1..=9).replace('9', "8")), ("cut", jobs(1..=5))] {
        bench.write("long", head.clone() + &jobs(1..=9));
        let args = ["long", "--journal", name, "--shell", "--exec", "echo x >> ran2; sleep 30", "-j", "2"];
        bench.write("ran2", "");
        let child = bench.spawn(&args);
        bench.lines_appear("ran2", 2);
        signal(child.id(), "KILL");
        finish(child);
        bench.write("long", head.clone() + &edited);
        refused(&args, &["the input was changed", "bring them back"]);
        bench.write("long", head.clone() + &jobs(1..=9));
        let args = ["long", "--journal", name, "--shell", "--exec", "cat", "--quiet"];
        assert_eq!(bench.run(&args).code, Some(0), "nothing was harmed");
    }
    // Nor was the first one.
    assert_eq!(bench.run(&good).code, Some(0));
    assert_eq!(lines(&bench.rows("rows")), (1..=9).collect::<Vec<_>>());
}

#[test]
fn another_results_file_is_not_continued() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=3));
    assert_eq!(run(&bench, "cat", &[]).code, Some(0));
    let rows = bench.read("rows");
    fs::rename(bench.path("rows"), bench.path("away")).unwrap();
    let ended = run(&bench, "cat", &[]);
    assert!(ended.code == Some(2) && ended.stderr.contains("put it back"), "{ended:?}");
    bench.write("rows", &rows[..rows.len() / 2]);
    let ended = run(&bench, "cat", &[]);
    assert!(ended.code == Some(2) && ended.stderr.contains("not as this run has left it"), "{ended:?}");
    bench.write("rows", rows.replace("\"attempts\":1", "\"attempts\":2"));
    assert_eq!(run(&bench, "cat", &[]).code, Some(2));
    // What was added behind is cut, as a torn row would be; and it may have moved.
    bench.write("jobs", jobs(1..=4));
    fs::remove_file(bench.path("rows")).unwrap();
    bench.write("moved", rows.clone() + "{\"line\": 9");
    let args = ["jobs", "--journal", "journal", "--results", "moved", "--exec", "cat", "--quiet"];
    let ended = bench.run(&args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(all(&bench.rows("moved"), "line").len(), 4);
    assert!(bench.read("moved").starts_with(&rows));
}

#[test]
fn a_journal_that_cannot_be_used_is_refused() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=3));
    assert_eq!(run(&bench, "cat", &[]).code, Some(0));
    let file = fs::read_dir(bench.path("journal")).unwrap().map(|entry| entry.unwrap().path());
    let file = file.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 3]).unwrap();
    let ended = run(&bench, "cat", &[]);
    assert!(ended.code == Some(2) && ended.stderr.contains("journal"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    // A file of a run stands where the directory should be.
    let ended = bench.run(&["jobs", "--journal", "jobs", "--exec", "cat"]);
    assert!(ended.code == Some(2) && ended.stderr.contains("--journal"), "{ended:?}");
    assert_eq!(bench.read("jobs"), jobs(1..=3));
}

#[test]
fn a_strict_run_stops_at_the_same_line_again() {
    let bench = Bench::new();
    bench.write("jobs", jobs(1..=2) + "broken\n" + &jobs(4..=5));
    for _ in 0..2 {
        let ended = run(&bench, COUNT, &["--strict"]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(lines(&bench.rows("rows")), [1, 2, 3]);
    }
    assert_eq!(run(&bench, COUNT, &[]).code, Some(1));
    assert_eq!(lines(&bench.rows("rows")), [1, 2, 3, 4, 5]);
}

#[test]
fn the_help_of_the_journal_is_true() {
    let bench = Bench::new();
    let help = bench.command(&["--help"]).stdout(Stdio::piped()).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("--journal") && help.contains("--fresh") && help.contains("RESUME"), "{help}");
}
