//! A model transport and a store, paired: the harness of the conformance suite.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, QueueName, QueueProvider, Result, Timestamp, store::TrackingStore};
use queue_layers::Tracked;
use queue_testkit::{
    harness::{Factory, Facts, Harness},
    models::{Broker, Connection, Shape},
};

/// Makes the store of one case. Every connection of the case shares it.
pub(crate) type MakeStore = fn(&Env) -> Arc<dyn TrackingStore>;

struct Pairing {
    broker: Arc<Broker>,
    store: Arc<dyn TrackingStore>,
    env: Env,
    shape: Shape,
    connections: Mutex<Vec<(Arc<dyn QueueProvider>, Arc<Connection>)>>,
}

impl std::fmt::Debug for Pairing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairing").field("shape", &self.shape).finish_non_exhaustive()
    }
}

pub(crate) fn factory(name: &'static str, shape: fn() -> Shape, store: MakeStore) -> Factory<dyn Harness> {
    Factory::new(name, true, move || async move {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        let (broker, store, shape) = (Broker::new(env.clone(), shape()), store(&env), shape());
        Ok(Arc::new(Pairing { broker, store, env, shape, connections: Mutex::default() }) as Arc<dyn Harness>)
    })
}

#[async_trait]
impl Harness for Pairing {
    fn facts(&self) -> Facts {
        let log = matches!(self.shape, Shape::Log(_));
        let push = matches!(self.shape, Shape::Push(_));
        Facts {
            restart: true,
            raw: true,
            // What follows from a settlement is staged with it: a refusal of the broker delays it, and refuses nothing.
            successor_faults: false,
            release_to_head: push,
            // An unparked job is a new copy.
            unpark_to_head: false,
            // The store keeps the fence of a dead lease until somebody claims.
            lapse_is_seen: false,
            strict_priority: !log,
            any_consumer: !log,
            ..Facts::in_process(Duration::from_secs(2))
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
