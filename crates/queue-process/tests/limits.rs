//! Programs that take what they get, and what they get.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![cfg(target_os = "linux")]

mod machine;

use std::{future::pending, time::Duration};

use machine::{gone, leave_out, pids_in, sh, stopwatch};
use queue_core::job::JobError;
use queue_process::{End, Execution, Finished, Limit, LimitError, Limits, Program, StartError, outcome};

const SECOND: Duration = Duration::from_secs(1);

fn under(script: &str, limits: Limits) -> Program {
    sh(script).with_limits(limits)
}

async fn run(program: &Program) -> (Finished, Option<JobError>) {
    let finished = program.run(Execution::default(), pending()).await.unwrap();
    let error = outcome(&finished, program.limits()).err();
    (finished, error)
}

/// Whether this machine can count processes; where it cannot, that is what the program must be refused for.
fn counts(program: &Program) -> bool {
    match program.check() {
        Ok(_) => true,
        Err(StartError::Limit(LimitError::Processes { why })) => {
            leave_out("limits on processes by a cgroup", &why);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn limits_are_those_that_were_set() {
    let limits = Limits {
        memory: Some(512 << 20),
        cpu_time: Some(Duration::from_millis(2_500)),
        open_files: Some(42),
        ..Limits::default()
    };
    // A child's too: it inherits them.
    let (finished, _) = run(&under("sleep 0.2; sh -c 'ulimit -v; ulimit -t; ulimit -n; ulimit -Ht'", limits)).await;
    assert_eq!(String::from_utf8_lossy(&finished.stdout), "524288\n3\n42\n4\n");
    let (finished, _) = run(&sh("ulimit -v")).await;
    assert_eq!(String::from_utf8_lossy(&finished.stdout), "unlimited\n", "and none unless they are");
}

#[tokio::test]
async fn a_leak_ends_at_its_memory_and_says_so() {
    let leak = r#"awk 'BEGIN { s = "x"; while (length(s) < 1073741824) s = s s; print length(s) }'"#;
    let (finished, error) = run(&under(leak, Limits { memory: Some(128 << 20), ..Limits::default() })).await;
    assert_ne!(finished.end, End::Exited(0), "{finished:?}");
    let error = error.unwrap();
    assert!(error.message.ends_with("(its limits: 128 MiB of memory)"), "{error}");
    assert!(error.retryable && error.detail.is_some(), "{error:?}");
}

#[tokio::test]
async fn a_spinning_program_ends_at_its_cpu_time_and_says_so() {
    let limits = Limits { cpu_time: Some(SECOND), ..Limits::default() };
    let (elapsed, (finished, error)) = stopwatch(run(&under("while :; do :; done", limits.clone()))).await;
    assert_eq!((finished.end, finished.limit), (End::Signalled(24), Some(Limit::CpuTime)));
    assert!(elapsed > SECOND / 2 && elapsed < 20 * SECOND, "{elapsed:?}");
    let error = error.unwrap();
    assert_eq!((&*error.code, error.retryable), ("CPU_TIME_LIMIT", true));
    assert!(error.message.contains("used up its 1 s of CPU time"), "{error}");
    // One that will not hear of it is killed a second later.
    let (finished, error) = run(&under("trap '' XCPU; while :; do :; done", limits.clone())).await;
    assert_eq!((finished.end, finished.limit), (End::Signalled(9), Some(Limit::CpuTime)), "{error:?}");
    // Its child counts for itself, and the shell tells.
    let (finished, _) = run(&under("sh -c 'while :; do :; done'; exit $?", limits.clone())).await;
    assert_eq!((finished.end, finished.limit), (End::Exited(152), Some(Limit::CpuTime)));
    // Who is killed for another reason is not accused.
    let (finished, _) = run(&under("kill -9 $$", limits)).await;
    assert_eq!((finished.end, finished.limit), (End::Signalled(9), None));
}

#[tokio::test]
async fn too_many_open_files_are_refused_to_it() {
    let script = "sleep 0.2; exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null 9</dev/null";
    let (finished, error) = run(&under(script, Limits { open_files: Some(8), ..Limits::default() })).await;
    assert_ne!(finished.end, End::Exited(0));
    assert!(error.unwrap().message.contains("(its limits: 8 open files)"));
    assert_eq!(run(&under(script, Limits { open_files: Some(12), ..Limits::default() })).await.0.end, End::Exited(0));
}

#[tokio::test]
async fn forks_without_end_stop_at_the_limit_and_nothing_is_left() {
    let limits = Limits { processes: Some(12), timeout: 5 * SECOND, ..Limits::default() };
    // Should the limit fail, it ends by itself: at 500.
    let bomb = "echo $$; bomb() { [ $1 = 0 ] || { bomb $(($1 - 1)) | bomb $(($1 - 1)) & }; }; bomb 8; sleep 1; exit 3";
    let program = under(bomb, limits.clone());
    if !counts(&program) {
        return;
    }
    for _ in 0..3 {
        let (elapsed, (finished, error)) = stopwatch(run(&program)).await;
        let error = error.unwrap();
        assert_eq!((&*error.code, error.retryable), ("PROCESS_LIMIT", true), "{error:?}");
        assert!(error.message.contains("times, at its limit of 12"), "{error}");
        assert!(matches!(finished.limit, Some(Limit::Processes(times)) if times > 0));
        assert!(elapsed < 20 * SECOND, "{elapsed:?}");
        assert!(gone(&pids_in(&finished.stdout)).await);
    }
    // What is within the limit runs as ever, and the refusals of an earlier run are not its own.
    let fits = under("for i in 1 2 3 4 5 6; do sleep 0.1 & done; wait; exit 4", limits);
    let (finished, _) = run(&fits).await;
    assert_eq!((finished.end, finished.limit), (End::Exited(4), None));
}

#[tokio::test]
async fn with_a_limit_on_processes_nobody_leaves_the_group_alive() {
    let program = under("setsid sleep 88 & sleep 0.3; echo $!", Limits { processes: Some(9), ..Limits::default() });
    if counts(&program) {
        let (finished, _) = run(&program).await;
        assert_eq!(finished.end, End::Exited(0));
        assert!(gone(&pids_in(&finished.stdout)).await, "a cgroup is not left as a process group is");
    }
}

#[tokio::test]
async fn cells_are_used_again_and_removed() {
    let program =
        under("grep -o 'queue-process.*' /proc/self/cgroup", Limits { processes: Some(9), ..Limits::default() });
    if !counts(&program) {
        return;
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (finished, _) = run(&program.clone()).await;
        seen.push(String::from_utf8(finished.stdout.to_vec()).unwrap().lines().next().unwrap().to_owned());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    let there = || {
        let (room, _) = seen[0].rsplit_once('/').unwrap();
        let output = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", room]).output().unwrap();
        !output.stdout.is_empty()
    };
    assert!(there());
    drop(program);
    assert!(!there(), "the room is removed with the program");
}

#[tokio::test]
async fn another_user_is_bound_by_rlimits_or_refused() {
    let limits = Limits { open_files: Some(33), ..Limits::default() };
    let program = under("id -u; id -G; ulimit -n", limits).user(12_345, 12_346);
    match rustix::process::geteuid().is_root() {
        true => assert_eq!(&run(&program).await.0.stdout[..], b"12345\n12346\n33\n"),
        false => assert!(matches!(program.check(), Err(StartError::Limit(LimitError::User { uid: 12_345 })))),
    }
}

/// There the system counts no refusals: the error says what it may have been, and what a cgroup has counted it does not guess.
#[tokio::test]
async fn forks_of_another_user_stop_at_its_limit_which_the_error_names() {
    let limits = Limits { processes: Some(4), ..Limits::default() };
    let forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait; exit 7";
    let program = under(forks, limits.clone()).user(12_347, 12_347);
    if !rustix::process::geteuid().is_root() {
        leave_out("limits on the processes of another user", "only root can run a program as one");
        return;
    }
    let (finished, error) = run(&program).await;
    assert!(finished.end != End::Exited(7) && finished.limit.is_none(), "{finished:?}");
    let error = error.unwrap();
    assert_eq!((&*error.code, error.retryable), ("HANDLER_FAILED", true), "{error:?}");
    assert!(error.message.ends_with("(its limits: 4 processes of its user)"), "{error}");
    assert!(error.detail.is_some(), "the program said why: {error:?}");
    // A third one: what was killed just now may count until it is reaped.
    let fits = under("sleep 0.1 & sleep 0.1 & wait", limits.clone()).user(12_348, 12_348);
    assert_eq!(run(&fits).await.0.end, End::Exited(0));
    let by_cgroup = under("exit 5", limits);
    if counts(&by_cgroup) {
        assert_eq!(&*run(&by_cgroup).await.1.unwrap().message, "exit status 5");
    }
}
