//! The one front door.

use std::{path::Path, sync::Arc};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, future::join_all, stream::select_all};
use queue_core::{
    Error, ErrorCode, Event, Job, JobHandle, JobRef, JobScheduler, QueueName, QueueSpec, Result,
    provider::{Cancel, Cursor, Page, PublishOptions},
    scheduler::{Enqueue, NewJob, Submitted},
    stats::QueueStats,
    store::{CancelOutcome, JobQuery, JobRecord, Watched},
    worker::WorkerBuilder,
};

use crate::{
    Config, DeadLetters, HealthReport, ManagerBuilder,
    alerts::Post,
    health::examine,
    route::{Member, Routes},
};

/// Queues on whichever provider is configured. A clone is another handle on the same connections.
#[derive(Debug, Clone)]
pub struct QueueManager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    post: Post,
    config: Config,
    routes: Routes,
}

/// Names asked for at once in a listing of all queues.
const PAGE: usize = 1_000;

/// # Connecting
impl QueueManager {
    /// Connects to what the URL names: `memory:`, `redis://host`, … Everything else is as by default.
    ///
    /// # Errors
    /// As [`ManagerBuilder::connect`].
    pub async fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::builder().url(url).connect().await
    }

    /// Connects as the process's environment says: `MESSAGE_QUEUE_PROVIDER` and the variables of the configuration
    /// reference.
    ///
    /// # Errors
    /// As [`ManagerBuilder::connect`].
    pub async fn from_env() -> Result<Self> {
        Self::builder().environment().connect().await
    }

    /// Connects as a TOML file says, and over it the process's environment.
    ///
    /// # Errors
    /// As [`ManagerBuilder::connect`].
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().file(path.as_ref()).environment().connect().await
    }

    /// Begins a manager that is told more: queues, a provider of one's own, a clock.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::new()
    }

    pub(crate) fn new(config: Config, routes: Routes) -> Self {
        Self { inner: Arc::new(Inner { post: Post::default(), config, routes }) }
    }

    /// What it was configured with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The scheduler that has this queue, for what the manager does not offer itself.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name.
    pub fn scheduler(&self, queue: impl AsRef<str>) -> Result<&JobScheduler> {
        Ok(self.route(&QueueName::new(queue)?))
    }

    fn route(&self, queue: &QueueName) -> &JobScheduler {
        self.inner.routes.route(queue)
    }

    pub(crate) fn post(&self) -> &Post {
        &self.inner.post
    }

    /// The scheduler of each provider.
    pub(crate) fn schedulers(&self) -> impl Iterator<Item = &JobScheduler> {
        self.inner.routes.members().map(|member| &member.scheduler)
    }

    /// Stops the watcher of alerts and the maintenance, and closes the connections. Workers are to be stopped before. Every provider is closed, also
    /// where one of them fails.
    ///
    /// # Errors
    /// What could not be flushed: the first.
    pub async fn close(&self) -> Result<()> {
        self.inner.post.stop().await;
        let closed = join_all(self.inner.routes.members().map(|member| member.scheduler.close())).await;
        closed.into_iter().collect()
    }
}

/// # Jobs
impl QueueManager {
    /// Begins the submission of a typed job; await it, or set options first.
    pub fn enqueue<J: Job>(&self, job: J) -> Enqueue<J> {
        // A type whose queue is no name is refused when the submission is awaited.
        let scheduler =
            QueueName::new(J::QUEUE).map_or_else(|_| self.inner.routes.default(), |queue| self.route(&queue));
        scheduler.enqueue(job)
    }

