//! The providers that may hold a queue's jobs, as one: for looking at the queue and looking after it.
//!
//! What concerns one job is asked of each in order until it is found; what concerns the queue is done on all, and the numbers
//! are added up. Jobs are not submitted or fetched through it: which of them gets a job, and with which store's id, is decided
//! before.

mod admin;
mod cursor;
mod store;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use queue_core::{
    Error, ErrorCode, JobScheduler, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::Envelope,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Consumer, LeaseModel, PairedStore, ParkKey, PublishOptions, PublishOutcome,
        QueueAdmin, Rejection, Topics,
    },
};

use crate::config::ProviderName;
use admin::SeveralAdmin;
use store::SeveralStore;

pub(crate) use admin::merge_stats;

const SCHEME: &str = "several";
const INSTEAD: &str = "ask the manager, which knows where each job goes";

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Several {
    members: Arc<[(ProviderName, JobScheduler)]>,
}

impl Several {
    /// At least one.
    pub(crate) fn new(members: Vec<(ProviderName, JobScheduler)>) -> Self {
        Self { members: members.into() }
    }

    fn each(&self) -> impl Iterator<Item = &Arc<dyn QueueProvider>> {
        self.members.iter().map(|(_, scheduler)| scheduler.provider())
    }
}

/// What all of them came to; the first error where one failed.
fn all<T>(outcomes: Vec<Result<T>>) -> Result<Vec<T>> {
    outcomes.into_iter().collect()
}

/// What those that know the queue came to. `NOT_FOUND` where none does.
fn known<T>(outcomes: Vec<Result<T>>) -> Result<Vec<T>> {
    let (mut found, mut missing) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok(one) => found.push(one),
            Err(error) if error.code() == ErrorCode::NotFound => missing = missing.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

#[async_trait]
impl QueueProvider for Several {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    /// Of nothing that is asked here: the members' own count.
    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let none = || Capabilities::none(LeaseModel::Session { max_hold: Duration::ZERO }, INSTEAD);
        self.each().next().map_or_else(none, |provider| provider.capabilities(spec))
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        all(join_all(self.each().map(|provider| provider.declare(spec))).await).map(drop)
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        let each = self.members.iter().map(|(_, scheduler)| scheduler.drop_queue(queue, only_if_empty));
        all(join_all(each).await).map(drop)
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, _: &PublishOptions) -> Vec<PublishOutcome> {
        let refused = Error::unsupported(SCHEME, "publish", INSTEAD).on(queue);
        batch.iter().map(|_| PublishOutcome::Rejected(Rejection::Denied(refused.clone()))).collect()
    }

    async fn consumer(&self, queue: &QueueName, _: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        Err(Error::unsupported(SCHEME, "consumer", INSTEAD).on(queue))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(SeveralAdmin::new(Arc::clone(&self.members)))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        // Also where none of them keeps records: then each says so itself.
        Some(Arc::new(SeveralStore::new(Arc::clone(&self.members))))
    }

    /// The one that is away, where one is.
    fn paired(&self) -> Option<PairedStore> {
        self.each().filter_map(|provider| provider.paired()).max_by_key(|store| store.away.is_some())
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        let mut left = n;
        for provider in self.each() {
            left -= provider.unpark(queue, key, left).await?.min(left);
        }
        Ok(n - left)
    }

    /// Each member's scheduler maintains its own.
    async fn maintain(&self, _: bool) -> Result<Duration> {
        Ok(Duration::MAX)
    }

    async fn ping(&self) -> Result<()> {
        all(join_all(self.each().map(|provider| provider.ping())).await).map(drop)
    }

    /// The members are closed by whoever owns them.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
