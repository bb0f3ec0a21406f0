//! What an idle worker process asks of Redis. `cargo test -p queue-redis --test idle -- --ignored --nocapture` prints it; it takes three
//! minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::BTreeMap, time::Duration};

use queue_core::{Env, Failure, Job, JobScheduler};
use queue_redis::{RedisOptions, RedisProvider};
use serde::{Deserialize, Serialize};
use server::Server;
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Mail {
    to: String,
}

impl Job for Mail {
    const KIND: &'static str = "mail.send";
    const QUEUE: &'static str = "mail";
    type Output = ();
}

/// Calls by command, those that a client makes when it connects left out.
fn calls(server: &Server) -> BTreeMap<String, u64> {
    let report = server.tell(&["INFO", "commandstats"]);
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = rest.strip_prefix("calls=")?.split_once(',')?.0.parse().ok()?;
        Some((name.to_owned(), calls))
    };
    report.lines().filter_map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes three minutes, and prints"]
async fn waiting_costs_ten_commands_a_minute_beside_maintenance() {
    const MINUTES: u32 = 3;
    let server = Server::start().unwrap();
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let queues = JobScheduler::new(provider);
    let handler = async |_: Mail| Ok::<_, Failure>(());
    let worker = queues.worker().queue("mail", 8).register(handler).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = calls(&server);
    tokio::time::sleep(MINUTES * Duration::from_secs(60)).await;
    let mut total = 0.0;
    for (name, calls) in calls(&server) {
        let more = calls - before.get(&name).copied().unwrap_or(0);
        // Asking for the numbers is no part of it.
        if more > 0 && !name.starts_with("client|") && name != "info" {
            let a_minute = more as f64 / f64::from(MINUTES);
            eprintln!("{name:<24} {a_minute:.1} a minute");
            total += a_minute;
            // Waiting for jobs, for requests to stop, looking whether the server is there; and each second who leads, and what time
            // owes the queue. (Which queues there are is another, among the `zrange` of that script.)
            let most = match name.as_str() {
                "bzpopmin" | "xread" => 2.0,
                "ping" => 7.0,
                "evalsha" => 130.0,
                _ => f64::INFINITY,
            };
            assert!(a_minute <= most, "{name}");
        }
    }
    eprintln!("{total:.0} in all (inside scripts counted as well)");
    drop(worker);
}
