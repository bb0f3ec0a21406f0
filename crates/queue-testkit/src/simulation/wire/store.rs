//! Records behind a wire.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use queue_core::{
    JobRef, JobStore, QueueName, Result,
    job::StoreId,
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};

use super::{Call, Line, Silence};
use crate::simulation::words;

#[derive(Debug)]
pub(super) struct StoreWire {
    line: Line,
    inner: Arc<dyn JobStore>,
}

impl StoreWire {
    pub(super) fn new(line: Line, inner: Arc<dyn JobStore>) -> Self {
        Self { line, inner }
    }
}

pub(super) fn silent<T>(silence: Silence) -> Result<T> {
    Err(silence.error())
}

/// The same silence for every item.
pub(super) fn each<T>(items: usize, silence: Silence, unknown: impl Fn(queue_core::Error) -> T) -> Vec<T> {
    let error = silence.error();
    (0..items).map(|_| unknown(error.clone())).collect()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl JobStore for StoreWire {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn scope(&self) -> StoreScope {
        self.inner.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        self.line.carry(Call::of("get").quiet(), || self.inner.get(jobs), silent, |_| "records".to_owned()).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let work = || self.inner.list(query, cursor.clone(), limit);
        self.line.carry(Call::of("list").quiet(), work, silent, words::result).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        let work = || self.inner.watch(what.clone());
        let tell = |answer: &Result<BoxStream<'static, Watched>>| words::outcome(answer, |_| "watching".to_owned());
        self.line.carry(Call::of("watch").quiet(), work, silent, tell).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        let silent = |silence| each(jobs.len(), silence, Err);
        let tell = |answers: &Vec<Result<CancelOutcome>>| words::cancelled(jobs, answers);
        self.line.carry(Call::of("cancel").repeats(true), || self.inner.cancel(jobs, cancel), silent, tell).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.line
            .carry(Call::of("queue_control").quiet(), || self.inner.queue_control(queue), silent, words::result)
            .await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        let work = || self.inner.set_queue_control(queue, control);
        self.line.carry(Call::of("set_queue_control"), work, silent, words::result).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        let work = || self.inner.evict(queue, retention, limit);
        self.line.carry(Call::of("evict").quiet(), work, silent, words::number).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        let call = Call::of("lead").repeats(true).quiet();
        self.line.carry(call, || self.inner.lead(role, candidate, term), silent, words::result).await
    }
}
