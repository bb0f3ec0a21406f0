//! What may be asked of queues: to be filled.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Error, JobRef, QueueName, QueueSpec, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
};

use crate::{SCHEME, provider::Shared};

#[derive(Debug)]
pub(crate) struct RabbitAdmin {
    #[allow(dead_code, reason = "for those who fill this in")]
    shared: Arc<Shared>,
}

impl RabbitAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

fn refuse(operation: &'static str) -> Error {
    Error::unsupported(SCHEME, operation, "name a store with `store=`")
}

#[async_trait]
impl QueueAdmin for RabbitAdmin {
    async fn queues(&self, _: &str, _: Option<Cursor>, _: usize) -> Result<Page<QueueName>> {
        Err(refuse("queues"))
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        queues.iter().map(|_| Err(refuse("stats"))).collect()
    }

    async fn pause(&self, _: &QueueName, _: bool) -> Result<()> {
        Err(refuse("pause"))
    }

    async fn purge(&self, _: &QueueName) -> Result<u64> {
        Err(refuse("purge"))
    }

    async fn dead(&self, _: &QueueName, _: &DeadFilter, _: Option<Cursor>, _: usize) -> Result<Page<DeadJob>> {
        Err(refuse("dead"))
    }

    async fn redrive(&self, _: &QueueName, _: &Redrive) -> Result<RedriveReport> {
        Err(refuse("redrive"))
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        Ok(self.shared.specs.get(queue).map(|known| (*known.spec).clone()))
    }

    async fn parked(&self, _: &QueueName, _: usize) -> Result<Vec<(ParkKey, u64)>> {
        Err(refuse("parked"))
    }

    async fn position(&self, _: &JobRef) -> Result<Option<u64>> {
        Err(refuse("position"))
    }

    async fn drop_dead(&self, _: &QueueName, _: &DeadFilter) -> Result<u64> {
        Err(refuse("drop_dead"))
    }
}
