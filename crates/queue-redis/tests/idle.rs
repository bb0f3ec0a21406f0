//! What an idle worker process asks of Redis. `cargo test -p queue-redis --test idle -- --ignored --nocapture` prints it, by
//! command; that takes three minutes. The other test is the guard of each build.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod server;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::TcpStream,
    time::Duration,
};

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

/// Tells of each command that somebody sends; those inside scripts are not sent.
struct Monitor(BufReader<TcpStream>);

impl Monitor {
    fn new(server: &Server) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        Self(BufReader::new(stream))
    }

    /// What was sent in so long, by command and key.
    fn listen(&mut self, so_long: Duration) -> BTreeMap<String, u32> {
        let mut sent = BTreeMap::new();
        let begun = tokio::time::Instant::now();
        let mut line = String::new();
        while begun.elapsed() < so_long {
            match self.0.read_line(&mut line) {
                Ok(_) if line.ends_with('\n') => {
                    let said = line.split_once("] ").filter(|(from, _)| !from.ends_with(" lua"));
                    if let Some((_, command)) = said {
                        let mut words = command.trim().split(' ').map(|word| word.trim_matches('"'));
                        let name = words.next().unwrap().to_uppercase();
                        // Of a script its name is the first letters of its hash.
                        let what = if name == "EVALSHA" { words.next().unwrap_or_default() } else { "" };
                        *sent.entry(format!("{name} {}", what.get(..6).unwrap_or_default())).or_default() += 1;
                    }
                    line.clear();
                }
                Ok(_) => {}
                Err(error) => assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}"),
            }
        }
        sent
    }
}

/// What one worker process with nothing to do sends in so long, on one queue.
async fn sends(so_long: Duration) -> BTreeMap<String, u32> {
    server::require();
    let server = Server::start().unwrap();
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let queues = JobScheduler::new(provider);
    let handler = async |_: Mail| Ok::<_, Failure>(());
    let worker = queues.worker().queue("mail", 8).register(handler).start().await.unwrap();
    // What it says once, when it begins, is of no interest.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut monitor = Monitor::new(&server);
    let sent = tokio::task::spawn_blocking(move || monitor.listen(so_long)).await.unwrap();
    drop(worker);
    sent
}

/// From 5 to 8 are usual, and 4 more where all that is said now and then falls into this time. Whatever is asked each second makes 14 more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_asks_for_nothing_again_and_again() {
    let sent = sends(Duration::from_secs(14)).await;
    let total: u32 = sent.values().sum();
    eprintln!("{total} in 14 s: {sent:?}");
    assert!(total > 0, "nobody listened");
    assert!(total <= 16, "{total} in 14 s: {sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes three minutes, and prints"]
async fn an_idle_worker_sends_less_than_forty_commands_a_minute() {
    const MINUTES: u32 = 3;
    let sent = sends(MINUTES * Duration::from_secs(60)).await;
    for (command, times) in &sent {
        eprintln!("{command:<24} {:.1} a minute", f64::from(*times) / f64::from(MINUTES));
    }
    let total = f64::from(sent.values().sum::<u32>()) / f64::from(MINUTES);
    eprintln!("{total:.0} in all");
    assert!(total < 40.0, "{total}");
}
