//! Redis, or the workers, are killed again and again under load, and nothing may be lost: `cargo xtask soak redis`.
//!
//! Four worker processes, each on the provider's own worker, write down what they see; a checker as in Jepsen's total-queue judges
//! their logs against what the producers were told and what the store says in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod cluster;
mod fleet;
mod idle;
mod judge;
mod load;
mod log;
mod node;
mod phase;
mod producers;
mod sentinel;
mod show;
mod stop;
mod tap;
mod worker;
mod world;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use phase::{Figures, Phase};
use queue_core::provider::Durability;
use show::Bar;
use world::Blow;

/// Together 200,000 judged jobs at scale 1.
const PHASES: [Phase; 5] = [
    Phase {
        name: "kills",
        blow: Blow::KillWorker,
        jobs: 100_000,
        faults: 100,
        cycle: Duration::from_secs(3),
        durability: None,
        judged: true,
    },
    Phase {
        name: "restarts",
        blow: Blow::RestartServer,
        jobs: 40_000,
        faults: 10,
        cycle: Duration::from_secs(8),
        durability: None,
        judged: true,
    },
    Phase {
        name: "failovers",
        blow: Blow::FailOver,
        jobs: 30_000,
        faults: 5,
        cycle: Duration::from_secs(15),
        durability: Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(1) }),
        judged: true,
    },
    Phase {
        name: "migrations",
        blow: Blow::MigrateSlot,
        jobs: 30_000,
        faults: 10,
        cycle: Duration::from_secs(8),
        durability: None,
        judged: true,
    },
    // What a failover takes with it where nobody waits for a replica.
    Phase {
        name: "unsafe-failovers",
        blow: Blow::FailOver,
        jobs: 10_000,
        faults: 5,
        cycle: Duration::from_secs(15),
        durability: Some(Durability::Relaxed),
        judged: false,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if arguments.first().is_some_and(|first| first == "worker") {
        runtime.block_on(worker::perform(&arguments[1..])).unwrap();
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--include-ignored") {
        println!("LEFT OUT: a soak; run it with `cargo xtask soak redis`");
        return ExitCode::SUCCESS;
    }
    stop::listen();
    match runtime.block_on(perform()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("QUEUE_SOAK_{name}")).ok().filter(|value| !value.is_empty())
}

async fn perform() -> Result<bool> {
    let scale: f64 = setting("SCALE").map_or(Ok(1.0), |scale| scale.parse())?;
    let seed =
        setting("SEED").map_or_else(|| Ok(queue_core::Env::system().random.next_u64() >> 16), |seed| seed.parse())?;
    let only = setting("ONLY");
    let chosen: Vec<Phase> = PHASES
        .into_iter()
        .filter(|phase| only.as_deref().is_none_or(|only| only.split(',').any(|one| one == phase.name)))
        .collect();
    let home = tempfile::tempdir()?;
    let bar = Bar::new();
    bar.say(&format!("soak redis: seed {seed}, scale {scale}"));
    let mut all: Vec<Figures> = Vec::new();
    for phase in chosen {
        if stop::asked() {
            break;
        }
        let figures = phase.perform(scale, seed, home.path(), &bar).await?;
        bar.say(&format!("{}: {:.0} s", phase.name, figures.took.as_secs_f64()));
        for line in show::complaints(&figures) {
            bar.say(&line);
        }
        all.push(figures);
    }
    let wanted = only.as_deref().is_none_or(|only| only.split(',').any(|one| one == "idle"));
    let idle = if wanted && !stop::asked() { Some(idle::measure(scale, home.path(), &bar).await?) } else { None };
    drop(bar);
    match setting("JSON") {
        Some(_) => println!("{}", show::json(&all, scale, idle.as_ref())),
        None => {
            print!("{}", show::table(&all));
            idle.iter().for_each(|idle| println!("{}", idle.line()));
        }
    }
    Ok(all.iter().all(|figures| figures.is_good() || !figures.phase.judged))
}