    /// Submits typed jobs to their type's queue in one batch: one answer per job, in order. A refused job does not touch its
    /// neighbours.
    pub async fn enqueue_all<J: Job>(&self, jobs: impl IntoIterator<Item = J>) -> Vec<Result<JobHandle<J::Output>>> {
        let made: Vec<Result<NewJob>> = jobs.into_iter().map(|job| NewJob::typed(&job)).collect();
        let queue = match QueueName::new(J::QUEUE) {
            Ok(queue) => queue,
            Err(error) => return made.iter().map(|_| Err(error.clone())).collect(),
        };
        let scheduler = self.route(&queue);
        let mut good = Vec::with_capacity(made.len());
        let refused: Vec<Option<Error>> = made.into_iter().map(|job| job.map(|job| good.push(job)).err()).collect();
        let mut answers = scheduler.submit(&queue, good, &PublishOptions::default()).await.into_iter();
        let answer = |refused| match refused {
            Some(error) => Err(error),
            None => handle(scheduler, answers.next()),
        };
        refused.into_iter().map(answer).collect()
    }

    /// Submits one job whose kind and payload are known only now.
    ///
    /// # Errors
    /// `VALIDATION`; what the queue refuses; `TIMEOUT` or `UNAVAILABLE` where no answer came.
    pub async fn enqueue_raw(&self, queue: impl AsRef<str>, job: NewJob) -> Result<JobHandle<serde_json::Value>> {
        let queue = QueueName::new(queue)?;
        let scheduler = self.route(&queue);
        let answer = scheduler.submit(&queue, vec![job], &PublishOptions::default()).await.pop();
        handle(scheduler, answer)
    }

    /// Submits a batch: one answer per job, in order. A refused job does not touch its neighbours.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; then nothing is submitted.
    pub async fn enqueue_batch(
        &self,
        queue: impl AsRef<str>,
        jobs: Vec<NewJob>,
        options: &PublishOptions,
    ) -> Result<Vec<Submitted>> {
        let queue = QueueName::new(queue)?;
        Ok(self.route(&queue).submit(&queue, jobs, options).await)
    }

    /// The handle of a job that was submitted elsewhere or earlier, and whose handler returns `T`. Nothing is asked yet.
    #[must_use]
    pub fn handle<T>(&self, job: JobRef) -> JobHandle<T> {
        self.route(&job.queue).handle(job)
    }

    /// All that is known of a job.
    ///
    /// # Errors
    /// As [`JobScheduler::get`].
    pub async fn job(&self, job: &JobRef) -> Result<JobRecord> {
        self.route(&job.queue).get(job).await
    }

    /// Records of a queue's jobs that match, in an order of the store's own. The query names the queue.
    ///
    /// # Errors
    /// `VALIDATION` without a queue, or for a cursor of another listing; `UNSUPPORTED` without a store; `UNAVAILABLE`.
    pub async fn jobs(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let Some(queue) = &query.queue else {
            return Err(Error::new(ErrorCode::Validation, "a listing of jobs names its queue").at("jobs"));
        };
        self.route(queue).store()?.list(query, cursor, limit).await
    }

    /// Cancels a waiting job at once, and asks a running one to stop. Idempotent.
    ///
    /// # Errors
    /// As [`JobScheduler::cancel`].
    pub async fn cancel(&self, job: &JobRef, cancel: &Cancel) -> Result<CancelOutcome> {
        self.route(&job.queue).cancel(job, cancel).await
    }

    /// Begins a worker with the configured defaults.
    pub fn worker(&self) -> WorkerBuilder {
        let defaults = &self.inner.config.worker;
        let worker = self.inner.routes.default().worker();
        let worker = worker.lease(defaults.lease).drain_deadline(defaults.drain_deadline);
        match defaults.prefetch {
            Some(jobs) => worker.prefetch(jobs),
            None => worker,
        }
    }
}

/// # Queues
impl QueueManager {
    /// Declares a queue, with which its defaults apply to what is submitted here. Idempotent.
    ///
    /// # Errors
    /// As [`queue_core::QueueProvider::declare`].
    pub async fn declare(&self, spec: QueueSpec) -> Result<()> {
        self.route(&spec.name).declare(spec).await
    }

    /// Removes a queue with everything in it. A queue that does not exist is no error.
    ///
    /// # Errors
    /// `CONFLICT` where `only_if_empty` and a job waits or runs.
    pub async fn drop_queue(&self, queue: impl AsRef<str>, only_if_empty: bool) -> Result<()> {
        let queue = QueueName::new(queue)?;
        self.route(&queue).provider().drop_queue(&queue, only_if_empty).await
    }

