//! Examples are tests: each one runs to its end and must succeed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use cargo_metadata::{Message, TargetKind};

use crate::{run, workspace::Workspace};

const LIMIT: Duration = Duration::from_secs(120);

/// Builds and runs every example of the workspace, from the workspace's folder. A package may leave some out, each with
/// its reason, in `[package.metadata.xtask.skip-examples]`.
pub(crate) fn perform(workspace: &Workspace, urls: &[(&'static str, String)]) -> Result<()> {
    let examples = workspace.targets(&TargetKind::Example);
    if examples.is_empty() {
        return Ok(());
    }
    let skipped = skipped(workspace);
    let programs = build()?;
    let mut failed = Vec::new();
    eprintln!("\nrunning {} examples", examples.len());
    for (package, example) in &examples {
        let name = format!("{package}::{example}");
        if let Some(reason) = skipped.get(&name) {
            eprintln!("example {name} ... left out: {reason}");
            continue;
        }
        let Some(program) = programs.get(&name) else { bail!("example {name} was not built") };
        let start = Instant::now();
        let mut command = Command::new(program);
        command.current_dir(workspace.root()).envs(urls.iter().cloned());
        let said = run::captured(&mut command, LIMIT)?;
        let word = if said.status.success() { "ok" } else { "FAILED" };
        eprintln!("example {name} ... {word} ({:.1} s)", start.elapsed().as_secs_f64());
        if !said.status.success() {
            eprintln!("{}\n{}{}", said.status, said.stdout, said.stderr);
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("examples failed: {}", failed.join(", ")) }
}

/// The programs by `package::example`, as Cargo reports them.
fn build() -> Result<BTreeMap<String, PathBuf>> {
    let mut command = run::cargo();
    command.args(["build", "--workspace", "--all-features", "--examples"]);
    command.arg("--message-format=json-render-diagnostics");
    let mut programs = BTreeMap::new();
    run::each_line(&mut command, |line| programs.extend(program(line)))?;
    Ok(programs)
}

fn program(line: &str) -> Option<(String, PathBuf)> {
    let Message::CompilerArtifact(artifact) = serde_json::from_str(line).ok()? else { return None };
    let program = artifact.executable.filter(|_| artifact.target.kind.contains(&TargetKind::Example))?;
    // `path+file:///…/crates/queue-core#0.1.0`, or `…#name@0.1.0` where the folder has another name.
    let package = package_name(&artifact.package_id.repr)?;
    Some((format!("{package}::{}", artifact.target.name), program.into_std_path_buf()))
}

fn package_name(id: &str) -> Option<&str> {
    let (path, fragment) = id.rsplit_once('#')?;
    match fragment.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

fn skipped(workspace: &Workspace) -> BTreeMap<String, String> {
    let of = |member: &&cargo_metadata::Package| {
        let table = member.metadata.pointer("/xtask/skip-examples").and_then(serde_json::Value::as_object);
        let entries = table.into_iter().flatten();
        entries
            .map(|(example, reason)| (format!("{}::{example}", member.name), reason.as_str().unwrap_or("-").to_owned()))
            .collect::<Vec<_>>()
    };
    workspace.members().iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_ids_name_their_package_either_way() {
        assert_eq!(package_name("path+file:///home/me/crates/queue-core#0.1.0"), Some("queue-core"));
        assert_eq!(package_name("path+file:///home/me/tests#queue-tests@0.1.0"), Some("queue-tests"));
        assert_eq!(package_name("nonsense"), None);
    }

    #[test]
    fn other_messages_are_passed_over() {
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(program("not json"), None);
    }
}
