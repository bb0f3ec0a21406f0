//! Defects of the records.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use queue_core::{
    ErrorCode, JobRef, QueueName, Result,
    job::StoreId,
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{
        CancelOutcome, JobQuery, JobRecord, JobStore, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched,
    },
};

use super::{Defect, Shared};

#[derive(Debug)]
pub(super) struct SabotagedStore {
    pub(super) inner: Arc<dyn JobStore>,
    pub(super) shared: Arc<Shared>,
}

impl SabotagedStore {
    fn is(&self, defect: Defect) -> bool {
        self.shared.is(defect)
    }
}

#[async_trait]
impl JobStore for SabotagedStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn scope(&self) -> StoreScope {
        self.inner.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let answers = self.inner.get(jobs).await.into_iter().map(|answer| match answer {
            Ok(Lookup::Gone) if self.is(Defect::GoneIsNotFound) => Ok(Lookup::NotFound),
            answer => answer,
        });
        answers.collect()
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let mut asked = query.clone();
        if self.is(Defect::ListIgnoresFilter) {
            asked = JobQuery::default();
            asked.queue.clone_from(&query.queue);
        }
        let mut page = self.inner.list(&asked, cursor, limit).await?;
        if self.is(Defect::ListEndsEarly) {
            page.next = None;
        }
        Ok(page)
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        match self.shared.defect {
            Some(Defect::WatchSilent) => Ok(stream::pending().boxed()),
            Some(Defect::WatchTellsAll) => self.inner.watch(Watch::All).await,
            Some(Defect::EventsDoubled) => {
                let inner = self.inner.watch(what).await?;
                Ok(inner.flat_map(|item| stream::iter([item.clone(), item])).boxed())
            }
            Some(Defect::SlaForgotten) => {
                let inner = self.inner.watch(what).await?;
                let forget = |item: Watched| match item {
                    Watched::Event(mut event) => {
                        event.sla = None;
                        Watched::Event(event)
                    }
                    Watched::Missed => Watched::Missed,
                };
                Ok(inner.map(forget).boxed())
            }
            _ => self.inner.watch(what).await,
        }
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        if self.is(Defect::CancelDoesNothing) {
            return jobs.iter().map(|_| Ok(CancelOutcome::Cancelled)).collect();
        }
        self.inner.cancel(jobs, cancel).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.inner.queue_control(queue).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        match self.inner.set_queue_control(queue, control).await {
            Err(error) if error.code() == ErrorCode::Conflict && self.is(Defect::ControlOverwritten) => {
                let version = self.inner.queue_control(queue).await?.version;
                self.inner.set_queue_control(queue, &QueueControl { version, ..control.clone() }).await
            }
            answer => answer,
        }
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        let retention = if self.is(Defect::EvictsTooMuch) { Retention::none() } else { *retention };
        self.inner.evict(queue, &retention, limit).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        let lead = self.inner.lead(role, candidate, term).await?;
        Ok(match self.shared.defect {
            Some(Defect::TwoLeaders) => lead.or(Some(Leadership { epoch: 1, remaining: term })),
            Some(Defect::LeadNotFenced) => lead.map(|lead| Leadership { epoch: 1, ..lead }),
            _ => lead,
        })
    }
}
