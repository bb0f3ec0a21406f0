//! The RabbitMQ provider against bare `lapin` on the same private broker: `cargo xtask bench rabbitmq`.
//!
//! The baselines are one quorum queue of persistent messages of 200 bytes: published with 1,000 confirms outstanding, whose futures
//! overlap; consumed with a prefetch of 1,000, every hundredth message acknowledged with all before it; and, one at a time on an idle
//! broker, the median from publishing to delivery. Each figure is the median of runs that alternate with their baselines', as
//! machines are noisy. `--quick` measures less of everything, once; a name measures what begins with it.
//!
//! Rows `broker_…` are the broker's processor time for a job, in microseconds, and for the same by bare `lapin` as their baseline.
//! `tracked_redis` is left out where there is no `redis-server`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

mod bare;
mod jobs;
mod rates;
mod redis;
#[path = "../../tests/server/mod.rs"]
mod server;

use std::collections::BTreeMap;

use server::Server;

/// As the `queue` binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) rounds: usize,
    pub(crate) jobs: u64,
    pub(crate) samples: usize,
}

const FULL: Scale = Scale { rounds: 5, jobs: 100_000, samples: 500 };
const QUICK: Scale = Scale { rounds: 1, jobs: 20_000, samples: 100 };

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) baseline: Option<f64>,
}

/// Rows of all rounds, in the order in which they came first.
#[derive(Default)]
struct Rows {
    order: Vec<&'static str>,
    found: BTreeMap<&'static str, Vec<Row>>,
}

impl Rows {
    fn add(&mut self, rows: Vec<Row>) {
        for row in rows {
            if !self.found.contains_key(row.name) {
                self.order.push(row.name);
            }
            self.found.entry(row.name).or_default().push(row);
        }
    }

    fn print(&self) {
        for name in &self.order {
            let rows = &self.found[name];
            let value = median(rows.iter().map(|row| row.value));
            let unit = rows[0].unit;
            let tail = match rows[0].baseline {
                None => r#""baseline":null,"ratio":null"#.to_owned(),
                Some(_) => {
                    let baseline = median(rows.iter().filter_map(|row| row.baseline));
                    format!(r#""baseline":{baseline:.2},"ratio":{:.4}"#, value / baseline)
                }
            };
            println!(r#"{{"name":"{name}","value":{value:.2},"unit":"{unit}",{tail}}}"#);
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a name on the command line chooses.
pub(crate) struct Wanted(Option<String>);

impl Wanted {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.0.as_deref().is_none_or(|wanted| name.starts_with(wanted) || wanted.starts_with(name))
    }
}

fn main() {
    let scale = if std::env::args().any(|argument| argument == "--quick") { QUICK } else { FULL };
    let wanted = Wanted(std::env::args().skip(1).find(|argument| !argument.starts_with('-')));
    if !server::is_installed() {
        panic!("there is no rabbitmq-server to measure: see `cargo xtask brokers up rabbitmq --install`");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::start();
    let mut rows = Rows::default();
    runtime.block_on(async {
        for _ in 0..scale.rounds {
            rows.add(rates::round(&server, scale, &wanted).await);
        }
    });
    rows.print();
}
