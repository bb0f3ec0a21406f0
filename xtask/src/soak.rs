//! `cargo xtask soak`: the long runs.

use anyhow::{Context as _, Result, bail};
use cargo_metadata::TargetKind;

use crate::{
    brokers::{Options, Session},
    run,
    workspace::Workspace,
};

/// A soak test is a test target of this name whose tests are `#[ignore]`d, so that nothing else runs them.
pub(crate) const PREFIX: &str = "soak_";

/// These start the servers that they kill.
const OWN_SERVERS: [&str; 2] = ["rabbitmq", "redis"];

/// A long run under faults or with large inputs, in release mode.
///
/// NAME is a test target `soak_NAME`. Its tests are `#[ignore]`d and read their size from QUEUE_SOAK_SCALE. Without NAME
/// the soak tests are listed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask soak                          lists them\n  \
    cargo xtask soak run_file --scale 0.01    a quick look\n  \
    cargo xtask soak run_file                 the whole of it\n  \
    cargo xtask soak redis --only kills,idle --seed 7 --json\n  \
    cargo xtask soak rabbitmq --scale 0.05    each part in a minute at most")]
pub(crate) struct Args {
    /// Which.
    name: Option<String>,
    /// A factor on the amount of work: 1 is what the documentation's figures were measured with.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Where random numbers start. Each run has another and prints it; the same one makes the same jobs and faults, but not
    /// the same timing.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these parts, by name and separated by commas, where a soak has parts.
    #[arg(long, value_name = "PARTS")]
    only: Option<String>,
    /// Print the figures as JSON, where a soak has them.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    brokers: Options,
}

pub(crate) fn perform(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let soaks = soaks(workspace.targets(&TargetKind::Test));
    let Some(name) = &args.name else {
        println!("{}", list(&soaks));
        return Ok(());
    };
    // As commands are written, or as targets are.
    let name = &name.replace('-', "_");
    let found = soaks.iter().find(|(_, soak)| soak == name);
    let (package, _) = found.with_context(|| format!("no soak test `{name}`\n{}", list(&soaks)))?;
    let needed = if OWN_SERVERS.contains(&name.as_str()) { Vec::new() } else { Session::needed(&workspace) };
    let session = Session::open(&workspace, &needed, args.brokers)?;

    let mut test = run::cargo();
    test.args(["test", "--release", "--all-features", "--package", package, "--test", &format!("{PREFIX}{name}")]);
    test.args(["--", "--include-ignored", "--nocapture", "--test-threads=1"]);
    test.env("QUEUE_SOAK_SCALE", args.scale.to_string()).envs(session.variables().iter().cloned());
    test.envs(args.seed.map(|seed| ("QUEUE_SOAK_SEED", seed.to_string())));
    test.envs(args.only.as_ref().map(|only| ("QUEUE_SOAK_ONLY", only)));
    test.envs(args.json.then_some(("QUEUE_SOAK_JSON", "1")));
    run::shown(&mut test)?;
    session.close()
}

/// Package and name.
fn soaks(targets: Vec<(String, String)>) -> Vec<(String, String)> {
    let named = |(package, target): (String, String)| Some((package, target.strip_prefix(PREFIX)?.to_owned()));
    targets.into_iter().filter_map(named).collect()
}

fn list(soaks: &[(String, String)]) -> String {
    if soaks.is_empty() {
        return format!("there are no soak tests yet: a test target `{PREFIX}NAME` is one");
    }
    let rows: Vec<String> = soaks.iter().map(|(package, name)| format!("  {name}  ({package})")).collect();
    format!("soak tests:\n{}", rows.join("\n"))
}

fn scale(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(scale) if scale > 0.0 && f64::is_finite(scale) => Ok(scale),
        _ => bail!("a scale is a number above 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soaks_are_found_by_their_prefix() {
        let targets = [("tests", "soak_run"), ("tests", "run"), ("queue-memory", "soak_leases")];
        let targets = targets.map(|(package, target)| (package.to_owned(), target.to_owned())).to_vec();
        let found = soaks(targets);
        assert_eq!(found, [("tests".into(), "run".into()), ("queue-memory".into(), "leases".into())]);
        assert!(list(&found).contains("leases  (queue-memory)"));
        assert!(list(&[]).contains("no soak tests yet"));
    }

    #[test]
    fn scales_are_positive() {
        assert_eq!(scale("0.01").unwrap(), 0.01);
        for bad in ["0", "-1", "inf", "NaN", "many"] {
            assert!(scale(bad).is_err(), "{bad}");
        }
    }
}
