//! `cargo xtask check`: everything that can be said about the code without running it.

mod features;
mod isolation;

use std::process::Command;

use anyhow::Result;

use crate::{run, steps::Steps, tool::DENY, workspace::Workspace};

/// Formatting, lints, features one by one, who may know a broker, documentation, licences.
#[derive(Debug, clap::Args)]
#[command(after_help = "Stops at the first failure and says what to do.\n\nExamples:\n  \
    cargo xtask check              before a push\n  \
    cargo xtask check --install    also installs cargo-deny, as CI does")]
pub(crate) struct Args {
    /// Install the tools that are missing (cargo-deny, about 3 minutes).
    #[arg(long)]
    install: bool,
}

const DENIED: [&str; 3] = ["--", "-D", "warnings"];

pub(crate) fn perform(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let mut steps = Steps::default();

    steps.step("format", "run `cargo fmt --all`", || run::shown(run::cargo().args(["fmt", "--all", "--check"])))?;
    steps.step(
        "who may know a broker",
        "drop the dependency, or reach the broker through its provider crate",
        || isolation::check(workspace.metadata()),
    )?;
    steps.step("lints", "mend what clippy names", || {
        run::shown(run::cargo().args(["clippy", "--workspace", "--all-targets", "--all-features"]).args(DENIED))
    })?;
    steps.step(
        "features one by one",
        "the crate does not stand alone: enable what it uses in its own manifest",
        || features::combinations(&workspace).iter().try_for_each(|one| run::shown(&mut clippy(one))),
    )?;
    steps.step("documentation", "mend the links and code blocks that rustdoc names", || {
        let mut doc = run::cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--all-features"]);
        run::shown(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.step("dependencies", "see deny.toml for what is allowed, and why", || {
        DENY.ensure(args.install)?;
        // Advisories need a database from the network; everything else is decided by the lock file and the sources.
        run::shown(run::cargo().args([
            "deny",
            "--offline",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]))
    })?;

    eprint!("\nAll checks passed.\n{}", steps.summary());
    Ok(())
}

fn clippy(one: &features::Combination) -> Command {
    let mut command = run::cargo();
    command.args(["clippy", "--quiet"]).args(one.flags()).args(DENIED);
    command
}
