//! The calls of everybody.

use super::*;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use queue_core::{
    Error, ErrorCode, Result,
    job::StoreId,
    lifecycle::JobState,
    provider::{Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobStore, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};
use std::num::NonZeroU64;

fn no<T>(operation: &'static str) -> Result<T> {
    Err(Error::unsupported("reference", operation, "use a real store"))
}

#[async_trait]
impl JobStore for ReferenceStore {
    fn id(&self) -> StoreId {
        StoreId(NonZeroU64::MIN)
    }

    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let state = self.lock();
        let look_up = |job: &JobRef| match state.jobs.get(&id_of(job)) {
            Some(found) => Ok(Lookup::Found(Box::new(found.record(&self.env)))),
            None => Ok(Lookup::NotFound),
        };
        jobs.iter().map(look_up).collect()
    }

    async fn list(&self, _query: &JobQuery, _cursor: Option<Cursor>, _limit: usize) -> Result<Page<JobRecord>> {
        no("list")
    }

    async fn watch(&self, _what: Watch) -> Result<BoxStream<'static, Watched>> {
        no("watch")
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        let mut state = self.lock();
        let cancel = |job: &JobRef| {
            let Some(job) = state.jobs.get_mut(&id_of(job)) else { return Ok(CancelOutcome::NotFound) };
            match job.record.state {
                JobState::Running => {
                    job.cancel = Some(cancel.clone());
                    Ok(CancelOutcome::Requested)
                }
                state if state.is_terminal() => Ok(CancelOutcome::AlreadyTerminal),
                _ => {
                    job.finish(JobState::Cancelled, self.env.now());
                    Ok(CancelOutcome::Cancelled)
                }
            }
        };
        jobs.iter().map(cancel).collect()
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        Ok(self.lock().controls.get(queue).cloned().unwrap_or_default())
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        let mut state = self.lock();
        let known = state.controls.entry(queue.clone()).or_default();
        if known.version != control.version {
            return Err(Error::new(ErrorCode::Conflict, "somebody was faster"));
        }
        *known = QueueControl { version: control.version + 1, ..control.clone() };
        Ok(())
    }

    async fn evict(&self, _queue: &QueueName, _retention: &Retention, _limit: usize) -> Result<usize> {
        no("evict")
    }

    async fn lead(&self, _role: &str, _candidate: &str, _term: Duration) -> Result<Option<Leadership>> {
        no("lead")
    }
}
