//! The embedded provider with a journal as the suite reaches it: like a broker, which is killed and begins again while its
//! clients live on and connect anew.

mod process;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, ErrorCode, QueueName, QueueProvider, Result, Timestamp};
use queue_memory::ModelDisk;
use queue_testkit::harness::{Factory, Facts, Harness};

use process::Process;

/// A fresh one for each case.
pub(crate) fn factory() -> Factory<dyn Harness> {
    Factory::new("journal", true, || async {
        let process = Process::begin(Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7), None)?;
        Ok(Arc::new(Harnessed(process)) as Arc<dyn Harness>)
    })
}

#[derive(Debug)]
struct Harnessed(Arc<Process>);

#[async_trait]
impl Harness for Harnessed {
    fn facts(&self) -> Facts {
        Facts { restart: true, ..Facts::in_process(Duration::from_secs(2)) }
    }

    fn env(&self) -> Env {
        self.0.env().clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(self.0.connect())
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        drop(connection);
    }

    async fn restart_broker(&self) -> Result<()> {
        self.0.kill(|disk| ModelDisk::with(disk.contents()))
    }

    async fn publish_raw(&self, _queue: &QueueName, _bytes: Bytes) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "the broker holds jobs, not bytes"))
    }

    async fn refuse_successors(&self, _queue: &QueueName, _refuse: bool) {}
}
