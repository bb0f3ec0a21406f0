//! Cargo tools that are not part of the toolchain, at a known version.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::run;

/// A tool from crates.io. Its version is pinned, so that a new release cannot turn CI red by itself.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The crate, which is also `cargo <subcommand>` behind `cargo-`.
    pub(crate) krate: &'static str,
    pub(crate) version: &'static str,
}

/// Licences, bans and sources of dependencies.
pub(crate) const DENY: Tool = Tool { krate: "cargo-deny", version: "0.20.2" };
/// Line coverage by ptrace; needs no component of the toolchain.
pub(crate) const TARPAULIN: Tool = Tool { krate: "cargo-tarpaulin", version: "0.37.5" };

impl Tool {
    /// The command that installs it.
    pub(crate) fn recipe(&self) -> String {
        format!("cargo install --locked {} --version {}", self.krate, self.version)
    }

    /// Makes sure that it is there: any version will do on a developer's machine; `install` brings the pinned one.
    pub(crate) fn ensure(&self, install: bool) -> Result<()> {
        match (self.installed(), install) {
            (Some(version), _) if version == self.version => Ok(()),
            (Some(version), false) => {
                eprintln!("note: {} is {version}; CI uses {}", self.krate, self.version);
                Ok(())
            }
            (_, true) => run::shown(run::cargo().args(self.recipe().split(' ').skip(1)).arg("--force")),
            (None, false) => {
                bail!("{} is not installed: run `{}`, or this command with --install", self.krate, self.recipe())
            }
        }
    }

    fn installed(&self) -> Option<String> {
        let subcommand = self.krate.strip_prefix("cargo-").unwrap_or(self.krate);
        let said = run::captured(run::cargo().args([subcommand, "--version"]), Duration::from_secs(30)).ok()?;
        said.status.success().then(|| version(&said.stdout))?
    }
}

/// The last word of `cargo-deny 0.20.2`.
fn version(said: &str) -> Option<String> {
    let word = said.split_whitespace().last()?;
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_last_word() {
        assert_eq!(version("cargo-deny 0.20.2\n").as_deref(), Some("0.20.2"));
        assert_eq!(version("error: no such command"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn a_missing_tool_tells_how_to_get_it() {
        let tool = Tool { krate: "cargo-no-such-tool", version: "1.2.3" };
        let error = tool.ensure(false).unwrap_err().to_string();
        assert!(error.contains("cargo install --locked cargo-no-such-tool --version 1.2.3"), "{error}");
    }
}
