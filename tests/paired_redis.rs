//! Bare transports paired with a Redis by URL, which is killed, or falls silent, while jobs run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../crates/queue-redis/tests/server/mod.rs"]
mod server;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use queue_core::{
    Env, ErrorCode, Event, Failure, Job, Worker,
    event::ProviderStatus,
    provider::Registry,
    scheduler::WaitReason,
    store::{StoreScope, Watched},
};
use queue_manager::{HealthReport, HealthStatus, QueueManager};
use queue_testkit::models::{Broker, LogModel, PushModel, Shape, VisibilityModel};
use serde::{Deserialize, Serialize};
use server::Server;
use tokio::time::{Instant, sleep};
use validator::Validate;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Mail {
    to: String,
}

impl Job for Mail {
    const KIND: &'static str = "mail.send";
    const QUEUE: &'static str = "mail";
    type Output = String;
}

fn mail(to: impl Into<String>) -> Mail {
    Mail { to: to.into() }
}

type Runs = Arc<Mutex<Vec<(String, Instant)>>>;

async fn connect(broker: &Arc<Broker>, server: &Server) -> QueueManager {
    let mut registry = Registry::new();
    queue_redis::register(&mut registry);
    queue_layers::register(&mut registry);
    broker.register(&mut registry);
    let scheme = registry.schemes()[0];
    let store = server.url().replace(':', "%3A").replace('/', "%2F");
    let url = format!("{scheme}://broker?store={store}");
    QueueManager::builder().registry(registry).url(url).connect().await.unwrap()
}

fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

macro_rules! server {
    () => {{
        if !server::is_installed() {
            let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            assert!(!required, "no redis-server on the path");
            return eprintln!("LEFT OUT: no redis-server on the path");
        }
        Server::start().unwrap()
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_killed_delays_and_loses_nothing() {
    let server = server!();
    each(server, |server| server.kill(), |server| server.restart_after_kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_falls_silent_delays_and_loses_nothing() {
    let server = server!();
    each(server, |server| server.hang(), |server| server.go_on()).await;
}

/// All three over one store, each with a queue of its own, through the same outage.
async fn each(server: Server, away: impl Fn(&Server), back: impl Fn(&Server)) {
    let mut programs = Vec::new();
    for shape in shapes() {
        let broker = Broker::new(Env::system(), shape);
        programs.push(Program::begin(&broker, &server).await);
        if programs.len() == 1 {
            assert_eq!(programs[0].queues.provider("default").unwrap().store().unwrap().scope(), StoreScope::Shared);
        }
    }
    sleep(SECOND).await;
    for program in &programs {
        assert_eq!(program.runs.lock().unwrap().len(), 2, "{}", program.name);
    }
    away(&server);
    sleep(9 * SECOND).await;
    futures_util::future::join_all(programs.iter_mut().map(Program::during)).await;
    back(&server);
    let returned = Instant::now();
    let done = programs.into_iter().map(|program| tokio::spawn(program.after(returned)));
    for done in done.collect::<Vec<_>>() {
        done.await.unwrap();
    }
}

struct Program {
    name: String,
    queue: String,
    queues: QueueManager,
    worker: Worker,
    runs: Runs,
    told: Arc<Mutex<Vec<ProviderStatus>>>,
    jobs: Vec<(String, queue_core::JobHandle<String>)>,
}

impl Program {
    async fn begin(broker: &Arc<Broker>, server: &Server) -> Self {
        let queues = connect(broker, server).await;
        let name = queues.health().await.providers[0].provider.clone();
        let queue = format!("mail-{name}");
        let told = Arc::new(Mutex::new(Vec::new()));
        let (mut events, noted) = (queues.events().await.unwrap(), Arc::clone(&told));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Watched::Event(Event::Provider(event)) = event {
                    noted.lock().unwrap().push(event.to);
                }
            }
        });
        let runs = Runs::default();
        let noted = Arc::clone(&runs);
        let handler = move |mail: Mail| {
            noted.lock().unwrap().push((mail.to.clone(), Instant::now()));
            async move {
                sleep(2 * SECOND).await;
                Ok::<_, Failure>(mail.to)
            }
        };
        let worker = queues.worker().queue(&*queue, 2).prefetch(0).register(handler).start().await.unwrap();
        let mut program = Self { name, queue, queues, worker, runs, told, jobs: Vec::new() };
        for to in ["one", "two", "three"] {
            program.submit(to).await;
        }
        program
    }

    async fn submit(&mut self, to: &str) {
        let job = self.queues.enqueue(mail(to)).to(&self.queue).await;
        self.jobs.push((to.to_owned(), job.unwrap_or_else(|error| panic!("{}: {to}: {error}", self.name))));
    }

    async fn during(&mut self) {
        let name = self.name.clone();
        assert_eq!(self.runs.lock().unwrap().len(), 2, "{name}: nothing is claimed");
        let health: HealthReport = self.queues.health().await;
        let provider = &health.providers[0];
        let store = provider.store.as_ref().unwrap();
        assert_eq!((provider.status, store.status), (HealthStatus::Degraded, HealthStatus::Down), "{name}: {health:?}");
        assert_eq!(store.settlements_waiting, 2, "{name}: {health:?}");
        assert!(store.away_ms.unwrap() < 60_000, "{name}: {health:?}");
        assert!(store.url.as_ref().unwrap().starts_with("redis://127.0.0.1"), "{name}: {health:?}");
        let scheduler = self.queues.provider("default").unwrap();
        let why = scheduler.explain(self.jobs[2].1.job()).await.unwrap();
        let known = why.reasons.iter().any(|reason| matches!(reason, WaitReason::StoreAway { .. }));
        assert!(known && !why.reasons.iter().any(|reason| matches!(reason, WaitReason::BrokerAway { .. })), "{why}");
        let asked = Instant::now();
        self.submit("four").await;
        assert!(asked.elapsed() < 2 * SECOND, "{}: publishing took {:?}", self.name, asked.elapsed());
        let keyed = self.queues.enqueue(mail("five")).to(&self.queue).unique("five").unwrap().await.unwrap_err();
        assert_eq!(keyed.code(), ErrorCode::Unavailable, "{}: {keyed}", self.name);
    }

    async fn after(self, returned: Instant) {
        let Self { name, queues, worker, runs, told, jobs, .. } = self;
        for (to, job) in &jobs[..2] {
            assert_eq!(&job.result().await.unwrap(), to, "{name}");
        }
        assert!(returned.elapsed() < 5 * SECOND, "{name}: settled {:?} after", returned.elapsed());
        let end = |runs: &Runs| runs.lock().unwrap().len() == 4;
        while !end(&runs) {
            assert!(returned.elapsed() < 15 * SECOND, "{name}: {:?}", runs.lock().unwrap());
            sleep(SECOND / 20).await;
        }
        let consuming = runs.lock().unwrap()[2].1 - returned;
        assert!(consuming < 5 * SECOND, "{name}: consuming {consuming:?} after");
        for (to, job) in &jobs {
            assert_eq!(&job.result().await.unwrap(), to, "{name}");
            assert_eq!(runs.lock().unwrap().iter().filter(|(who, _)| who == to).count(), 1, "{name}: {to}");
        }
        assert!(queues.health().await.is_healthy(), "{name}: {:?}", queues.health().await);
        sleep(SECOND / 2).await;
        use ProviderStatus::{StoreAway, StoreBack};
        assert_eq!(*told.lock().unwrap(), [StoreAway, StoreBack], "{name}");
        worker.stop().await;
        queues.close().await.unwrap();
    }
}
