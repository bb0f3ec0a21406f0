//! A store whose streams of commands end.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use queue_core::{
    JobRef, JobStore, QueueName, Result,
    job::StoreId,
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};

use super::Faults;

pub(super) struct FaultyStore {
    pub(super) inner: Arc<dyn JobStore>,
    pub(super) faults: Faults,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl JobStore for FaultyStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn scope(&self) -> StoreScope {
        self.inner.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.inner.get(jobs).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.inner.list(query, cursor, limit).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        let commands = matches!(what, Watch::Commands(_));
        let stream = self.inner.watch(what).await?;
        let faults = self.faults.clone();
        Ok(match commands {
            true => stream.take_until(Box::pin(async move { faults.0.hang_up.notified().await })).boxed(),
            false => stream,
        })
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.inner.cancel(jobs, cancel).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.inner.queue_control(queue).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.inner.set_queue_control(queue, control).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.inner.evict(queue, retention, limit).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.inner.lead(role, candidate, term).await
    }
}
