//! The binary, as a shell sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::process::{Command, Output};

fn queue(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_queue")).args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn mistakes_end_with_status_2_before_anything_runs() {
    let cases: [(&[&str], &str); 5] = [
        (&["run"], "<FILE|->"),
        (&["run", "-", "--exec", "cat", "--timeout", "5"], "with a unit"),
        (&["run", "-", "--exec", "no-such-program"], "not in PATH"),
        (&["run", "/no/such/file", "--exec", "cat"], "/no/such/file"),
        (&["nonsense"], "nonsense"),
    ];
    for (args, expected) in cases {
        let output = queue(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(said(&output).contains(expected), "{args:?}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_states_the_window_and_has_examples() {
    let output = queue(&["run", "--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for expected in ["10,000 jobs or 64 MiB", "EXAMPLES", "QUEUE_ATTEMPT", "EXIT STATUS", "--max-output"] {
        assert!(help.contains(expected), "{expected}");
    }
    assert!(help.lines().all(|line| line.len() <= 140));
}

#[test]
fn completions_go_to_stdout() {
    let output = queue(&["completions", "bash"]);
    assert!(output.status.success() && output.stdout.starts_with(b"_queue()"));
}
