//! RabbitMQ with a Redis as its store: workers, the broker, a node of three, channels, memory and the store are taken away under load,
//! and nothing may be lost: `cargo xtask soak rabbitmq`.
//!
//! Four worker processes, each on the provider's own worker, write down what they see; a checker as in Jepsen's total-queue judges
//! their logs against what the producers were told and what the store says in the end. Beside them the bare provider publishes to a
//! queue of its own, whose content is held against what was claimed of each message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod claims;
mod delays;
mod outage;
#[path = "../../crates/queue-rabbitmq/tests/server/mod.rs"]
mod server;
#[path = "../soak/mod.rs"]
mod soak;
mod world;

use std::{process::ExitCode, time::Duration};

use soak::{phase::Phase, run};
use world::Blow;

const fn phase(name: &'static str, blow: Blow, jobs: u64, faults: u64, cycle: u64) -> Phase<Blow> {
    Phase { name, blow, jobs, faults, cycle: Duration::from_secs(cycle), durability: None, judged: true }
}

/// Together 100,000 judged jobs at scale 1.
const PHASES: [Phase<Blow>; 6] = [
    phase("kills", Blow::KillWorker, 40_000, 50, 3),
    phase("restarts", Blow::RestartBroker, 20_000, 10, 8),
    phase("node", Blow::KillNode, 5_000, 3, 10),
    phase("channels", Blow::CloseChannel, 5_000, 10, 3),
    phase("alarm", Blow::Alarm, 5_000, 1, 10),
    phase("store", Blow::KillStore, 25_000, 10, 12),
];

/// What every test run has of it: one worker, and then the broker.
const SMOKE: Phase<Blow> = phase("smoke", Blow::Both, 500, 2, 4);

fn main() -> ExitCode {
    let smoke = server::is_installed().then_some(&SMOKE);
    run::main("rabbitmq", &PHASES, smoke, &[delays::PART], async |settings, _, bar| {
        if settings.wants(delays::PART) { delays::measure(settings, bar).await.map(Some) } else { Ok(None) }
    })
}
