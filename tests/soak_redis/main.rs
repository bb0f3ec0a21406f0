//! Redis, or the workers, are killed again and again under load, and nothing may be lost: `cargo xtask soak redis`.
//!
//! Four worker processes, each on the provider's own worker, write down what they see; a checker as in Jepsen's total-queue judges
//! their logs against what the producers were told and what the store says in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod cluster;
mod idle;
mod sentinel;
#[path = "../soak/mod.rs"]
mod soak;
mod world;

use std::{process::ExitCode, time::Duration};

use queue_core::provider::Durability;
use soak::{
    phase::Phase,
    run::{self, Extra},
    stop,
};
use world::Blow;

const IDLE: &str = "idle";

/// Together 200,000 judged jobs at scale 1.
const PHASES: [Phase<Blow>; 5] = [
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
    run::main("redis", &PHASES, None, &[IDLE], async |settings, home, bar| {
        if !settings.wants(IDLE) || stop::asked() {
            return Ok(None);
        }
        let idle = idle::measure(settings.scale, home, bar).await?;
        Ok(Some(Extra { part: IDLE, line: idle.line(), figures: idle.json(), good: true }))
    })
}
