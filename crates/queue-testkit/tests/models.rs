//! The conformance suite on the three model transports, bare, under virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, QueueName, QueueProvider, Result, Timestamp};
use queue_testkit::{
    conformance::run_suite,
    harness::{Factory, Facts, Harness},
    models::{Broker, Connection, LogModel, PushModel, Shape, VisibilityModel},
};

#[derive(Debug)]
struct Model {
    broker: Arc<Broker>,
    env: Env,
    shape: fn() -> Shape,
    connections: Mutex<Vec<Arc<Connection>>>,
}

fn factory(name: &'static str, shape: fn() -> Shape) -> Factory<dyn Harness> {
    Factory::new(name, true, move || async move {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        let broker = Broker::new(env.clone(), shape());
        Ok(Arc::new(Model { broker, env, shape, connections: Mutex::default() }) as Arc<dyn Harness>)
    })
}

#[async_trait]
impl Harness for Model {
    fn facts(&self) -> Facts {
        let log = matches!((self.shape)(), Shape::Log(_));
        let push = matches!((self.shape)(), Shape::Push(_));
        Facts {
            restart: true,
            raw: true,
            successor_faults: true,
            release_to_head: push,
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
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&connection));
        Ok(connection)
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let address = Arc::as_ptr(&connection).cast::<()>();
        if let Some(found) = connections.iter().find(|known| Arc::as_ptr(known).cast::<()>() == address) {
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

    async fn refuse_successors(&self, queue: &QueueName, refuse: bool) {
        let n = if refuse { usize::MAX } else { 0 };
        self.broker.faults(|faults| {
            faults.refuse_publishes(queue, n);
            faults.refuse_dead_letters(queue, n);
        });
    }
}

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let models = [
        factory("push_model", || PushModel::default().into()),
        factory("log_model", || LogModel::default().into()),
        factory("visibility_model", || VisibilityModel::default().into()),
    ];
    let trials = models.iter().flat_map(run_suite).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
