//! Another Debian suite's RabbitMQ, in a root of its own beside the machine's.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::run;

/// Which programs of it are called from outside, and where they are inside.
const PROGRAMS: [(&str, &str); 3] = [
    ("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server"),
    ("rabbitmqctl", "/usr/lib/rabbitmq/bin/rabbitmqctl"),
    ("epmd", "/usr/bin/epmd"),
];
/// About 150 MB are downloaded and unpacked.
const MAKING: Duration = Duration::from_secs(900);
const MIRROR: &str = "http://deb.debian.org/debian";
/// The one for every suite of these years: a `debootstrap` does not know the names of suites that are younger than itself.
const SCRIPT: &str = "/usr/share/debootstrap/scripts/sid";
/// Its presence says that the root is whole.
const WHOLE: &str = "programs";

/// What makes it.
pub(super) const MAKER: &str = "debootstrap";

/// The folder of programs that run in the root of a suite.
pub(super) fn programs(brokers: &Path, suite: &str) -> PathBuf {
    root(brokers, suite).join(WHOLE)
}

fn root(brokers: &Path, suite: &str) -> PathBuf {
    brokers.join(format!("root-{suite}"))
}

/// Makes the root where it is not there yet.
///
/// # Errors
/// Not as root, without a mirror, or where the folder's name is one that a script cannot have in it.
pub(super) fn make(brokers: &Path, suite: &str) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a root of Debian's {suite} is made and entered only as root");
    let root = &root(brokers, suite);
    ensure!(!root.display().to_string().contains(['\'', ' ']), "no root in {}: a blank or a quote", root.display());
    if programs(brokers, suite).is_dir() {
        return Ok(());
    }
    // What an interrupted one has left.
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} cannot be removed", root.display()));
        }
        _ => {}
    }
    fs::create_dir_all(root)?;
    eprintln!("making a root of Debian's {suite} with its RabbitMQ (debootstrap): a minute or two");
    // What it mounts inside goes with it, also where it is killed: the next try removes the folder, and must not reach through.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", MAKER]);
    command.args(["--variant=minbase", "--include=rabbitmq-server", suite]).arg(root).args([MIRROR, SCRIPT]);
    let said = run::captured(&mut command, MAKING)?;
    ensure!(said.status.success(), "`{}` failed: {}", run::line(&command), said.last_line());
    // Not every suite's smallest system has it, and nodes are called `…@localhost`.
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    write_programs(root)
}

/// Each enters the root in a mount namespace of its own, which ends with it, and becomes the program: a signal reaches that.
fn write_programs(root: &Path) -> Result<()> {
    let draft = root.join("programs.new");
    fs::create_dir_all(&draft)?;
    for (name, inside) in PROGRAMS {
        let path = draft.join(name);
        fs::write(&path, entering(root, inside))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(draft, root.join(WHOLE)).context("the programs cannot be put in their place")
}

/// Whoever calls it keeps all of a node's data in its home, which is the same folder inside.
fn entering(root: &Path, inside: &str) -> String {
    format!(
        r#"#!/bin/sh
# Made by `cargo xtask brokers`: runs {inside} of {root}.
set -e
if [ "${{QUEUE_IN_ROOT:-}}" != yes ]; then
    exec env QUEUE_IN_ROOT=yes unshare --mount --propagation private "$0" "$@"
fi
root='{root}'
home="${{HOME:-/root}}"
mkdir -p "$root$home"
mount --bind "$home" "$root$home"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" {inside} "$@"
"#,
        root = root.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_enters_its_root_and_becomes_what_it_is_named_after() {
        let brokers = tempfile::tempdir().unwrap();
        let root = root(brokers.path(), "trixie");
        fs::create_dir_all(&root).unwrap();
        write_programs(&root).unwrap();
        let programs = programs(brokers.path(), "trixie");
        for (name, inside) in PROGRAMS {
            let path = programs.join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
            let script = fs::read_to_string(path).unwrap();
            assert!(script.contains(&format!("root='{}'", root.display())), "{script}");
            assert!(script.ends_with(&format!("exec chroot \"$root\" {inside} \"$@\"\n")), "{script}");
        }
        assert!(!root.join("programs.new").exists());
    }

    #[test]
    fn a_folder_that_a_script_cannot_name_is_refused() {
        let error = make(Path::new("/it's"), "trixie").unwrap_err().to_string();
        assert!(error.contains("quote") || error.contains("only as root"), "{error}");
    }
}
