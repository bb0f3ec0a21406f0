//! The Redis provider against `redis-benchmark` on the same private server: `cargo xtask bench redis`.
//!
//! The baseline of rates, R, is un-pipelined `LPUSH` of 200 bytes by 50 clients; that of latencies is the median of `PING` through the
//! client that the provider uses, as seldom as the jobs. Each figure is the median of runs that alternate with their baselines', as machines are noisy. Jobs have
//! payloads of 200 bytes and are fully tracked, unless the row says otherwise. `--quick` measures less of everything, once; a name
//! measures what begins with it.
//!
//! Rows of costs are counted by the server: `…_script` in microseconds of `EVALSHA` (`INFO commandstats`), `…_server` in microseconds of
//! processor time of its main thread (`INFO cpu`), sockets and all.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, missing_docs, reason = "a benchmark")]

mod costs;
mod jobs;
mod rates;
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
    /// Jobs that wait, or are dead, where costs are compared to those at 1,000.
    pub(crate) many: u64,
}

const FULL: Scale = Scale { rounds: 5, jobs: 200_000, samples: 2_000, many: 500_000 };
const QUICK: Scale = Scale { rounds: 1, jobs: 20_000, samples: 200, many: 50_000 };

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

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::start();
    let mut rows = Rows::default();
    runtime.block_on(async {
        for _ in 0..scale.rounds {
            rows.add(rates::round(&server, scale, &wanted).await);
        }
        rows.add(costs::all(&server, scale, &wanted).await);
    });
    rows.print();
}
