//! Real programs that behave badly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod machine;

use std::{future::pending, time::Duration};

use machine::{gone, limited, pids_in, sh, stopwatch};
use queue_process::{End, Execution, Finished, Limits, Program};

async fn run(program: &Program, input: impl Into<bytes::Bytes>) -> Finished {
    program.run(Execution::new(input), pending()).await.unwrap()
}

async fn run_sh(script: &str) -> Finished {
    run(&sh(script), "").await
}

#[tokio::test]
async fn payload_in_result_out_and_the_exit_tells() {
    let finished = run(&sh("tr a-z A-Z; echo trouble >&2; exit 3"), "hello").await;
    assert_eq!(finished.end, End::Exited(3));
    assert_eq!(&finished.stdout[..], b"HELLO");
    assert_eq!(finished.stderr.text(), "trouble");
    for code in [0, 1, 65, 255] {
        assert_eq!(run_sh(&format!("exit {code}")).await.end, End::Exited(code));
    }
    assert_eq!(run_sh("kill -9 $$").await.end, End::Signalled(9));
    assert_eq!(run_sh("kill -SEGV $$").await.end, End::Signalled(11));
}

#[tokio::test]
async fn variables_and_directory_arrive() {
    let script = "echo $OUTER $QUEUE_ATTEMPT ${HOME-none}; pwd -P";
    let program = sh(script)
        .environment(queue_process::Environment::Only(vec!["PATH".into()]))
        .variable("OUTER", "program")
        .variable("QUEUE_ATTEMPT", "0")
        .directory("/");
    let variables = [("QUEUE_ATTEMPT", "2".to_owned())];
    let execution = Execution { variables: &variables, ..Execution::default() };
    let finished = program.run(execution, pending()).await.unwrap();
    assert_eq!(&finished.stdout[..], b"program 2 none\n/\n");
}

#[tokio::test]
async fn a_large_payload_and_a_large_result_do_not_block_each_other() {
    let input = "0123456789abcdef".repeat(60 << 10); // 960 KiB, far more than both pipes hold
    let finished = run(&Program::new("cat"), input.clone()).await;
    assert_eq!(finished.end, End::Exited(0));
    assert!(finished.stdout == input.as_bytes());
}

#[tokio::test]
async fn not_reading_stdin_is_no_error() {
    let input = vec![b'x'; 1 << 20];
    assert_eq!(run(&sh("exit 0"), input.clone()).await.end, End::Exited(0));
    // Closes it, then goes on: the writer gets EPIPE in the middle.
    let finished = run(&sh("head -c 10; exec <&-; sleep 0.2; echo still here"), input).await;
    assert_eq!(finished.end, End::Exited(0));
    assert_eq!(&finished.stdout[..], b"xxxxxxxxxxstill here\n");
}

#[tokio::test]
async fn no_payload_is_an_end_of_file_at_once() {
    assert_eq!(run(&limited(sh("cat"), 5_000), "").await.end, End::Exited(0));
}

#[tokio::test]
async fn at_the_timeout_the_whole_group_dies() {
    // A leader that ignores SIGTERM, children and grandchildren that do so too.
    let script = "trap '' TERM; (sleep 98; :) & (sh -c 'trap \"\" TERM; sleep 97; :'; :) & echo $$; sleep 99";
    let (elapsed, finished) = stopwatch(run(&limited(sh(script), 300), "")).await;
    assert_eq!(finished.end, End::TimedOut);
    assert!(elapsed >= Duration::from_millis(300) && elapsed < Duration::from_secs(3), "{elapsed:?}");
    assert!(gone(&pids_in(&finished.stdout)[..1]).await, "something of the group is left");
}

#[tokio::test]
async fn what_the_leader_leaves_behind_dies_with_it() {
    let (elapsed, finished) = stopwatch(run_sh("sleep 96 & sleep 95 & echo $$ $!")).await;
    assert_eq!(finished.end, End::Exited(0));
    assert!(elapsed < Duration::from_secs(1), "the left-over children hold stdout open: {elapsed:?}");
    let leader = pids_in(&finished.stdout)[0];
    assert!(gone(&[leader]).await, "children outlived the program");
}

#[tokio::test]
async fn a_pipe_held_open_outside_the_group_delays_nothing() {
    // `setsid` leaves the group, so it survives the kill and keeps both pipes open.
    let (elapsed, finished) =
        stopwatch(run_sh("setsid sh -c 'echo $$ >&2; exec sleep 5' & sleep 0.3; echo result")).await;
    assert_eq!(finished.end, End::Exited(0));
    assert_eq!(&finished.stdout[..], b"result\n");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    machine::kill(pids_in(&finished.stderr.bytes)[0]);
}

#[tokio::test]
async fn everything_written_before_the_exit_is_read() {
    for _ in 0..20 {
        let finished = run_sh("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2").await;
        assert_eq!((finished.stdout.len(), finished.stderr.bytes.len()), (60_000, 8 << 10));
        assert_eq!(finished.stderr.dropped, 60_000 - (8 << 10));
    }
}

