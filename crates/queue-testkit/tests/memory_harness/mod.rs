//! The embedded provider as the suite reaches it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, ErrorCode, QueueName, QueueProvider, Result, Timestamp};
use queue_memory::MemoryProvider;
use queue_testkit::harness::{Factory, Facts, Harness};

/// One in-process broker.
#[derive(Debug)]
struct Memory {
    broker: MemoryProvider,
    env: Env,
}

/// A fresh broker for each case.
pub(crate) fn factory() -> Factory<dyn Harness> {
    Factory::new("memory", true, || async {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        let broker = MemoryProvider::with_env(env.clone());
        Ok(Arc::new(Memory { broker, env }) as Arc<dyn Harness>)
    })
}

#[async_trait]
impl Harness for Memory {
    fn facts(&self) -> Facts {
        Facts::in_process(Duration::from_secs(2))
    }

    fn env(&self) -> Env {
        self.env.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(Arc::new(self.broker.connect()))
    }

    /// The worker is never heard of again; in one process there is nothing else to kill.
    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        drop(connection);
    }

    async fn restart_broker(&self) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "the broker is this process"))
    }

    async fn publish_raw(&self, _queue: &QueueName, _bytes: Bytes) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "the broker holds jobs, not bytes"))
    }

    async fn refuse_successors(&self, _queue: &QueueName, _refuse: bool) {}
}
