//! The command line of a simulator: for a test target of one's own worlds, with `harness = false`.

use std::{io::Write as _, process::ExitCode, sync::Arc};

use super::{Campaign, Outcome, Tally, World, run::simulate};

/// What was asked for.
#[derive(Debug, Clone)]
struct Asked {
    seeds: u64,
    first: u64,
    world: Option<String>,
    trace: bool,
    json: bool,
    threads: Option<usize>,
}

const USAGE: &str = "\
[--seeds N] [--seed S] [--world NAME] [--trace] [--json] [--threads N]
  --seeds N     so many seeds (default: what CI runs)
  --seed S      the first of them (default 0)
  --world NAME  only this world; else seeds take turns
  --trace       print what happens, a line each, of every seed
  --json        one JSON object a line: failures, then a summary
  --threads N   as many at a time (default: one a core)";

/// How many failures are told in full.
const MOST_TOLD: usize = 3;

/// Reads the command line, runs the seeds and says what came of it. `seeds` is the default number. Seeds take turns in
/// `worlds`, in which one may have several turns; those in `by_name` are entered only where `--world` names them.
#[must_use]
pub fn perform(worlds: &[Arc<dyn World>], by_name: &[Arc<dyn World>], seeds: u64) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match read(&arguments, seeds) {
        Ok(Some(asked)) => conduct(worlds, by_name, &asked),
        // What a test runner asks of a test target.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error}\n{USAGE}\nworlds: {}", names(worlds, by_name)));
            ExitCode::from(2)
        }
    }
}

fn read(arguments: &[String], seeds: u64) -> Result<Option<Asked>, String> {
    let mut asked = Asked { seeds, first: 0, world: None, trace: false, json: false, threads: None };
    let mut count = None;
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
        match word.as_str() {
            "--seeds" => count = Some(number(value()?)?),
            "--seed" => asked.first = number(value()?)?,
            "--world" => asked.world = Some(value()?),
            "--trace" => asked.trace = true,
            "--json" => asked.json = true,
            "--threads" => asked.threads = usize::try_from(number(value()?)?).ok(),
            "--list" => return Ok(None),
            // Of a test runner, to whom all targets are alike.
            "--nocapture" | "--include-ignored" | "--quiet" | "-q" => {}
            word if word.starts_with("--test-threads") || word.starts_with("--format") => {}
            other => return Err(format!("unknown: {other}")),
        }
    }
    asked.seeds = count.unwrap_or(if asked.trace { 1 } else { asked.seeds });
    Ok(Some(asked))
}

fn say(text: &str) {
    // Nobody left to read it: nothing to be done about that.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn names(worlds: &[Arc<dyn World>], by_name: &[Arc<dyn World>]) -> String {
    let mut names: Vec<&str> = worlds.iter().chain(by_name).map(|world| world.name()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn conduct(worlds: &[Arc<dyn World>], by_name: &[Arc<dyn World>], asked: &Asked) -> ExitCode {
    let chosen: Vec<Arc<dyn World>> = match &asked.world {
        Some(name) => worlds.iter().chain(by_name).filter(|world| world.name() == name).cloned().collect(),
        None => worlds.to_vec(),
    };
    if chosen.is_empty() {
        say(&format!("no such world; there are: {}", names(worlds, by_name)));
        return ExitCode::from(2);
    }
    let mut campaign = Campaign::new(chosen, asked.first, asked.seeds);
    if let Some(threads) = asked.threads {
        campaign.threads = threads;
    }
    if asked.trace {
        return show(&campaign, asked.json);
    }
    let tally = campaign.run();
    if asked.json {
        tell_json(&tally)
    } else {
        tell(&tally)
    }
    if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every seed in full.
fn show(campaign: &Campaign, json: bool) -> ExitCode {
    let mut clean = true;
    for number in 0..campaign.seeds {
        let seed = campaign.first.wrapping_add(number);
        let outcome = simulate(campaign.world(seed), seed, true);
        clean &= outcome.is_clean();
        if json { say(&failure(&outcome)) } else { say(&format!("{}\n{outcome}", outcome.trace.join("\n"))) }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(tally: &Tally) {
    for outcome in tally.failures.iter().take(MOST_TOLD) {
        say(&format!(
            "{}\n{outcome}  again: cargo xtask simulate --seed {} --seeds 1 --world {} --trace\n",
            outcome.trace.join("\n"),
            outcome.seed,
            outcome.world
        ));
    }
    for outcome in tally.failures.iter().skip(MOST_TOLD) {
        say(&outcome.to_string());
    }
    let verdict = if tally.failures.is_empty() { "ok" } else { "FAILED" };
    say(&format!("simulation: {verdict}: {tally}"));
}

fn tell_json(tally: &Tally) {
    tally.failures.iter().for_each(|outcome| say(&failure(outcome)));
    let summary = serde_json::json!({
        "seeds": tally.seeds, "worlds": tally.by_world, "failed": tally.failures.len(), "virtual_secs": tally.virtual_secs,
    });
    say(&summary.to_string());
}

fn failure(outcome: &Outcome) -> String {
    serde_json::json!({
        "seed": outcome.seed, "world": outcome.world, "wrongs": outcome.wrongs, "summary": outcome.summary,
        "digest": format!("{:016x}", outcome.digest), "trace": outcome.trace,
    })
    .to_string()
}
