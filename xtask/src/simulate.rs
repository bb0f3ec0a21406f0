//! `cargo xtask simulate`: the whole system under seeds.

use anyhow::{Context as _, Result};
use cargo_metadata::TargetKind;

use crate::{run, workspace::Workspace};

/// The test target with the simulator in it. `cargo xtask test` runs it too, with as many seeds as CI has time for.
const TARGET: &str = "simulate";
/// Each rule of the tracked layer, taken away.
const RULES: &str = "simulation_rules";

/// Runs the system under seeds: crashes, lost answers, outages, late leases; and checks what must hold.
///
/// A seed that fails prints what happened, a line each, and replays exactly. docs/book/simulation.md says how to read it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask simulate                               as CI does\n  \
    cargo xtask simulate --seeds 1000 --seed 500000    others than CI\n  \
    cargo xtask simulate --seed 7 --world memory --trace    one seed, with everything that happens in it\n  \
    cargo xtask simulate --rules                       which seeds show what each rule of the tracked layer is for")]
pub(crate) struct Args {
    /// How many seeds; one with --trace, else as many as in CI.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only this world; else seeds take turns in all of them.
    #[arg(long)]
    world: Option<String>,
    /// Print what happens in every seed, a line each.
    #[arg(long)]
    trace: bool,
    /// One JSON object a line on standard output, nothing else: failures, then a summary.
    #[arg(long)]
    json: bool,
    /// Look for seeds that fail where a rule of the tracked layer is taken away, and print the table of `simulation_rules`
    /// anew: --seeds (60) from --seed on for each rule.
    #[arg(long, conflicts_with_all = ["world", "trace", "json"])]
    rules: bool,
    /// Build with optimizations: worth its while from some 50,000 seeds on.
    #[arg(long)]
    release: bool,
}

pub(crate) fn perform(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let targets = workspace.targets(&TargetKind::Test);
    let target = if args.rules { RULES } else { TARGET };
    let found = targets.iter().find(|(_, name)| name == target);
    let (package, _) = found.with_context(|| format!("there is no test target `{target}`"))?;
    let mut test = run::cargo();
    test.args(["test", "--quiet", "--package", package, "--test", target]);
    if args.release {
        test.arg("--release");
    }
    if args.rules {
        test.env("QUEUE_SEED", args.seed.to_string());
        test.envs(args.seeds.map(|seeds| ("QUEUE_SEEDS", seeds.to_string())));
        test.args(["--", "--ignored", "--nocapture", "look_for_seeds"]);
    } else {
        test.arg("--").args(words(args));
    }
    run::shown(&mut test).context("a seed failed, or the simulator did not run")
}

fn words(args: &Args) -> Vec<String> {
    let seeds = args.seeds.map(|seeds| vec!["--seeds".to_owned(), seeds.to_string()]);
    let world = args.world.clone().map(|world| vec!["--world".to_owned(), world]);
    let flags = [(args.trace, "--trace"), (args.json, "--json")];
    let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.to_owned());
    let first = ["--seed".to_owned(), args.seed.to_string()];
    seeds.into_iter().flatten().chain(first).chain(world.into_iter().flatten()).chain(flags).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_is_told_what_was_asked() {
        let mut args =
            Args { seeds: None, seed: 7, world: None, trace: true, json: false, rules: false, release: false };
        assert_eq!(words(&args), ["--seed", "7", "--trace"]);
        args = Args { seeds: Some(3), world: Some("log".to_owned()), trace: false, json: true, ..args };
        assert_eq!(words(&args), ["--seeds", "3", "--seed", "7", "--world", "log", "--json"]);
    }
}