    /// Every queue of every provider, by name.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn queues(&self) -> Result<Vec<QueueName>> {
        let mut all = Vec::new();
        for member in self.inner.routes.members() {
            all.extend(names(member).await?);
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Numbers of one queue.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn stats(&self, queue: impl AsRef<str>) -> Result<QueueStats> {
        let queue = QueueName::new(queue)?;
        self.route(&queue).stats(&queue).await
    }

    /// Numbers of every queue, by name.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn stats_all(&self) -> Result<Vec<QueueStats>> {
        let mut all = Vec::new();
        for member in self.inner.routes.members() {
            let names = names(member).await?;
            for stats in member.scheduler.admin().stats(&names).await {
                match stats {
                    Ok(stats) => all.push(stats),
                    // It was dropped in between.
                    Err(error) if error.code() == ErrorCode::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        all.sort_by(|a, b| a.queue.cmp(&b.queue));
        Ok(all)
    }

    /// How many jobs wait in a queue: pending, scheduled and retrying, as `max_len` counts them.
    ///
    /// # Errors
    /// As [`QueueManager::stats`].
    pub async fn size(&self, queue: impl AsRef<str>) -> Result<u64> {
        Ok(self.stats(queue).await?.waiting())
    }

    /// Holds all workers of a queue back, within 1 s. Running jobs finish. Idempotent.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn pause(&self, queue: impl AsRef<str>) -> Result<()> {
        self.set_paused(queue, true).await
    }

    /// Lets the workers of a paused queue go on. Idempotent.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn resume(&self, queue: impl AsRef<str>) -> Result<()> {
        self.set_paused(queue, false).await
    }

    async fn set_paused(&self, queue: impl AsRef<str>, paused: bool) -> Result<()> {
        let queue = QueueName::new(queue)?;
        self.route(&queue).admin().pause(&queue, paused).await
    }

    /// Removes every waiting job of a queue and says how many. Running and finished ones stay.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn purge(&self, queue: impl AsRef<str>) -> Result<u64> {
        let queue = QueueName::new(queue)?;
        self.route(&queue).admin().purge(&queue).await
    }

    /// The dead jobs of a queue.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name.
    pub fn dead_letters(&self, queue: impl AsRef<str>) -> Result<DeadLetters> {
        let queue = QueueName::new(queue)?;
        Ok(DeadLetters::new(self.route(&queue).clone(), queue))
    }

    /// Whether everything answers, and how far behind it is. It takes twice the configured `provider.ping_timeout` at most.
    pub async fn health(&self) -> HealthReport {
        let examined = self.inner.routes.members().map(|member| examine(member, &self.inner.config));
        HealthReport::new(join_all(examined).await)
    }

    /// What happens from now on, on every provider: everywhere, where the provider has a store, else in this process. Hints:
    /// they may repeat, and where some were missed the stream says so and goes on.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn events(&self) -> Result<BoxStream<'static, Watched<Event>>> {
        let mut streams = Vec::new();
        for member in self.inner.routes.members() {
            streams.push(member.scheduler.events().await?);
        }
        Ok(select_all(streams).boxed())
    }
}

/// What a submission came to, as one job's handle.
fn handle<T>(scheduler: &JobScheduler, answer: Option<Submitted>) -> Result<JobHandle<T>> {
    match answer {
        Some(Submitted::Accepted(job)) => Ok(scheduler.handle(job)),
        Some(Submitted::Duplicate(job)) => Ok(scheduler.handle(job).duplicate()),
        Some(Submitted::Rejected(error) | Submitted::Unknown(_, error)) => Err(error),
        None => Err(Error::new(ErrorCode::Internal, "the provider answered nothing").at("enqueue")),
    }
}

async fn names(member: &Member) -> Result<Vec<QueueName>> {
    let admin = member.scheduler.admin();
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = admin.queues("", cursor, PAGE).await?;
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}
