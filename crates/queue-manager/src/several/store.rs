//! The records of several providers.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::{
    StreamExt,
    future::{join_all, try_join_all},
    stream::select_all,
};
use queue_core::{
    Error, JobRef, JobScheduler, JobStore, QueueName, Result,
    job::StoreId,
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};

use super::{INSTEAD, SCHEME, all, cursor::Walk};
use crate::{config::ProviderName, routes};

#[derive(Debug)]
pub(super) struct SeveralStore {
    members: Arc<[(ProviderName, JobScheduler)]>,
}

impl SeveralStore {
    pub(super) fn new(members: Arc<[(ProviderName, JobScheduler)]>) -> Self {
        Self { members }
    }

    fn schedulers(&self) -> Vec<&JobScheduler> {
        self.members.iter().map(|(_, scheduler)| scheduler).collect()
    }

    /// Any of the jobs may be anywhere.
    fn anywhere(&self, jobs: &[JobRef]) -> Vec<Result<Vec<usize>>> {
        jobs.iter().map(|_| Ok((0..self.members.len()).collect())).collect()
    }

    /// The stores, where all have one.
    fn stores(&self) -> Result<Vec<&Arc<dyn JobStore>>> {
        self.members.iter().map(|(_, scheduler)| scheduler.store()).collect()
    }
}

#[async_trait]
impl JobStore for SeveralStore {
    /// Nothing is stamped with it: nothing is submitted here.
    fn id(&self) -> StoreId {
        let known = self.members.iter().find_map(|(_, scheduler)| scheduler.store().ok());
        known.map_or(StoreId(NonZeroU64::MIN), |store| store.id())
    }

    fn scope(&self) -> StoreScope {
        let shared = self.stores().is_ok_and(|stores| stores.iter().all(|store| store.scope() == StoreScope::Shared));
        if shared { StoreScope::Shared } else { StoreScope::Process }
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        routes::look_up(&self.schedulers(), jobs, self.anywhere(jobs)).await
    }

    /// By provider, and in each in its store's own order.
    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let mut walk = Walk::begin(&self.members, cursor, limit)?;
        while let Some((scheduler, cursor, limit)) = walk.next() {
            walk.take(scheduler.store()?.list(query, cursor, limit).await)?;
        }
        Ok(walk.finish())
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        // A job is at one of them: that another keeps no records is no reason not to watch it.
        let stores = self.members.iter().filter_map(|(_, scheduler)| scheduler.store().ok());
        Ok(select_all(try_join_all(stores.map(|store| store.watch(what.clone()))).await?).boxed())
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        routes::cancel(&self.schedulers(), jobs, self.anywhere(jobs), cancel).await
    }

    /// Paused is only what is paused everywhere, and noted only the retention that all have.
    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        let controls = all(join_all(self.stores()?.into_iter().map(|store| store.queue_control(queue))).await)?;
        let whole = |one: QueueControl, other: QueueControl| QueueControl {
            version: one.version.max(other.version),
            paused: one.paused && other.paused,
            retention: if one.retention == other.retention { one.retention } else { None },
        };
        Ok(controls.into_iter().reduce(whole).unwrap_or_default())
    }

    async fn set_queue_control(&self, queue: &QueueName, _: &QueueControl) -> Result<()> {
        Err(Error::unsupported(SCHEME, "set_queue_control", INSTEAD).on(queue))
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        let mut evicted = 0;
        for store in self.stores()? {
            evicted += store.evict(queue, retention, limit - evicted).await?;
        }
        Ok(evicted)
    }

    async fn lead(&self, _: &str, _: &str, _: Duration) -> Result<Option<Leadership>> {
        Err(Error::unsupported(SCHEME, "lead", INSTEAD))
    }
}
