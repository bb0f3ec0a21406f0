//! Programs that are over within a moment, for which the reactor is not asked: they must be served as well as others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod machine;

use std::{collections::BTreeMap, future::pending, time::Duration};

use machine::{gone, limited, pids_in, reaped, sh, stopwatch};
use queue_process::{End, Execution, Finished, Limits, Program};

async fn run(program: &Program, input: impl Into<bytes::Bytes>) -> Finished {
    program.run(Execution::new(input), pending()).await.unwrap()
}

/// Up to what a pipe takes at once, up to what it holds, and beyond.
#[tokio::test]
async fn a_payload_of_any_size_arrives() {
    for size in [1, 4_095, 4_096, 4_097, 65_535, 65_536, 65_537, 200_000] {
        let finished = run(&Program::new("wc").args(["-c"]), vec![b'x'; size]).await;
        assert_eq!(String::from_utf8_lossy(&finished.stdout).trim(), size.to_string());
        let input: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        assert!(run(&Program::new("cat"), input.clone()).await.stdout == input, "{size}");
    }
}

#[tokio::test]
async fn ten_mebibytes_that_nobody_reads_delay_nothing() {
    for script in ["exit 7", "exec <&-; sleep 0.05; exit 7", "head -c 5 >&2; sleep 0.05; exit 7"] {
        let (elapsed, finished) = stopwatch(run(&sh(script), vec![b'x'; 10 << 20])).await;
        assert_eq!(finished.end, End::Exited(7), "{script}");
        assert!(elapsed < Duration::from_secs(2), "{script}: {elapsed:?}");
    }
}

#[tokio::test]
async fn the_cap_of_output_is_exact() {
    for cap in [1, 1_000, 65_536, 100_000] {
        let head = |bytes: usize| {
            let limits = Limits { max_stdout: cap, ..Limits::default() };
            Program::new("head").args(["-c", &bytes.to_string(), "/dev/zero"]).with_limits(limits)
        };
        let fits = run(&head(cap), "").await;
        assert_eq!((fits.end, fits.stdout.len()), (End::Exited(0), cap));
        let more = run(&head(cap + 1), "").await;
        assert_eq!((more.end, more.stdout.len()), (End::OutputTooLarge, cap));
    }
}

#[tokio::test]
async fn more_than_a_pipe_holds_is_read_before_the_end() {
    let program = sh("read bytes; head -c $bytes /dev/zero; head -c $bytes /dev/zero >&2");
    // Whether the last run wrote as much or not.
    for bytes in [900_000, 900_000, 3, 900_000, 3, 3] {
        let finished = run(&program, format!("{bytes}\n")).await;
        assert_eq!((finished.end, finished.stdout.len()), (End::Exited(0), bytes));
        assert_eq!(finished.stderr.dropped + finished.stderr.bytes.len() as u64, bytes as u64);
    }
}

/// Whether it is in the group or has left it, and whether it writes on or reads on.
#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_delays_nothing() {
    let inside = "sleep 88 & echo $! >&2; printf result";
    let (elapsed, finished) = stopwatch(run(&sh(inside), "payload")).await;
    assert_eq!((finished.end, &finished.stdout[..]), (End::Exited(0), &b"result"[..]));
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert!(gone(&pids_in(&finished.stderr.bytes)).await);

    // It takes from stdout, by its name, what the program wrote before.
    let thief =
        "setsid timeout 5 sh -c 'echo $$ >&2; exec cat /proc/self/fd/3 3>&1 >/dev/null' & sleep 0.002; printf result";
    for script in ["setsid sh -c 'echo $$ >&2; exec sleep 5' & sleep 0.002; printf result", thief] {
        let (elapsed, finished) = stopwatch(run(&limited(sh(script), 5_000), "payload")).await;
        assert_eq!(finished.end, End::Exited(0));
        assert!(elapsed < Duration::from_secs(1), "{script}: {elapsed:?}");
        pids_in(&finished.stderr.bytes).into_iter().for_each(machine::kill);
    }
}

#[tokio::test]
async fn a_program_sees_each_variable_once_and_the_run_s_own_before_all() {
    let own = [("QUEUE_ATTEMPT", "2".to_owned()), ("HOME", "/run".to_owned())];
    let program = Program::new("env").variable("QUEUE_ATTEMPT", "0").variable("OUTER", "a=b c");
    let mut expected: BTreeMap<String, String> = std::env::vars().collect();
    for (name, value) in [("QUEUE_ATTEMPT", "2"), ("HOME", "/run"), ("OUTER", "a=b c")] {
        expected.insert(name.to_owned(), value.to_owned());
    }
    let expected: Vec<String> = expected.iter().map(|(name, value)| format!("{name}={value}")).collect();
    for program in [program.clone(), program.directory("/")] {
        let execution = Execution { variables: &own, ..Execution::default() };
        let finished = program.run(execution, pending()).await.unwrap();
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        let mut seen: Vec<&str> = text.lines().filter(|line| !line.starts_with("PWD=")).collect();
        seen.sort_unstable();
        let mut expected: Vec<&str> =
            expected.iter().flat_map(|entry| entry.lines()).filter(|line| !line.starts_with("PWD=")).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}

/// This process ignores SIGPIPE, as Rust's do.
#[tokio::test]
async fn a_program_may_die_of_a_broken_pipe() {
    assert_eq!(run(&sh("kill -PIPE $$"), "").await.end, End::Signalled(13));
}

/// A timeout and a cancel count from the start, not from the end of the first moment.
#[tokio::test]
async fn the_first_moment_is_part_of_the_time() {
    let (elapsed, finished) = stopwatch(run(&limited(sh("echo $$; sleep 87"), 1), "")).await;
    assert_eq!(finished.end, End::TimedOut);
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    let cancelled = sh("sleep 86").run(Execution::default(), std::future::ready(())).await.unwrap();
    assert_eq!(cancelled.end, End::Cancelled);
}

/// Also where its whole life is one poll.
#[tokio::test]
async fn a_run_dropped_at_once_leaves_nothing() {
    let scratch = machine::Scratch::new();
    for n in 0..20 {
        let file = scratch.path(&n.to_string());
        let program = sh(&format!("sleep 85 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", file.display()));
        let mut running = Box::pin(program.run(Execution::default(), pending()));
        tokio::select! { biased; _ = &mut running => panic!("over"), () = std::future::ready(()) => {} }
        while !file.exists() {
            std::thread::yield_now();
        }
        drop(running);
        let pids = pids_in(&std::fs::read(&file).unwrap());
        assert!(gone(&pids).await && reaped(pids[0]).await, "{pids:?}");
    }
}
