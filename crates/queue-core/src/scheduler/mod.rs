//! The one owner of every transition: it submits jobs, decides what becomes of each run, and keeps house.
//!
//! With one provider it is all a library user needs:
//!
//! ```ignore
//! let queues = JobScheduler::new(MemoryProvider::new());
//! let handle = queues.enqueue(SendEmail { to }).priority(Priority::HIGH).await?;
//! queues.worker().queue("mail", 64).register(send_email).run_until(ctrl_c()).await?;
//! ```

mod decide;
mod enqueue;
mod explain;
mod handle;
mod known;
mod limits;
mod maintain;
mod options;
mod progress;
mod route;
mod submit;

pub(crate) use maintain::Consuming;
pub(crate) use route::Target;

pub use decide::{Verdict, decide_end, decide_start};
pub use enqueue::Enqueue;
pub use explain::{Explanation, WaitReason};
pub use handle::JobHandle;
pub use options::{JobOptions, NewJob, Start};
pub use route::Route;
pub use submit::Submitted;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use tokio::sync::broadcast;

use crate::{
    clock::Env,
    error::{Error, ErrorCode, Result},
    event::{Event, JobEvent},
    job::{Job, JobRef, QueueName, StoreId, Timestamp},
    message::Subscriptions,
    provider::{ADD_STORE, Cancel, QueueAdmin, QueueProvider},
    queue_spec::QueueSpec,
    stats::QueueStats,
    store::{CancelOutcome, JobRecord, JobStore, Lookup, Watch, Watched},
    worker::{AtWork, Pool, Roll, WorkerBuilder, WorkerStatus},
};
use known::Used;
use limits::Limits;
use maintain::Maintenance;

/// Submits jobs to one provider and looks after them. A clone is another handle on the same scheduler.
#[derive(Debug, Clone)]
pub struct JobScheduler {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    provider: Arc<dyn QueueProvider>,
    store: Option<Arc<dyn JobStore>>,
    env: Env,
    specs: RwLock<HashMap<QueueName, Arc<QueueSpec>>>,
    /// Queues that were used here and have no spec of their own.
    used: Used,
    limits: Limits,
    /// Of topics that the provider does not have itself.
    subscriptions: Subscriptions,
    maintenance: Maintenance,
    /// The pools that work for it in this process.
    roll: Roll,
    /// Events of this process: those of jobs only where no store tells them.
    told: broadcast::Sender<Event>,
}

/// Events a slow listener may be behind before it is told that it missed some.
const BEHIND: usize = 4_096;

impl JobScheduler {
    /// A scheduler on the system's clock. The maintenance task starts with the first call that needs a runtime.
    pub fn new(provider: impl QueueProvider) -> Self {
        Self::with_env(Arc::new(provider), Env::system())
    }

    /// A scheduler on a clock and randomness of the caller's.
    #[must_use]
    pub fn with_env(provider: Arc<dyn QueueProvider>, env: Env) -> Self {
        let store = provider.job_store();
        let inner = Inner {
            limits: Limits::new(provider.limiter(), &env),
            subscriptions: Subscriptions::default(),
            roll: Roll::default(),
            maintenance: Maintenance::new(&env),
            provider,
            store,
            env,
            specs: RwLock::default(),
            used: Used::default(),
            told: broadcast::Sender::new(BEHIND),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The provider underneath.
    #[must_use]
    pub fn provider(&self) -> &Arc<dyn QueueProvider> {
        &self.inner.provider
    }

    /// The clock and randomness it uses.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Declares a queue, with which its defaults apply to what is submitted here. Idempotent.
    ///
    /// # Errors
    /// As [`QueueProvider::declare`].
    pub async fn declare(&self, spec: QueueSpec) -> Result<()> {
        self.keep_house();
        self.inner.provider.declare(&spec).await?;
        let mut specs = self.inner.specs.write().unwrap_or_else(PoisonError::into_inner);
        specs.insert(spec.name.clone(), Arc::new(spec));
        Ok(())
    }

    /// The spec of a queue as it was declared, here or by another process; the default one where nobody did. The provider is
    /// asked once.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn declared(&self, queue: &QueueName) -> Result<Arc<QueueSpec>> {
        if let Some(known) = self.known_spec(queue) {
            return Ok(known);
        }
        let Some(spec) = self.admin().spec(queue).await? else {
            self.inner.used.note(queue);
            return Ok(self.spec(queue));
        };
        let spec = Arc::new(spec);
        let mut specs = self.inner.specs.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(specs.entry(queue.clone()).or_insert(spec)))
    }

