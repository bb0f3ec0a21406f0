//! Debian packages, without letting them start a service of their own.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::run;

const LIMIT: Duration = Duration::from_secs(600);

/// Whether packages can be installed here.
pub(crate) fn can_install() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("--install installs packages only as root");
    }
    match super::native::on_path("apt-get") {
        Some(_) => Ok(()),
        None => bail!("--install knows Debian's apt-get only"),
    }
}

/// Installs them, with a fresh package list if the one at hand does not do.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    can_install()?;
    eprintln!("installing {} (apt-get)", packages.join(", "));
    let _quiet = NoServices::at(Path::new("/usr/sbin/policy-rc.d"))?;
    let wanted = || [["install", "--yes", "--no-install-recommends"].as_slice(), packages].concat();
    if apt(&wanted()).is_ok() {
        return Ok(());
    }
    apt(&["update"])?;
    apt(&wanted())
}

fn apt(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(words).env("DEBIAN_FRONTEND", "noninteractive");
    let said = run::captured(&mut command, LIMIT)?;
    if said.status.success() { Ok(()) } else { bail!("`{}` failed: {}", run::line(&command), said.last_line()) }
}

/// While it lives, packages do not start their services: a server on its default port is not what a test needs.
#[derive(Debug)]
struct NoServices {
    /// The file to remove; none where the machine has its own policy.
    made: Option<PathBuf>,
}

impl NoServices {
    fn at(path: &Path) -> Result<Self> {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                let made = Self { made: Some(path.to_owned()) };
                file.write_all(b"#!/bin/sh\n# Made by `cargo xtask`, removed after the installation.\nexit 101\n")?;
                Ok(made)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { made: None }),
            Err(error) => Err(error).with_context(|| format!("{} cannot be written", path.display())),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.made
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("warning: {} stays, remove it: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_there_only_while_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        let policy = NoServices::at(&path).unwrap();
        assert_eq!(Command::new("sh").arg(&path).status().unwrap().code(), Some(101));
        drop(policy);
        assert!(!path.exists());
    }

    #[test]
    fn a_policy_of_the_machine_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy-rc.d");
        fs::write(&path, "mine").unwrap();
        drop(NoServices::at(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
