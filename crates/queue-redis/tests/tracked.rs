//! The conformance suite on the tracked layer over each of the three model transports, with its store in a real Redis. The models run on
//! real time too, for the store's clock is the server's; all three take ten minutes, so without `QUEUE_TEST_SHAPES=all` only one is run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, QueueName, QueueProvider, Result, store::TrackingStore};
use queue_layers::Tracked;
use queue_redis::{RedisOptions, RedisTracking};
use queue_testkit::{
    conformance::run_suite,
    harness::{Factory, Facts, Harness},
    models::{Broker, Connection, LogModel, PushModel, Shape, VisibilityModel},
};
use server::Server;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    server::require();
    let mut factories = vec![factory("tracked_visibility+redis", || VisibilityModel::default().into())];
    if std::env::var("QUEUE_TEST_SHAPES").is_ok_and(|shapes| shapes == "all") {
        factories.push(factory("tracked_push+redis", || PushModel::default().into()));
        factories.push(factory("tracked_log+redis", || LogModel::default().into()));
    }
    let trials = factories.iter().flat_map(run_suite).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn factory(name: &'static str, shape: fn() -> Shape) -> Factory<dyn Harness> {
    Factory::new(name, false, move || async move {
        let server = Server::start().expect("a server of its own");
        let env = Env::system();
        let store: Arc<dyn TrackingStore> =
            Arc::new(RedisTracking::connect(&RedisOptions::new(server.url()), &env).await?);
        let (broker, shape) = (Broker::new(env.clone(), shape()), shape());
        let pairing = Pairing { broker, store, env, shape, connections: Mutex::default(), _server: server };
        Ok(Arc::new(pairing) as Arc<dyn Harness>)
    })
}

/// The layer, and the connection under it.
type Paired = (Arc<dyn QueueProvider>, Arc<Connection>);

struct Pairing {
    broker: Arc<Broker>,
    store: Arc<dyn TrackingStore>,
    env: Env,
    shape: Shape,
    connections: Mutex<Vec<Paired>>,
    _server: Server,
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairing").field("shape", &self.shape).finish_non_exhaustive()
    }
}

#[async_trait]
impl Harness for Pairing {
    fn facts(&self) -> Facts {
        let log = matches!(self.shape, Shape::Log(_));
        let push = matches!(self.shape, Shape::Push(_));
        Facts {
            crash: true,
            restart: true,
            raw: true,
            // As over the other stores: see the layer's own suite.
            successor_faults: false,
            release_to_head: push,
            unpark_to_head: false,
            lapse_is_seen: false,
            strict_priority: !log,
            any_consumer: !log,
            ..Facts::real(Duration::from_secs(2))
        }
    }

    fn env(&self) -> Env {
        self.env.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        let connection = self.broker.connect();
        let transport = Arc::clone(&connection) as Arc<dyn QueueProvider>;
        let tracked: Arc<dyn QueueProvider> = Arc::new(Tracked::new(transport, Arc::clone(&self.store), &self.env));
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push((Arc::clone(&tracked), connection));
        Ok(tracked)
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = connections.iter().find(|(known, _)| Arc::ptr_eq(known, &connection)) {
            found.crash();
        }
    }

    async fn restart_broker(&self) -> Result<()> {
        self.broker.restart();
        Ok(())
    }

    async fn publish_raw(&self, queue: &QueueName, bytes: Bytes) -> Result<()> {
        self.broker.publish_raw(queue, bytes).map_err(Error::from)
    }

    async fn refuse_successors(&self, _: &QueueName, _: bool) {}
}