    fn known_spec(&self, queue: &QueueName) -> Option<Arc<QueueSpec>> {
        self.inner.specs.read().unwrap_or_else(PoisonError::into_inner).get(queue).cloned()
    }

    /// The spec of a queue as it is known here, else the default one.
    #[must_use]
    pub fn spec(&self, queue: &QueueName) -> Arc<QueueSpec> {
        self.known_spec(queue).unwrap_or_else(|| Arc::new(QueueSpec::new(queue.clone())))
    }

    /// Begins the submission of a typed job; await it, or set options first.
    pub fn enqueue<J: Job>(&self, job: J) -> Enqueue<J> {
        Enqueue::new(Target::One(self.clone()), &job)
    }

    /// Begins the submission of a typed job to whichever scheduler the route finds for it.
    pub fn enqueue_by<J: Job>(route: Arc<dyn Route>, job: &J) -> Enqueue<J> {
        Enqueue::new(Target::Routed(route), job)
    }

    /// Begins a worker on whichever schedulers the route finds for its queues.
    pub fn worker_by(route: Arc<dyn Route>) -> WorkerBuilder {
        WorkerBuilder::new(Target::Routed(route))
    }

    /// The workers of this process that work for this scheduler.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.inner.roll.workers()
    }

    /// What the handlers of this process run for this scheduler, also those of workers that stop; and what they ran to its end
    /// ([`AtWork::ended_after`]), until who [observes](WorkerBuilder::observe) the worker has been told of it, so that nothing is
    /// in neither place. For a moment it is in both: compare the job and its attempt.
    #[must_use]
    pub fn at_work(&self) -> Vec<AtWork> {
        self.inner.roll.at_work()
    }

    /// The handle of a job that was submitted elsewhere or earlier, and whose handler returns `T`. Nothing is asked yet.
    #[must_use]
    pub fn handle<T>(&self, job: JobRef) -> JobHandle<T> {
        JobHandle::new(self.clone(), job, false)
    }

    /// Begins a worker on this scheduler's provider.
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(Target::One(self.clone()))
    }

    /// The records of the provider's jobs.
    ///
    /// # Errors
    /// `UNSUPPORTED` on a bare transport.
    pub fn store(&self) -> Result<&Arc<dyn JobStore>> {
        self.inner.store.as_ref().ok_or_else(|| Error::unsupported(self.inner.provider.scheme(), "look-up", ADD_STORE))
    }

    /// A job's record.
    ///
    /// # Errors
    /// `NOT_FOUND` where there is none (any more); `UNAVAILABLE`, also where the answer is not known; `UNSUPPORTED` without
    /// a store.
    pub async fn get(&self, job: &JobRef) -> Result<JobRecord> {
        let not_found = |message| Err(Error::new(ErrorCode::NotFound, message).at("get").on(&job.queue));
        match self.store()?.get(std::slice::from_ref(job)).await.pop() {
            Some(Ok(Lookup::Found(record))) => Ok(*record),
            Some(Ok(Lookup::NotFound)) | None => not_found("there is no such job"),
            Some(Ok(Lookup::Gone)) => not_found("the job finished and its record was removed by retention"),
            Some(Ok(Lookup::Unknown)) => {
                Err(Error::new(ErrorCode::Unavailable, "the job's state is not known now").at("get").on(&job.queue))
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// Cancels a waiting job at once, and asks a running one to stop. Idempotent.
    ///
    /// # Errors
    /// `UNSUPPORTED` without a store; `UNAVAILABLE`.
    pub async fn cancel(&self, job: &JobRef, cancel: &Cancel) -> Result<CancelOutcome> {
        let outcome = self.store()?.cancel(std::slice::from_ref(job), cancel).await.pop();
        outcome.unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "the store answered nothing").at("cancel")))
    }

    /// What may be asked of the queues.
    #[must_use]
    pub fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.inner.provider.admin()
    }

    /// Numbers of one queue.
    ///
    /// # Errors
    /// As [`QueueAdmin::stats`].
    pub async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let stats = self.admin().stats(std::slice::from_ref(queue)).await.pop();
        stats.unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "the provider answered nothing").at("stats")))
    }

    /// What happens from now on: to jobs everywhere, where the provider has a store, else in this process; to pools, breakers
    /// and whatever raises alerts in this process.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn events(&self) -> Result<BoxStream<'static, Watched<Event>>> {
        let breakers = self.limiter().watch().map(|watched| match watched {
            Watched::Event(event) => Watched::Event(Event::Breaker(event)),
            Watched::Missed => Watched::Missed,
        });
        let told = futures_util::stream::select(self.told(), breakers).boxed();
        let Some(store) = &self.inner.store else { return Ok(told) };
        let jobs = store.watch(Watch::All).await?.map(|watched| match watched {
            Watched::Event(event) => Watched::Event(Event::Job(event)),
            Watched::Missed => Watched::Missed,
        });
        Ok(futures_util::stream::select(jobs, told).boxed())
    }

    fn told(&self) -> BoxStream<'static, Watched<Event>> {
        let told = self.inner.told.subscribe();
        let stream = futures_util::stream::unfold(told, |mut told| async move {
            match told.recv().await {
                Ok(event) => Some((Watched::Event(event), told)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Watched::Missed, told)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        stream.boxed()
    }

    /// When the maintenance task last did its round; `None` before the first that went well.
    #[must_use]
    pub fn last_maintenance(&self) -> Option<Timestamp> {
        self.inner.maintenance.last_tick()
    }

    /// When the maintenance task began: with the first call that needs it. `None` before that, and after [`Self::close`]. One
    /// that began long ago and has done no round yet does not work.
    #[must_use]
    pub fn maintained_since(&self) -> Option<Timestamp> {
        self.inner.maintenance.since()
    }

    /// Stops the maintenance task and closes the provider. Workers are to be stopped before.
    ///
    /// # Errors
    /// As [`QueueProvider::close`].
    pub async fn close(&self) -> Result<()> {
        self.inner.maintenance.stop().await;
        self.inner.provider.close().await
    }

    /// Which store's id goes into envelopes of a queue.
    fn store_id(&self, spec: &QueueSpec) -> Option<StoreId> {
        let tracked = spec.tracking == crate::queue_spec::Tracking::Full;
        self.inner.store.as_ref().filter(|_| tracked).map(|store| store.id())
    }

    /// Tells listeners of a provider without a store what happened here.
    pub(crate) fn tell(&self, event: impl FnOnce() -> JobEvent) {
        if self.inner.store.is_none() {
            self.announce(|| Event::Job(event()));
        }
    }

    /// Tells the listeners of this process what happened in it.
    pub fn announce(&self, event: impl FnOnce() -> Event) {
        if self.inner.told.receiver_count() > 0 {
            // An error means that the last listener left, which is no error here.
            let _ = self.inner.told.send(event());
        }
    }

    /// Starts the maintenance task, once; every call that is in a runtime for certain does.
    pub(crate) fn keep_house(&self) {
        self.inner.maintenance.start(&self.inner.provider, self.inner.store.as_ref());
    }

    pub(crate) fn subscriptions(&self) -> &Subscriptions {
        &self.inner.subscriptions
    }

    /// Whether the other is a handle on the same scheduler.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// For a consumer that is no pool.
    pub(crate) fn consuming_alone(&self) -> Consuming {
        self.keep_house();
        self.inner.maintenance.consuming()
    }

    pub(crate) fn consuming(&self, pool: &Arc<Pool>) -> Consuming {
        self.keep_house();
        self.inner.roll.enter(pool);
        self.inner.maintenance.consuming()
    }

    /// How long an interactive call waits before it looks again.
    pub(crate) const fn poll_interval() -> Duration {
        crate::config::defaults::RESULT_POLL
    }
}
