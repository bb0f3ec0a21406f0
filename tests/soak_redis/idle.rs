//! What a worker process that has nothing to do asks of Redis.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use queue_core::{Env, JobScheduler, QueueName};
use serde_json::{Value, json};

use crate::{
    soak::{
        blow::{Blow as _, World as _},
        fleet::Fleet,
        load,
        show::Bar,
        stop,
        worker::connect,
    },
    world::Blow,
};

/// At scale 1.
const LONG: Duration = Duration::from_secs(120);
/// For what a process does once at its start.
const SETTLE: Duration = Duration::from_secs(10);

/// Commands a minute of one process, by name; and the time Redis spends on them.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) seconds: f64,
    /// What came over the wire, without what scripts call.
    pub(crate) sent: BTreeMap<String, u64>,
    /// Of Redis's CPU, scripts included.
    pub(crate) micros: u64,
}

impl Idle {
    fn a_minute(&self, count: u64) -> f64 {
        count as f64 * 60.0 / self.seconds
    }

    pub(crate) fn line(&self) -> String {
        let each = self.sent.iter().map(|(name, count)| format!("{name} {:.1}", self.a_minute(*count)));
        let all: u64 = self.sent.values().sum();
        format!(
            "idle: {:.1} commands a minute of one worker process on one queue ({}), {:.1} ms of Redis's CPU a minute",
            self.a_minute(all),
            each.collect::<Vec<_>>().join(", "),
            self.a_minute(self.micros) / 1_000.0,
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "commands_a_minute": self.a_minute(self.sent.values().sum()),
            "redis_cpu_ms_a_minute": self.a_minute(self.micros) / 1_000.0,
            "by_command": self.sent.iter().map(|(name, count)| (name.clone(), self.a_minute(*count))).collect::<BTreeMap<_, _>>(),
        })
    }
}

pub(crate) async fn measure(scale: f64, home: &Path, bar: &Bar) -> Result<Idle> {
    let home = home.join("idle");
    std::fs::create_dir_all(&home)?;
    let length = LONG.mul_f64(scale.clamp(0.25, 1.0));
    bar.say(&format!("idle: one worker process, {} s", length.as_secs()));
    let world = Blow::KillWorker.world(&home).await?;
    let queue = QueueName::from_static("idle");
    let scheduler = JobScheduler::with_env(connect(&world.url()).await?, Env::system());
    scheduler.declare(load::spec(queue.clone(), None)).await?;
    scheduler.close().await?;
    drop(scheduler);
    let mut fleet = Fleet::start(&home, &world.url(), &queue, load::LEASE, 1)?;
    tokio::time::sleep(SETTLE).await;
    let before = world.micros();
    let (over, monitor) = (Arc::new(AtomicBool::new(false)), monitor(&world.url())?);
    let counting = std::thread::spawn({
        let over = Arc::clone(&over);
        move || count(monitor, &over)
    });
    let start = tokio::time::Instant::now();
    while start.elapsed() < length && !stop::asked() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::SeqCst);
    let seconds = start.elapsed().as_secs_f64();
    let sent = counting.join().map_err(|_| anyhow::anyhow!("the monitor failed"))?;
    let micros = world.micros().saturating_sub(before);
    fleet.stop(Duration::from_secs(1)).await?;
    Ok(Idle { seconds, sent, micros })
}

/// Redis tells here every command that it runs.
fn monitor(url: &str) -> Result<BufReader<TcpStream>> {
    let address = url.strip_prefix("redis://").and_then(|rest| rest.strip_suffix('/')).context("an address")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.write_all(b"MONITOR\r\n")?;
    Ok(BufReader::new(stream))
}

fn count(mut monitor: BufReader<TcpStream>, over: &AtomicBool) -> BTreeMap<String, u64> {
    let mut sent = BTreeMap::new();
    let mut line = String::new();
    while !over.load(Ordering::SeqCst) {
        match monitor.read_line(&mut line) {
            Ok(0) => break,
            // Nothing came in time; what came of a line stays.
            Err(_) => continue,
            Ok(_) => {}
        }
        // `+1700000000.123456 [0 127.0.0.1:5555] "EVALSHA" …`; what a script calls is from `lua`.
        if let Some((source, rest)) = line.split_once("] \"").filter(|(source, _)| !source.ends_with("lua"))
            && source.starts_with('+')
        {
            let name = rest.split('"').next().unwrap_or("?").to_uppercase();
            *sent.entry(name).or_default() += 1;
        }
        line.clear();
    }
    sent
}
