//! What `queue doctor` says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::process::{Command, Output};

use serde_json::{Value, json};

fn doctor(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_queue"));
    command.arg("doctor").args(args).env_remove("MESSAGE_QUEUE_PROVIDER").envs(variables.iter().copied());
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn all_is_well_with_the_embedded_provider() {
    let output = doctor(&[], &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    for part in
        ["PROVIDERS\n  memory", "priority                native", "memory:  yes", "programs at once", "All is well."]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn machines_read_the_same() {
    let output = doctor(&["--json"], &[]);
    let said: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!((&said["faults"], &said["health"]["status"]), (&json!([]), &json!("healthy")));
    assert_eq!(said["providers"][0]["capabilities"]["priority"], json!({"support": "native"}));
    assert_eq!(said["providers"][0]["capabilities"]["order by key"]["support"], "no");
    assert!(said["open_files"]["programs_at_once"].as_u64().unwrap() > 0);
}

#[test]
fn what_is_missing_says_how_to_get_it_and_no_secret() {
    for (args, variables) in [
        (&["--provider", "kafka://me:hunter2@host"][..], &[][..]),
        (&[], &[("MESSAGE_QUEUE_PROVIDER", "kafka"), ("KAFKA_BROKERS", "kafka://me:hunter2@host")]),
    ] {
        let output = doctor(args, variables);
        assert_eq!(output.status.code(), Some(1));
        let text = text(&output);
        assert!(text.contains("AMISS") && text.contains("`kafka:` is not compiled in"), "{text}");
        assert!(text.contains("feature `kafka`") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn too_few_open_files_are_amiss() {
    let script = format!("ulimit -n 256; exec '{}' doctor", env!("CARGO_BIN_EXE_queue"));
    let output = Command::new("sh").args(["-c", &script]).env_remove("MESSAGE_QUEUE_PROVIDER").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("enough for 7 programs at once; raise it"), "{output:?}");
}
