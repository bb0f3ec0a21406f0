//! `queue run` against what it replaces: `cargo xtask bench run`.
//!
//! Each row is the median of runs that alternate with their baseline's, as machines are noisy; both sides work on the same
//! lines, and but for the first row with the same number of processes.
//!
//! - `oneshot_vs_xargs`: a program a line, as many at once as there are by default (the processors and four more), against
//!   `xargs -P2 -n1`.
//! - `oneshot_j2_vs_xargs`: the same with two at once.
//! - `pool_vs_oneshot`: a Python handler that does next to nothing, kept alive, against started for each line.
//! - `pool_echo`: a native handler that echoes, against a bare loop that writes a line to such a process and reads its answer,
//!   one line under way each.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

const PROCESSES: usize = 2;
/// Makes this binary a handler instead.
const ECHO: &str = "--echo-handler";

const PYTHON_POOL: &str = "import sys, json
for line in sys.stdin:
    sys.stdout.write('{\"id\":\"%s\",\"result\":1}\\n' % json.loads(line)['id']); sys.stdout.flush()
";
const PYTHON_ONESHOT: &str = "import sys, json
sys.stdin.read(); print(1)
";

fn main() {
    if std::env::args().any(|argument| argument == ECHO) {
        return echo();
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    type Bench = fn(&Path);
    let rows: [(&str, Bench); 4] = [
        ("oneshot_vs_xargs", |scratch| oneshot_vs_xargs("oneshot_vs_xargs", scratch, queue_by_default)),
        ("oneshot_j2_vs_xargs", |scratch| oneshot_vs_xargs("oneshot_j2_vs_xargs", scratch, queue)),
        ("pool_vs_oneshot", pool_vs_oneshot),
        ("pool_echo", pool_echo),
    ];
    let scratch = tempfile::tempdir().unwrap();
    for (name, bench) in rows {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            bench(scratch.path());
        }
    }
}

fn oneshot_vs_xargs(name: &str, scratch: &Path, queue: fn(&str, u64, &[&str]) -> f64) {
    // Some seven seconds: in the first two after it was left to idle, or to `xargs`, a virtual machine was 4 % slower.
    const LINES: u64 = 16_000;
    let file = lines(scratch, "lines", LINES, |n| n.to_string());
    let xargs = || {
        let input = std::fs::File::open(&file).unwrap();
        rate(LINES, Command::new("xargs").args(["-P", &PROCESSES.to_string(), "-n1", "true"]).stdin(input))
    };
    compare(name, 5, || queue(&file, LINES, &["--lines", "--exec", "true"]), xargs);
}

fn pool_vs_oneshot(scratch: &Path) {
    const POOLED: u64 = 40_000;
    const ONCE: u64 = 300;
    // The interpreter itself: what `python3` names may be a script that looks for it.
    let Ok(found) = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output() else {
        return eprintln!("pool_vs_oneshot is left out: there is no python3");
    };
    let python = String::from_utf8(found.stdout).unwrap();
    let pooled = lines(scratch, "pooled", POOLED, |n| n.to_string());
    let once = lines(scratch, "once", ONCE, |n| n.to_string());
    let handler = |name: &str, script: &str| {
        std::fs::write(scratch.join(name), script).unwrap();
        format!("'{}' '{}'", python.trim(), scratch.join(name).display())
    };
    let (pool, oneshot) = (handler("pool.py", PYTHON_POOL), handler("oneshot.py", PYTHON_ONESHOT));
    compare(
        "pool_vs_oneshot",
        3,
        || queue(&pooled, POOLED, &["--lines", "--exec", &pool, "--exec-mode", "pool"]),
        || queue(&once, ONCE, &["--lines", "--exec", &oneshot]),
    );
}

fn pool_echo(scratch: &Path) {
    const LINES: u64 = 200_000;
    let payload = |n| format!(r#"{{"to":"user{n}@example.org","subject":"hello","text":"{}"}}"#, "x".repeat(100));
    let file = lines(scratch, "jobs", LINES, |n| format!(r#"{{"payload":{}}}"#, payload(n)));
    let exec = format!("'{}' {ECHO}", std::env::current_exe().unwrap().display());
    // As a process sees them.
    let seen = |n| {
        format!(
            "{{\"id\":\"01890000-0000-7000-8000-{n:012}\",\"queue\":\"run-01890000-0000-7000-8000-000000000000\",\
             \"kind\":\"exec\",\"attempt\":1,\"max_attempts\":4,\"payload\":{}}}\n",
            payload(n)
        )
    };
    let seen: Vec<String> = (0..LINES).map(seen).collect();
    compare("pool_echo", 5, || queue(&file, LINES, &["--exec", &exec, "--exec-mode", "pool"]), || bare_loop(&seen));
}

/// Medians of runs that take turns.
fn compare(name: &str, runs: usize, measured: impl Fn() -> f64, baseline: impl Fn() -> f64) {
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        baselines.push(baseline());
        values.push(measured());
    }
    let (value, baseline) = (median(values), median(baselines));
    let ratio = value / baseline;
    println!(r#"{{"name":"{name}","value":{value:.1},"unit":"jobs/s","baseline":{baseline:.1},"ratio":{ratio:.3}}}"#);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn lines(scratch: &Path, name: &str, count: u64, line: impl Fn(u64) -> String) -> String {
    let path = scratch.join(name);
    let text: String = (0..count).map(|n| line(n) + "\n").collect();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Lines a second of `queue run`, with its own start and end.
fn queue(file: &str, count: u64, args: &[&str]) -> f64 {
    queue_by_default(file, count, &[&["-j", &PROCESSES.to_string()], args].concat())
}

fn queue_by_default(file: &str, count: u64, args: &[&str]) -> f64 {
    rate(count, Command::new(env!("CARGO_BIN_EXE_queue")).args(["run", file, "--quiet"]).args(args))
}

fn rate(count: u64, command: &mut Command) -> f64 {
    let started = Instant::now();
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?} ended with {status}");
    count as f64 / started.elapsed().as_secs_f64()
}

/// Nothing but the lines, back and forth.
fn bare_loop(lines: &[String]) -> f64 {
    let started = Instant::now();
    thread::scope(|scope| {
        for share in lines.chunks(lines.len().div_ceil(PROCESSES)) {
            scope.spawn(move || {
                let mut command = Command::new(std::env::current_exe().unwrap());
                let mut child = command.arg(ECHO).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let mut stdin = child.stdin.take().unwrap();
                let mut stdout = BufReader::new(child.stdout.take().unwrap());
                let mut answer = String::new();
                for line in share {
                    stdin.write_all(line.as_bytes()).unwrap();
                    answer.clear();
                    stdout.read_line(&mut answer).unwrap();
                }
                drop(stdin);
                child.wait().unwrap();
            });
        }
    });
    lines.len() as f64 / started.elapsed().as_secs_f64()
}

/// The handler: answers each line with its payload.
fn echo() {
    let (stdin, mut stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut stdin, mut line, mut answer) = (BufReader::new(stdin), String::new(), String::new());
    while stdin.read_line(&mut line).unwrap() > 0 {
        let id = line.strip_prefix("{\"id\":\"").and_then(|rest| rest.split('"').next()).unwrap();
        let payload = line.split_once("\"payload\":").unwrap().1.trim_end().strip_suffix('}').unwrap();
        answer.clear();
        answer.extend(["{\"id\":\"", id, "\",\"result\":", payload, "}\n"]);
        stdout.write_all(answer.as_bytes()).unwrap();
        stdout.flush().unwrap();
        line.clear();
    }
}
