//! `cargo xtask coverage`: which lines the tests reach.

use anyhow::Result;

use crate::{
    brokers::{Options, Session},
    run,
    tool::TARPAULIN,
    workspace::Workspace,
};

/// Line coverage of the tests by cargo-tarpaulin: a table, and target/coverage/lcov.info for editors.
///
/// The tool traces the tests with ptrace, so it needs no component of the toolchain; it runs on Linux and builds into a
/// folder of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask coverage --install                  the whole workspace; installs cargo-tarpaulin if missing\n  \
    cargo xtask coverage -p queue-core -p queue-memory")]
pub(crate) struct Args {
    /// Only these packages.
    #[arg(short, long = "package", value_name = "PACKAGE")]
    packages: Vec<String>,
    #[command(flatten)]
    brokers: Options,
}

pub(crate) fn perform(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    TARPAULIN.ensure(args.brokers.install)?;
    let session = Session::open(&workspace, &Session::needed(&workspace), args.brokers)?;

    let target = workspace.target();
    let mut command = run::cargo();
    command.args(["tarpaulin", "--engine", "ptrace", "--all-features", "--skip-clean", "--out", "Lcov"]);
    command.arg("--output-dir").arg(target.join("coverage")).arg("--target-dir").arg(target.join("tarpaulin"));
    command.args(["--exclude-files", "xtask/*", "--exclude-files", "*/tests/*"]);
    if args.packages.is_empty() {
        command.args(["--workspace", "--exclude", "xtask"]);
    }
    command.args(args.packages.iter().flat_map(|package| ["--package", package]));
    command.envs(session.variables().iter().cloned());
    run::shown(&mut command)?;
    eprintln!("lcov: {}", target.join("coverage/lcov.info").display());
    session.close()
}