#[tokio::test]
async fn too_much_stdout_kills_it() {
    let (elapsed, finished) = stopwatch(run_sh("head -c 104857600 /dev/zero; sleep 94")).await;
    assert_eq!(finished.end, End::OutputTooLarge);
    assert_eq!(finished.stdout.len(), 1 << 20);
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");

    let exact = Limits { max_stdout: 1_000, ..Limits::default() };
    let fits = run(&sh("head -c 1000 /dev/zero").with_limits(exact.clone()), "").await;
    assert_eq!((fits.end, fits.stdout.len()), (End::Exited(0), 1_000));
    // One byte more, even where the program is gone before anyone could kill it.
    let more = run(&sh("head -c 1001 /dev/zero").with_limits(exact), "").await;
    assert_eq!((more.end, more.stdout.len()), (End::OutputTooLarge, 1_000));
}

#[tokio::test]
async fn a_flood_of_stderr_is_kept_as_its_end() {
    let finished = run_sh("head -c 50000000 /dev/zero | tr '\\0' 'x' >&2; echo; echo last words >&2; exit 1").await;
    assert_eq!(finished.end, End::Exited(1));
    assert_eq!(finished.stderr.bytes.len(), 8 << 10);
    assert_eq!(finished.stderr.dropped + (8 << 10), 50_000_000 + "last words\n".len() as u64);
    assert!(finished.stderr.text().ends_with("last words"));
}

#[tokio::test]
async fn a_cancelled_program_may_stop_by_itself() {
    let script = "trap 'echo cleaned; exit 0' TERM; echo ready >&2; while :; do sleep 0.02; done";
    let cancel = tokio::time::sleep(Duration::from_millis(300));
    let (elapsed, finished) = stopwatch(sh(script).run(Execution::default(), cancel)).await;
    let finished = finished.unwrap();
    assert_eq!(finished.end, End::Cancelled);
    assert_eq!(&finished.stdout[..], b"cleaned\n", "output within the grace is kept");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test]
async fn a_cancelled_program_that_does_not_stop_is_killed_after_the_grace() {
    let limits = Limits { grace: Duration::from_millis(200), ..Limits::default() };
    let program = sh("trap '' TERM; echo $$; while :; do sleep 0.02; done").with_limits(limits);
    let cancel = tokio::time::sleep(Duration::from_millis(200));
    let (elapsed, finished) = stopwatch(program.run(Execution::default(), cancel)).await;
    let finished = finished.unwrap();
    assert_eq!(finished.end, End::Cancelled);
    assert!(elapsed >= Duration::from_millis(400) && elapsed < Duration::from_secs(3), "{elapsed:?}");
    assert!(gone(&pids_in(&finished.stdout)).await);
}

#[tokio::test]
async fn the_timeout_ends_a_long_grace() {
    let limits = Limits { timeout: Duration::from_millis(500), grace: Duration::from_secs(60), ..Limits::default() };
    let program = sh("trap '' TERM; while :; do sleep 0.02; done").with_limits(limits);
    let (elapsed, finished) = stopwatch(program.run(Execution::default(), std::future::ready(()))).await;
    assert_eq!(finished.unwrap().end, End::Cancelled);
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test]
async fn a_dropped_run_leaves_nothing() {
    let scratch = machine::Scratch::new();
    let file = scratch.path("pids");
    let program = sh(&format!("sleep 93 & echo $$ $! > {0}.new; mv {0}.new {0}; sleep 92", file.display()));
    let running = program.run(Execution::default(), pending());
    let timed_out = tokio::time::timeout(Duration::from_millis(700), running).await;
    assert!(timed_out.is_err());
    let pids = pids_in(&std::fs::read(&file).unwrap());
    assert_eq!(pids.len(), 2);
    assert!(gone(&pids).await, "{pids:?}");
    assert!(machine::reaped(pids[0]).await, "the leader stayed a zombie");
}

#[tokio::test]
async fn a_stopped_program_is_killed_too() {
    assert_eq!(run(&limited(sh("kill -STOP $$"), 300), "").await.end, End::TimedOut);
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    // Opened without close-on-exec, as a C library or the parent shell might have.
    let leaked = std::fs::File::open("/dev/null").unwrap();
    let mut flags = rustix::io::fcntl_getfd(&leaked).unwrap();
    flags.remove(rustix::io::FdFlags::CLOEXEC);
    rustix::io::fcntl_setfd(&leaked, flags).unwrap();
    // `ls` opens the directory itself, as the fourth.
    let finished = run(&Program::new("ls").args(["/dev/fd/"]), "").await;
    let shown = String::from_utf8_lossy(&finished.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(shown, "0 1 2 3", "stderr: {}", finished.stderr.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_at_once_and_no_zombie() {
    queue_process::reserve_descriptors(200, 200).unwrap();
    let program = sh("read line; echo $$ $line");
    let runs = (0..200).map(|n| {
        let program = program.clone();
        tokio::spawn(async move { (n, program.run(Execution::new(format!("job {n}\n")), pending()).await.unwrap()) })
    });
    let mut leaders = Vec::new();
    let (elapsed, outcomes) = stopwatch(futures_util::future::join_all(runs)).await;
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
    for outcome in outcomes {
        let (n, finished) = outcome.unwrap();
        assert_eq!(finished.end, End::Exited(0), "{}", finished.stderr.text());
        let text = String::from_utf8(finished.stdout.to_vec()).unwrap();
        let (leader, rest) = text.trim_end().split_once(' ').unwrap();
        assert_eq!(rest, format!("job {n}"));
        leaders.push(leader.parse().unwrap());
    }
    for leader in leaders {
        assert!(machine::reaped(leader).await, "{leader} is a zombie");
    }
}
