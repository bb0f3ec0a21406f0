//! Jobs, one at a time.

use std::sync::Arc;

use futures_util::future::join_all;
use queue_core::{
    Error, ErrorCode, Job, JobHandle, JobRef, JobScheduler, QueueName, Result,
    provider::{Cancel, Cursor, Page, PublishOptions},
    scheduler::{Enqueue, Explanation, NewJob, Route, Submitted},
    store::{CancelOutcome, JobQuery, JobRecord},
    worker::{Scaling, WorkerBuilder},
};

use super::QueueManager;

/// # Jobs
impl QueueManager {
    /// Begins the submission of a typed job; await it, or set options first. It goes where the routes say for its queue (the
    /// type's, or [`Enqueue::to`]) and kind.
    pub fn enqueue<J: Job>(&self, job: J) -> Enqueue<J> {
        JobScheduler::enqueue_by(self.as_route(), &job)
    }

    /// Submits one job whose kind and payload are known only now.
    ///
    /// # Errors
    /// `VALIDATION`; `UNROUTABLE`; what the queue refuses; `TIMEOUT` or `UNAVAILABLE` where no answer came.
    pub async fn enqueue_raw(&self, queue: impl AsRef<str>, job: NewJob) -> Result<JobHandle<serde_json::Value>> {
        let queue = QueueName::new(queue)?;
        let scheduler = self.inner.routes.submit_to(&queue, &job.kind)?;
        let answer = scheduler.submit(&queue, vec![job], &PublishOptions::default()).await.pop();
        handle(&scheduler, answer)
    }

    /// The handle of a job that was submitted elsewhere or earlier, and whose handler returns `T`. Nothing is asked yet. Where
    /// several providers may have it, each is asked in the order of the routes; where no route matches its queue, all are.
    #[must_use]
    pub fn handle<T>(&self, job: JobRef) -> JobHandle<T> {
        let scheduler = self.route(&job.queue).unwrap_or_else(|_| self.inner.routes.all());
        scheduler.handle(job)
    }

    /// All that is known of a job.
    ///
    /// # Errors
    /// `UNROUTABLE` where no route matches its queue; else as [`JobScheduler::get`].
    pub async fn job(&self, job: &JobRef) -> Result<JobRecord> {
        self.route(&job.queue)?.get(job).await
    }

    /// Records of a queue's jobs that match, in an order of the store's own; where several providers may have them, one provider
    /// after the other. The query names the queue.
    ///
    /// # Errors
    /// `VALIDATION` without a queue, or for a cursor of another listing; `UNROUTABLE`; `UNSUPPORTED` without a store;
    /// `UNAVAILABLE`.
    pub async fn jobs(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let Some(queue) = &query.queue else {
            return Err(Error::new(ErrorCode::Validation, "a listing of jobs names its queue").at("jobs"));
        };
        self.route(queue)?.store()?.list(query, cursor, limit).await
    }

    /// Cancels a waiting job at once, and asks a running one to stop. Idempotent.
    ///
    /// # Errors
    /// `UNROUTABLE` where no route matches its queue; else as [`JobScheduler::cancel`].
    pub async fn cancel(&self, job: &JobRef, cancel: &Cancel) -> Result<CancelOutcome> {
        self.route(&job.queue)?.cancel(job, cancel).await
    }

    /// Why a job is not running, as [`JobScheduler::explain`] says it of the provider that has it. Where several may have it all
    /// are asked at once; if none has it and one cannot say so, the answer is that one's, without a state.
    ///
    /// # Errors
    /// `UNROUTABLE` where no route matches its queue; else as [`JobScheduler::explain`].
    pub async fn explain(&self, job: &JobRef) -> Result<Explanation> {
        let places = self.inner.routes.places(&job.queue)?;
        let (mut unsure, mut failed) = (None, None);
        for answer in join_all(places.into_iter().map(|member| member.scheduler.explain(job))).await {
            match answer {
                Ok(explanation) if explanation.state.is_some() => return Ok(explanation),
                Ok(explanation) => unsure = unsure.or(Some(explanation)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let nobody = || Error::new(ErrorCode::Internal, "no provider").at("explain");
        unsure.map_or_else(|| Err(failed.unwrap_or_else(nobody)), Ok)
    }

    /// Begins a worker with the configured defaults. A queue whose jobs may be on several providers is worked on all of them,
    /// with as many slots on each.
    pub fn worker(&self) -> WorkerBuilder {
        let worker = JobScheduler::worker_by(self.as_route());
        let defaults = &self.config().worker;
        let pool = &self.config().pool;
        let worker = worker.lease(defaults.lease).drain_deadline(defaults.drain_deadline);
        let worker = worker.health_interval(pool.health_interval);
        let worker = match pool.heartbeat {
            Some(limit) => worker.sign_of_life(limit),
            None => worker,
        };
        match defaults.prefetch {
            Some(jobs) => worker.prefetch(jobs),
            None => worker,
        }
    }

    /// How slots follow the load, as `[pool]` configures it: for [`WorkerBuilder::scale`].
    #[must_use]
    pub fn scaling(&self) -> Scaling {
        self.config().pool.scaling()
    }

    /// The routes, as the core asks for them.
    pub(crate) fn as_route(&self) -> Arc<dyn Route> {
        Arc::clone(&self.inner.routes) as _
    }
}

/// What a submission came to, as one job's handle.
pub(super) fn handle<T>(scheduler: &JobScheduler, answer: Option<Submitted>) -> Result<JobHandle<T>> {
    match answer {
        Some(Submitted::Accepted(job)) => Ok(scheduler.handle(job)),
        Some(Submitted::Duplicate(job)) => Ok(scheduler.handle(job).duplicate()),
        Some(Submitted::Rejected(error) | Submitted::Unknown(_, error)) => Err(error),
        None => Err(Error::new(ErrorCode::Internal, "the provider answered nothing").at("enqueue")),
    }
}
