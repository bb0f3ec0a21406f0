//! `cargo xtask test`: everything that can be run.

use anyhow::Result;

use crate::{
    brokers::{Options, Session},
    examples, failures, run,
    workspace::Workspace,
};

/// All tests: unit, documentation, integration, examples, with the brokers they need.
///
/// Brings up the brokers whose provider crates exist (by URL, Docker Compose or natively), and takes down what it brought
/// up, also when it fails or is interrupted. A broker that cannot be had is left out by name, with how to get it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Environment:\n  \
    QUEUE_REQUIRE_BROKERS=1   a broker that cannot be had is a failure\n  \
    QUEUE_TEST_REDIS_URL, …   use this broker as it is (see `cargo xtask brokers status`)\n\nExamples:\n  \
    cargo xtask test\n  \
    cargo xtask test --install                     as root: also installs what is missing (Debian)\n  \
    QUEUE_REQUIRE_BROKERS=1 cargo xtask test       as CI does")]
pub(crate) struct Args {
    #[command(flatten)]
    brokers: Options,
}

pub(crate) fn perform(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let needed = Session::needed(&workspace);
    let session = Session::open(&workspace, &needed, args.brokers)?;

    // The examples come first: the results of the tests end the output.
    examples::perform(&workspace, session.variables())?;
    let mut test = run::cargo();
    test.args(["test", "--workspace", "--all-features", "--no-fail-fast"]).envs(session.variables().iter().cloned());
    failures::shown(&mut test)?;
    session.close()
}
