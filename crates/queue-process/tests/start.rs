//! Programs that cannot be started, and what is said about it before and at the start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod machine;

use std::{future::pending, os::unix::fs::PermissionsExt as _, path::Path};

use machine::Scratch;
use queue_process::{End, Environment, Execution, Program, StartError};

fn file(scratch: &Scratch, name: &str, text: &str, mode: u32) -> std::path::PathBuf {
    let path = scratch.path(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// While one test has a script open for writing, a program that another starts holds it open too until its own `exec`,
/// and the script is "busy". So these tests take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The check and the start must agree.
async fn refused(program: &Program) -> StartError {
    let at_start = program.run(Execution::default(), pending()).await.unwrap_err();
    let before = program.check().unwrap_err();
    assert_eq!(before.to_string(), at_start.to_string());
    assert!(!before.is_transient());
    before
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let _turn = TURN.lock().await;
    let error = refused(&Program::new("no-such-program-anywhere")).await;
    assert!(matches!(error, StartError::NotInPath { .. }), "{error:?}");
    assert!(error.to_string().contains("no-such-program-anywhere"));
    let error = refused(&Program::new("/no/such/program")).await;
    assert!(matches!(error, StartError::NotFound { .. }), "{error:?}");
    let error = refused(&Program::new("true").directory("/no/such/directory")).await;
    assert!(matches!(error, StartError::Directory { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_program_is_refused() {
    let _turn = TURN.lock().await;
    let scratch = Scratch::new();
    let error = refused(&Program::new(file(&scratch, "plain", "#!/bin/sh\n", 0o644))).await;
    assert!(matches!(error, StartError::NotExecutable { .. }), "{error:?}");
    let error = refused(&Program::new(scratch.path(""))).await;
    assert!(matches!(error, StartError::NotExecutable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_interpreter_is_named() {
    let _turn = TURN.lock().await;
    let scratch = Scratch::new();
    let error = refused(&Program::new(file(&scratch, "script", "#! /no/such/interpreter -x\n", 0o755))).await;
    assert!(error.to_string().contains("/no/such/interpreter"), "{error}");
    // A carriage return is part of the interpreter's name, as every Unix takes it.
    let error = refused(&Program::new(file(&scratch, "dos", "#!/bin/sh\r\nexit 0\r\n", 0o755))).await;
    assert!(error.to_string().contains(r"/bin/sh\r"), "{error}");
}

#[tokio::test]
async fn what_only_the_start_can_tell_is_told_there() {
    let _turn = TURN.lock().await;
    let scratch = Scratch::new();
    // An x86-64 executable whose loader does not exist would do as well; a file of nothing is simpler.
    let program = Program::new(file(&scratch, "nothing", "\u{7f}ELF and no more", 0o755));
    assert!(program.check().is_ok());
    let error = program.run(Execution::default(), pending()).await.unwrap_err();
    assert!(matches!(error, StartError::NotAProgram { .. }), "{error:?}");

    let nul = [("QUEUE_KIND", "a\0b".to_owned())];
    let execution = Execution { variables: &nul, ..Execution::default() };
    let error = Program::new("true").run(execution, pending()).await.unwrap_err();
    assert!(matches!(error, StartError::Other { .. }), "{error:?}");
}

#[tokio::test]
async fn the_first_executable_in_the_path_runs() {
    let _turn = TURN.lock().await;
    let scratch = Scratch::new();
    for (directory, mode) in [("first", 0o644), ("second", 0o755), ("third", 0o755)] {
        std::fs::create_dir(scratch.path(directory)).unwrap();
        file(&scratch, &format!("{directory}/tool"), &format!("#!/bin/sh\necho {directory}\n"), mode);
    }
    let path = |names: &[&str]| std::env::join_paths(names.iter().map(|name| scratch.path(name))).unwrap();
    let program = Program::new("tool").variable("PATH", path(&["first", "none", "second", "third"]));
    assert_eq!(program.check().unwrap(), scratch.path("second/tool"));
    let finished = program.run(Execution::default(), pending()).await.unwrap();
    assert_eq!((finished.end, &finished.stdout[..]), (End::Exited(0), &b"second\n"[..]));

    let error = refused(&Program::new("tool").variable("PATH", path(&["first"]))).await;
    assert!(matches!(error, StartError::NotExecutable { .. }), "{error:?}");
    assert!(Program::new("sh").environment(Environment::Only(vec![])).check().is_ok(), "the default path");
}

/// Where it was found is kept, and the file may go, or stop being a program.
#[tokio::test]
async fn what_is_not_where_it_was_found_is_looked_up_again() {
    let _turn = TURN.lock().await;
    let scratch = Scratch::new();
    for directory in ["first", "second", "third"] {
        std::fs::create_dir(scratch.path(directory)).unwrap();
        file(&scratch, &format!("{directory}/tool"), &format!("#!/bin/sh\necho {directory}\n"), 0o755);
    }
    let path = std::env::join_paths(["first", "second", "third"].map(|name| scratch.path(name))).unwrap();
    let program = Program::new("tool").variable("PATH", path);
    let said = async || program.run(Execution::default(), pending()).await.unwrap().stdout;
    assert_eq!(said().await, "first\n");
    file(&scratch, "first/tool", "#!/bin/sh\necho first\n", 0o644);
    assert_eq!(said().await, "second\n");
    std::fs::remove_dir_all(scratch.path("second")).unwrap();
    assert_eq!(said().await, "third\n");
    file(&scratch, "first/tool", "#!/bin/sh\necho anew\n", 0o755);
    assert_eq!(said().await, "anew\n");
    for directory in ["first", "third"] {
        std::fs::remove_dir_all(scratch.path(directory)).unwrap();
    }
    assert!(matches!(refused(&program).await, StartError::NotInPath { .. }));
}

#[tokio::test]
async fn a_relative_path_is_taken_from_the_working_directory() {
    let _turn = TURN.lock().await;
    let scratch = Scratch::new();
    file(&scratch, "tool", "#!/bin/sh\necho here\n", 0o755);
    let program = Program::new("./tool").directory(scratch.path(""));
    assert_eq!(program.check().unwrap(), Path::new(&scratch.path("./tool")));
    let finished = program.run(Execution::default(), pending()).await.unwrap();
    assert_eq!(&finished.stdout[..], b"here\n");
}
