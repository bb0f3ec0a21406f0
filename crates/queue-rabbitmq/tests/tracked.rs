//! The conformance suite on the tracked layer over a real RabbitMQ, with its store opened by its URL, as behind `store=`: in memory, and
//! with `QUEUE_TEST_SHAPES=all` all three.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../queue-redis/tests/server/mod.rs"]
mod redis_server;
mod server;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lapin::{
    BasicProperties, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use queue_core::{
    Env, Error, ErrorCode, QueueName, QueueProvider, QueueSpec, Result,
    provider::{ProviderUrl, Registry},
    store::TrackingStore,
};
use queue_layers::Tracked;
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use queue_testkit::{
    conformance::run_suite,
    harness::{Factory, Facts, Harness},
};
use server::Server;

fn main() {
    let mut arguments = libtest_mimic::Arguments::from_args();
    let url = std::env::var("QUEUE_TEST_RABBITMQ_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() && !server::is_installed() {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        eprintln!("LEFT OUT: no rabbitmq-server and no QUEUE_TEST_RABBITMQ_URL; see `cargo xtask brokers up rabbitmq`");
        std::process::exit(i32::from(required));
    }
    // Most of a case is waiting for its time.
    arguments.test_threads = arguments.test_threads.or(Some(16));
    let shared = url.is_none().then(Server::start);
    let url = url.or_else(|| shared.as_ref().map(Server::url)).unwrap_or_default();
    let prefix = format!("tracked-{:016x}", Env::system().random.next_u64());
    let factory = |name, kind| {
        let (url, prefix) = (url.clone(), prefix.clone());
        Factory::new(name, false, move || {
            let (url, prefix) = (url.clone(), prefix.clone());
            async move { Ok(Arc::new(Pairing::new(url, prefix, kind).await?) as Arc<dyn Harness>) }
        })
    };
    let mut factories: Vec<Factory<dyn Harness>> = vec![factory("rabbitmq+memory", Kind::Memory)];
    let all = std::env::var("QUEUE_TEST_SHAPES").is_ok_and(|shapes| shapes == "all");
    if all {
        factories.push(factory("rabbitmq+journal", Kind::Journal));
        factories.push(factory("rabbitmq+redis", Kind::Redis));
    }
    let mut trials: Vec<libtest_mimic::Trial> = factories.iter().flat_map(run_suite).collect();
    trials.retain(|trial| !trial.name().ends_with(UNSEEN));
    // The longest first: they would else be what all wait for in the end.
    trials.sort_by_key(|trial| !LONG.iter().any(|name| trial.name().ends_with(name)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Nothing is dropped by an exit.
    drop(shared);
    conclusion.exit();
}

/// A queue for each pair of dispositions, or a lease's end for each disposition, or many jobs.
const LONG: [&str; 4] = [
    "settle::contradicted_is_a_conflict",
    "lease::loser_can_settle_nothing_after_a_kill",
    "hostile::queue_names_stay_apart",
    "hostile::queue_names_in_every_operation",
];

/// The transport puts a message of a newer version off by itself: the store, which is what the depths are counted in, sees none of
/// it. The transport's own suite has the case.
const UNSEEN: &str = "hostile::newer_version_is_neither_run_nor_lost";

/// Where the store of a case is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    Journal,
    Redis,
}

/// What a store lives in, for as long as it does.
#[derive(Debug)]
enum Home {
    Process,
    Folder(tempfile::TempDir),
    Server(redis_server::Server),
}

impl Home {
    fn new(kind: Kind) -> std::io::Result<Self> {
        Ok(match kind {
            Kind::Memory => Self::Process,
            Kind::Journal => Self::Folder(tempfile::tempdir()?),
            Kind::Redis => Self::Server(redis_server::Server::start()?),
        })
    }

    /// As behind `store=`.
    fn url(&self) -> String {
        match self {
            Self::Process => "memory:".into(),
            Self::Folder(folder) => format!("journal:{}", folder.path().display()),
            Self::Server(server) => server.url(),
        }
    }
}

/// The layer, and the transport under it.
type Paired = (Arc<dyn QueueProvider>, Arc<RabbitProvider>);

#[derive(Debug)]
struct Pairing {
    url: String,
    prefix: String,
    store: Arc<dyn TrackingStore>,
    /// One clock for all: two that are read apart may differ by a millisecond.
    env: Env,
    connections: Mutex<Vec<Paired>>,
    _home: Home,
}

impl Pairing {
    async fn new(url: String, prefix: String, kind: Kind) -> Result<Self> {
        let home = Home::new(kind).map_err(away)?;
        let env = Env::system();
        let mut registry = Registry::new();
        queue_memory::register(&mut registry);
        queue_redis::register(&mut registry);
        let store = registry.open_store(&ProviderUrl::parse(home.url())?, &env).await?;
        Ok(Self { url, prefix, store, env, connections: Mutex::default(), _home: home })
    }

    async fn transport(&self) -> Result<RabbitProvider> {
        let mut options = RabbitOptions::read(&ProviderUrl::parse(&self.url)?)?;
        options.prefix = self.prefix.clone();
        // Many cases at once may keep a small machine busy for longer than a heartbeat.
        options.heartbeat = Duration::from_secs(60);
        (options.connect_timeout, options.answer_timeout) = (Duration::from_secs(30), Duration::from_secs(30));
        RabbitProvider::connect(options, &self.env).await
    }
}

fn away(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Unavailable, error.to_string())
}

#[async_trait]
impl Harness for Pairing {
    fn facts(&self) -> Facts {
        Facts {
            crash: true,
            raw: true,
            // As over the model transports: see the layer's own suite.
            successor_faults: false,
            unpark_to_head: false,
            lapse_is_seen: false,
            // As the transport alone: what is on the ladder comes due for a queue of that name, also for another.
            strict_priority: false,
            scheduled_in_reach: false,
            at_once: Duration::from_secs(10),
            ..Facts::real(Duration::from_secs(2))
        }
    }

    fn env(&self) -> Env {
        self.env.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        let bare = Arc::new(self.transport().await?);
        let transport = Arc::clone(&bare) as Arc<dyn QueueProvider>;
        let tracked: Arc<dyn QueueProvider> = Arc::new(Tracked::new(transport, Arc::clone(&self.store), &self.env));
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push((Arc::clone(&tracked), bare));
        Ok(tracked)
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        let found = {
            let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.iter().find(|(known, _)| Arc::ptr_eq(known, &connection)).map(|(_, bare)| Arc::clone(bare))
        };
        if let Some(found) = found {
            found.sever().await;
        }
    }

    async fn restart_broker(&self) -> Result<()> {
        Err(away("one broker serves all cases"))
    }

    /// As a client that knows AMQP, and nothing of us.
    async fn publish_raw(&self, queue: &QueueName, bytes: Bytes) -> Result<()> {
        let declarer = self.transport().await?;
        declarer.declare(&QueueSpec::new(queue.clone())).await?;
        declarer.close().await?;
        let connection = lapin::Connection::connect(&self.url, ConnectionProperties::default()).await.map_err(away)?;
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

    async fn refuse_successors(&self, _: &QueueName, _: bool) {}
}
