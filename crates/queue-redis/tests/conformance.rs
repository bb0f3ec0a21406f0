//! The conformance suite on a real Redis: each case has a server of its own, which it may kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, ErrorCode, QueueName, QueueProvider, Result};
use queue_redis::{RedisOptions, RedisProvider};
use queue_testkit::harness::{Factory, Facts, Harness};
use server::Server;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let factory = Factory::new("redis", false, || async {
        let server = Server::start().map_err(|error| Error::new(ErrorCode::Unavailable, error.to_string()))?;
        Ok(Arc::new(Redis { server }) as Arc<dyn Harness>)
    });
    libtest_mimic::run(&arguments, queue_testkit::conformance::run_suite(&factory)).exit();
}

#[derive(Debug)]
struct Redis {
    server: Server,
}

#[async_trait]
impl Harness for Redis {
    fn facts(&self) -> Facts {
        Facts { crash: true, restart: true, ..Facts::real(Duration::from_secs(1)) }
    }

    fn env(&self) -> Env {
        Env::system()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(Arc::new(RedisProvider::connect(&RedisOptions::new(self.server.url()), &Env::system()).await?))
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        drop(connection);
    }

    async fn restart_broker(&self) -> Result<()> {
        self.server.restart().map_err(|error| Error::new(ErrorCode::Unavailable, error.to_string()))
    }

    async fn publish_raw(&self, _queue: &QueueName, _bytes: Bytes) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "Redis holds jobs, not bytes"))
    }

    async fn refuse_successors(&self, _queue: &QueueName, _refuse: bool) {}
}
