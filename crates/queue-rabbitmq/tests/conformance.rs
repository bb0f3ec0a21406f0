//! The conformance suite on a real RabbitMQ: the one of `QUEUE_TEST_RABBITMQ_URL`, else one that the tests start for themselves. The case
//! that restarts the broker has one of its own, where `rabbitmq-server` is installed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lapin::{
    BasicProperties, ConnectionProperties, ExchangeKind,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use libtest_mimic::Trial;
use queue_core::{Env, Error, ErrorCode, QueueName, QueueProvider, QueueSpec, Result, provider::ProviderUrl};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use queue_testkit::harness::{Factory, Facts, Harness};
use server::Server;

fn main() {
    let mut arguments = libtest_mimic::Arguments::from_args();
    if !queue_testkit::conformance::is_asked_for("rabbitmq") {
        libtest_mimic::run(&arguments, Vec::new()).exit();
    }
    let url = std::env::var("QUEUE_TEST_RABBITMQ_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() && !server::is_installed() {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        eprintln!("LEFT OUT: no rabbitmq-server and no QUEUE_TEST_RABBITMQ_URL; see `cargo xtask brokers up rabbitmq`");
        std::process::exit(i32::from(required));
    }
    // Most of a case is waiting for its time.
    arguments.test_threads = arguments.test_threads.or(Some(16));
    // One for all cases: their queues have names of their own.
    let shared = url.is_none().then(Server::start);
    let url = url.or_else(|| shared.as_ref().map(Server::url)).unwrap_or_default();
    let prefix = format!("suite-{:016x}", Env::system().random.next_u64());
    let faulty: Vec<Trial> = faulty(&url, &prefix).collect();
    let factory = Factory::new("rabbitmq", false, move || {
        let (url, prefix) = (url.clone(), prefix.clone());
        async move { Ok(Arc::new(Rabbit::new(url, prefix, None)) as Arc<dyn Harness>) }
    });
    let mut trials = queue_testkit::conformance::run_suite(&factory);
    trials.retain(|trial| !FAULTY.iter().any(|name| trial.name().contains(name)));
    trials.extend(faulty);
    if server::is_installed() {
        trials.retain(|trial| !HARMFUL.iter().any(|name| trial.name().contains(name)));
        trials.extend(harmful(if shared.is_some() { "rabbitmq" } else { "rabbitmq_own" }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Nothing is dropped by an exit.
    drop(shared);
    conclusion.exit();
}

/// The cases that do something to what all queues share: they have a prefix of their own.
fn faulty(url: &str, prefix: &str) -> impl Iterator<Item = Trial> {
    let (url, prefix) = (url.to_owned(), format!("{prefix}-alone"));
    let number = Arc::new(AtomicU32::new(0));
    let factory = Factory::new("rabbitmq", false, move || {
        let prefix = format!("{prefix}-{}", number.fetch_add(1, Ordering::Relaxed));
        let rabbit = Rabbit { alone: true, ..Rabbit::new(url.clone(), prefix, None) };
        async move { Ok(Arc::new(rabbit) as Arc<dyn Harness>) }
    });
    cases("rabbitmq", factory, &FAULTY)
}

fn cases(
    called: &'static str,
    factory: Factory<dyn Harness>,
    names: &'static [&'static str],
) -> impl Iterator<Item = Trial> {
    queue_testkit::conformance::all_cases().filter(|case| names.contains(&case.name)).map(move |case| {
        let factory = factory.clone();
        let run = move || queue_testkit::conformance::run_case(&factory, case).map_err(|failed| failed.0.into());
        Trial::test(format!("{called}::{}", case.name), run)
    })
}

/// The cases that do something to what all queues share.
const FAULTY: [&str; 2] =
    ["dead_letter::failed_dead_letter_leaves_the_job", "dead_letter::failed_retry_leaves_the_job"];

/// The cases that do something to the broker.
const HARMFUL: [&str; 1] = ["load::broker_restarted_twice"];

/// On a broker of their own, and called so where another one was given: they say nothing of that.
fn harmful(called: &'static str) -> impl Iterator<Item = Trial> {
    let factory = Factory::new("rabbitmq", false, || async {
        let server = tokio::task::spawn_blocking(Server::try_start).await.expect("no panic").map_err(away)?;
        Ok(Arc::new(Rabbit::new(server.url(), "own".into(), Some(server))) as Arc<dyn Harness>)
    });
    cases(called, factory, &HARMFUL)
}

/// RabbitMQ 3.10 has a new queue on its disk a little later. A node that is killed before comes back with a queue that confirms nothing,
/// and each publish would wait for its deadline.
const ON_DISK: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Rabbit {
    url: String,
    prefix: String,
    /// One clock for all: two that are read apart may differ by a millisecond.
    env: Env,
    /// Whether all that begins with the prefix is one case's.
    alone: bool,
    /// One that may be killed.
    own: Option<Mutex<Server>>,
    connections: Mutex<Vec<Arc<RabbitProvider>>>,
}

impl Rabbit {
    fn new(url: String, prefix: String, own: Option<Server>) -> Self {
        Self { url, prefix, env: Env::system(), alone: false, own: own.map(Mutex::new), connections: Mutex::default() }
    }
}

impl Rabbit {
    /// As any client, which knows one node: of a cluster the first.
    async fn plainly(&self) -> lapin::Result<lapin::Connection> {
        lapin::Connection::connect(&of_one(&self.url), ConnectionProperties::default()).await
    }
}

/// The URL without its hosts after the first.
fn of_one(url: &str) -> String {
    let begin = url.rfind('@').or_else(|| url.find("//").map(|slashes| slashes + 1)).map_or(0, |before| before + 1);
    let end = url[begin..].find(['/', '?']).map_or(url.len(), |after| begin + after);
    let hosts = &url[begin..end];
    let first = hosts.split_once(',').map_or(hosts, |(first, _)| first);
    format!("{}{first}{}", &url[..begin], &url[end..])
}

fn away(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Unavailable, error.to_string())
}

#[async_trait]
impl Harness for Rabbit {
    fn facts(&self) -> Facts {
        Facts {
            crash: true,
            restart: self.own.is_some(),
            raw: true,
            // Among what is here the highest band comes first; the broker may have something higher on its way.
            strict_priority: false,
            scheduled_in_reach: false,
            successor_faults: self.alone,
            // A quorum queue writes to its disk what it is given, takes or gives back, and sixteen cases share that disk.
            at_once: Duration::from_secs(10),
            ..Facts::real(Duration::from_secs(1))
        }
    }

    fn env(&self) -> Env {
        self.env.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        let mut options = RabbitOptions::read(&ProviderUrl::parse(&self.url)?)?;
        options.prefix = self.prefix.clone();
        // Many cases at once may keep a small machine busy for longer than a heartbeat.
        options.heartbeat = Duration::from_secs(60);
        (options.connect_timeout, options.answer_timeout) = (Duration::from_secs(30), Duration::from_secs(30));
        let is_first = self.connections.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if self.own.is_some() && !is_first {
            // The first one declares the queue, the others work on it.
            tokio::time::sleep(ON_DISK).await;
        }
        let provider = Arc::new(RabbitProvider::connect(options, &self.env).await?);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&provider));
        Ok(provider)
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        let found = {
            let address = Arc::as_ptr(&connection).cast::<()>();
            let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.iter().find(|known| Arc::as_ptr(known).cast::<()>() == address).cloned()
        };
        if let Some(found) = found {
            found.sever().await;
        }
    }

    async fn restart_broker(&self) -> Result<()> {
        if let Some(server) = &self.own {
            tokio::task::block_in_place(|| {
                let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
                server.kill();
                server.boot();
            });
        }
        Ok(())
    }

    /// As a client that knows AMQP, and nothing of us: into a queue that somebody declared. What begins as an envelope says so in its
    /// content type, as those do that other transports carry.
    async fn publish_raw(&self, queue: &QueueName, bytes: Bytes) -> Result<()> {
        let declarer = self.connect().await?;
        declarer.declare(&QueueSpec::new(queue.clone())).await?;
        let connection = self.plainly().await.map_err(away)?;
        let channel = connection.create_channel().await.map_err(away)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(away)?;
        let name = format!("{}.v1.ready.1.{queue}", self.prefix);
        let mut properties = BasicProperties::default();
        if bytes.starts_with(b"Q") {
            properties = properties.with_content_type("application/x-queue-envelope".into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = channel.basic_publish("".into(), name.into(), options, &bytes, properties).await;
        let confirmed = published.map_err(away)?.await.map_err(away)?;
        assert!(
            confirmed.is_ack() && confirmed.take_message().is_none(),
            "the queue is not where it is documented to be"
        );
        connection.close(200, "done".into()).await.map_err(away)
    }

    /// Where retries and dead letters go there is something else for a while, which refuses all that it is given.
    async fn refuse_successors(&self, queue: &QueueName, refuse: bool) {
        let connection = self.plainly().await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let rung = format!("{}.v1.delay.00", self.prefix);
        for name in [rung.clone(), format!("{}.v1.dead.{queue}", self.prefix)] {
            // Not while its dead-letter worker starts: see `Topology::drop_queue`. It may not be there.
            let settled = connection.create_channel().await.unwrap();
            let _ = settled.queue_purge(name.as_str().into(), QueuePurgeOptions::default()).await;
            channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
            if refuse {
                let mut arguments = FieldTable::default();
                arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
                arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
                channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
            }
        }
        if refuse {
            let exchange = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let name = || rung.as_str().into();
            channel.exchange_declare(name(), ExchangeKind::Topic, exchange, FieldTable::default()).await.unwrap();
            let bind = QueueBindOptions::default();
            channel.queue_bind(name(), name(), "#".into(), bind, FieldTable::default()).await.unwrap();
        }
        // All was answered; a channel may still be closing, for a queue that was not there.
        let _ = connection.close(200, "done".into()).await;
    }
}
