//! `cargo xtask integration`: the conformance and end-to-end tests alone.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use cargo_metadata::TargetKind;

use crate::{
    brokers::{self, Options, Session},
    failures, run,
    workspace::Workspace,
};

/// What needs no broker and can still be asked for.
const IN_PROCESS: [&str; 2] = ["memory", "models"];
/// Packages whose test targets all belong here; of the others, those called `conformance`.
const PACKAGES: [&str; 2] = ["queue-testkit", "queue-e2e"];

/// The conformance and end-to-end tests, with the brokers they need.
///
/// These are the test targets of `queue-testkit` and `queue-e2e` (tests/), and each provider crate's `tests/conformance.rs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask integration\n  \
    cargo xtask integration --only redis\n  \
    cargo xtask integration --only redis-cluster\n  \
    cargo xtask integration --only rabbitmq-trixie --install\n  \
    cargo xtask integration --only memory -- stale_receipt")]
pub(crate) struct Args {
    /// Only this broker (redis, rabbitmq, rabbitmq-trixie, kafka, sqs, …) or what runs in the process (memory, models). Others are not started;
    /// the tests read it in `QUEUE_TEST_ONLY`. Another shape of a broker (redis-sentinel, redis-cluster, rabbitmq-cluster) stands in for
    /// the plain one. It is a failure where nothing ran on it.
    #[arg(long, value_name = "BROKER")]
    only: Option<String>,
    #[command(flatten)]
    brokers: Options,
    /// Handed to the test programs: parts of test names, --nocapture, --list, …
    #[arg(last = true, value_name = "TEST FILTERS")]
    filters: Vec<String>,
}

pub(crate) fn perform(args: &Args) -> Result<()> {
    if args.only.is_some()
        && let Some(filter) = args.filters.iter().find(|filter| hides_names(filter))
    {
        bail!("{filter} hides the names of the tests, by which --only sees what ran: leave it out");
    }
    let workspace = Workspace::load()?;
    let chosen = targets(workspace.targets(&TargetKind::Test));
    if chosen.is_empty() {
        bail!(
            "there are no integration tests yet: they belong into queue-testkit, tests/ or a provider's tests/conformance.rs"
        );
    }
    let needed = match args.only.as_deref() {
        None => Session::needed(&workspace),
        Some(name) if IN_PROCESS.contains(&name) => Vec::new(),
        Some(name) => vec![brokers::find(name)?],
    };
    let session = Session::open(&workspace, &needed, args.brokers)?;

    let mut test = run::cargo();
    test.args(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    test.args(chosen.iter().flat_map(|target| ["--test", target]));
    test.arg("--").args(&args.filters).envs(session.variables().iter().cloned());
    let Some(only) = &args.only else {
        failures::shown(&mut test)?;
        return session.close();
    };
    let known_as = needed.first().map_or(only.as_str(), |broker| broker.known_as());
    test.env("QUEUE_TEST_ONLY", known_as);
    for broker in &needed {
        match session.variables().iter().find(|(name, _)| *name == broker.url_var) {
            Some((_, url)) => {
                test.env(broker.looked_for_in(), url);
            }
            // Tests may have plain servers of their own, and those are not what was asked for.
            None if known_as != broker.name => bail!("nothing can run on {only}: it cannot be had"),
            None => {}
        }
    }
    let mut ran = 0_u64;
    failures::overheard(&mut test, |line| ran += u64::from(is_of(only, known_as, line)))?;
    session.close()?;
    if ran == 0 && !args.filters.iter().any(|filter| filter == "--list") {
        bail!("nothing ran on {only}: it could not be had, or the filters leave no test of it");
    }
    eprintln!("{ran} tests ran on {only}");
    Ok(())
}

/// Whether a test program that is told this says no more which tests it ran.
fn hides_names(filter: &str) -> bool {
    ["-q", "--quiet", "--format"].contains(&filter) || filter.starts_with("--format=")
}

/// Whether a test of the conformance suite that was asked for has ended, as a test program says it. What starts a plain broker of its own
/// beside the given one is called `…_own`, which is no other shape or release.
fn is_of(only: &str, known_as: &str, line: &str) -> bool {
    let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else { return false };
    let Some((factory, _)) = name.split_once("::") else { return false };
    let meant = factory == known_as
        || known_as == "models" && factory.ends_with("_model")
        || only == known_as && factory.strip_suffix("_own") == Some(known_as);
    meant && ["ok", "FAILED"].contains(&end.trim())
}

fn targets(all: Vec<(String, String)>) -> BTreeSet<String> {
    let soak = |target: &str| target.starts_with(crate::soak::PREFIX);
    all.into_iter()
        .filter(|(package, target)| PACKAGES.contains(&package.as_str()) || target == "conformance")
        .map(|(_, target)| target)
        .filter(|target| !soak(target))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_on_what_was_asked_for_counts() {
        for (line, counts) in [
            ("test redis::load::many ... ok", true),
            ("test redis::load::many ... FAILED", true),
            ("test redis::load::many (ignored: slow) ... ignored", false),
            ("test rabbitmq::load::many ... ok", false),
            ("test redis_url ... ok", false),
            ("test result: ok. 3 passed; 0 failed", false),
            ("running 3 tests", false),
        ] {
            assert_eq!(is_of("redis", "redis", line), counts, "{line}");
        }
        let own = "test rabbitmq_own::load::broker_restarted_twice ... ok";
        assert!(is_of("rabbitmq", "rabbitmq", own));
        assert!(!is_of("rabbitmq-trixie", "rabbitmq", own), "the machine's own release");
        assert!(is_of("rabbitmq-trixie", "rabbitmq", "test rabbitmq::load::many ... ok"));
        assert!(is_of("models", "models", "test push_model::load::many ... ok"));
    }

    #[test]
    fn what_hides_the_names_is_refused() {
        for (filter, hides) in [("-q", true), ("--quiet", true), ("--format=terse", true), ("--nocapture", false)] {
            assert_eq!(hides_names(filter), hides, "{filter}");
        }
    }

    #[test]
    fn conformance_and_end_to_end_targets_are_chosen() {
        let all = [
            ("queue-core", "envelope"),
            ("queue-memory", "conformance"),
            ("queue-redis", "conformance"),
            ("queue-testkit", "saboteur"),
            ("queue-e2e", "run_file"),
            ("queue-e2e", "soak_run"),
        ];
        let all = all.map(|(package, target)| (package.to_owned(), target.to_owned()));
        let chosen: Vec<String> = targets(all.to_vec()).into_iter().collect();
        assert_eq!(chosen, ["conformance", "run_file", "saboteur"]);
    }
}
