//! Putting a worker together.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use super::{
    autoscale::Scaling,
    completer::{Observer, RunReport},
    extract::{JobRequest, States},
    handler::{Handler, HandlerService, RunAny},
    heartbeat::Place,
    held::Common,
    pool::{Pool, Routes, Setup, spare},
    shutdown::{DrainReport, Worker},
};
use crate::{
    config::defaults,
    error::{Error, ErrorCode, Result},
    job::{Job, JobKind, QueueName},
    provider::{ConsumeOptions, LeaseModel},
    scheduler::{JobScheduler, Target},
};

/// More than one process can run; room is made for them in advance.
const MAX_OUTSTANDING: usize = 100_000;

/// Looks must be a few milliseconds apart.
const SHORTEST_HEALTH_INTERVAL: Duration = Duration::from_millis(30);

type WrapAll = Box<dyn Fn(HandlerService) -> HandlerService + Send>;

/// A worker before it starts: which queues, which handlers, how many at a time.
#[must_use = "a worker does nothing until it is started"]
pub struct WorkerBuilder {
    target: Target,
    name: Option<Arc<str>>,
    queues: Vec<(Result<QueueName>, Scaling)>,
    handlers: Vec<(Result<JobKind>, HandlerService)>,
    fallback: Option<HandlerService>,
    layers: Vec<WrapAll>,
    states: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    lease: Duration,
    prefetch: Option<usize>,
    prefetch_while_brief: usize,
    drain: Duration,
    health_interval: Duration,
    sign_of_life: Option<Duration>,
    heartbeat: Place,
    observer: Option<Observer>,
}

impl WorkerBuilder {
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            name: None,
            queues: Vec::new(),
            handlers: Vec::new(),
            fallback: None,
            layers: Vec::new(),
            states: HashMap::new(),
            lease: defaults::LEASE,
            prefetch: None,
            prefetch_while_brief: 0,
            drain: defaults::DRAIN_DEADLINE,
            health_interval: defaults::HEALTH_INTERVAL,
            sign_of_life: None,
            heartbeat: Place::Thread,
            observer: None,
        }
    }

    /// Works on a queue, at most `concurrency` jobs at a time; where its jobs are on several providers, so many on each.
    pub fn queue(mut self, name: impl AsRef<str>, concurrency: usize) -> Self {
        self.queues.push((QueueName::new(name), Scaling::fixed(concurrency)));
        self
    }

    /// Works on a queue with as many slots as its load asks for; where its jobs are on several providers, on each apart.
    /// [`Scaling`] has presets. Where a provider has no numbers of its queues the slots stay as at the start, and the log says
    /// so once.
    pub fn scale(mut self, name: impl AsRef<str>, scaling: Scaling) -> Self {
        self.queues.push((QueueName::new(name), scaling));
        self
    }

    /// Runs jobs of the handler's type with it. A later one for the same kind replaces an earlier one.
    pub fn register<H: Handler<Args>, Args: 'static>(mut self, handler: H) -> Self {
        self.handlers.push((JobKind::new(<H::Job as Job>::KIND), HandlerService::of(handler)));
        self
    }

    /// Runs jobs of a kind with any `tower` service.
    pub fn service<S>(mut self, kind: impl AsRef<str>, service: S) -> Self
    where
        S: Service<JobRequest, Response = Option<Bytes>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.handlers.push((JobKind::new(kind), HandlerService::wrap(service)));
        self
    }

    /// Runs jobs of every kind that has no handler of its own.
    pub fn fallback<S>(mut self, service: S) -> Self
    where
        S: Service<JobRequest, Response = Option<Bytes>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.fallback = Some(HandlerService::wrap(service));
        self
    }

    /// The same with what is no service: for a handler that is called so often that the clone a service needs for each job
    /// counts, or whose future borrows it. [Layers](Self::layer) wrap it as they wrap services. There is one fallback: this
    /// replaces an earlier one, be it a service or not.
    pub fn fallback_any(mut self, handler: impl RunAny) -> Self {
        self.fallback = Some(HandlerService::any(handler));
        self
    }

    /// Wraps every handler in a `tower` layer; the first one given is the outermost.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HandlerService> + Send + 'static,
        L::Service: Service<JobRequest, Response = Option<Bytes>> + Clone + Send + Sync + 'static,
        <L::Service as Service<JobRequest>>::Error: Into<BoxError>,
        <L::Service as Service<JobRequest>>::Future: Send,
    {
        self.layers.push(Box::new(move |handler| handler.layered(&layer)));
        self
    }

    /// Shares a value with every handler that asks for [`super::State`] of its type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, state: T) -> Self {
        self.states.insert(TypeId::of::<T>(), Box::new(state));
        self
    }

    /// What it is called in records.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long a claim holds without a heartbeat; it is renewed three times in that time. Default 30 s. After a crash a job
    /// waits that long for another worker.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How many jobs may be fetched before there is a slot for them, per queue. Default: half the concurrency, at most 256. A
    /// fetched job is not overtaken by an urgent one that comes later.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.prefetch = Some(jobs);
        self
    }

    /// How many jobs may be fetched before there is a slot for them while runs take 250 µs at most, in the mean of those that were
    /// settled last: for handlers that may be so quick that slots would wait for the next fetch, and may be slow too. Counts
    /// where it is more than [`WorkerBuilder::prefetch`] says. Default: never more than that.
    pub fn prefetch_while_brief(mut self, jobs: usize) -> Self {
        self.prefetch_while_brief = jobs;
        self
    }

    /// How long a graceful stop waits for running jobs before it aborts them: they are told to stop, and released. Default 30 s.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain = deadline;
        self
    }

    /// A slot that blocks its thread is reported within that time, by an event and in the log, and another takes its place.
    /// Default 60 s.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.health_interval = interval;
        self
    }

    /// How long a slot may come to no await before it is taken for blocked, and fetches may fail before the worker
    /// [does not consume](super::PoolStatus::consuming); at most two thirds of the health interval. Default 30 s, or half the
    /// health interval where that is less.
    pub fn sign_of_life(mut self, limit: Duration) -> Self {
        self.sign_of_life = Some(limit);
        self
    }

    /// Sends heartbeats from the caller's runtime instead of a thread of their own: under paused time, which other threads do
    /// not share. A handler that blocks its thread then loses its lease, and may not be seen.
    pub fn heartbeat_on_runtime(mut self) -> Self {
        self.heartbeat = Place::Runtime;
        self
    }

    /// Tells what each run came to, from the task that settles: it must not block.
    pub fn observe(mut self, observer: impl Fn(RunReport) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer(Arc::new(observer)));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// `VALIDATION` and `CONFIG` for what was put together wrongly; else as
    /// [`QueueProvider::consumer`](crate::QueueProvider::consumer).
    pub async fn start(mut self) -> Result<Worker> {
        let routes = self.routes()?;
        if self.queues.is_empty() {
            return Err(config("the worker has no queue: add one with `.queue(name, concurrency)`"));
        }
        let sign_of_life = self.checked_sign_of_life()?;
        let bell = Arc::new(Notify::new());
        let states = States::new(std::mem::take(&mut self.states));
        let mut pools = Vec::new();
        for (queue, scaling, scheduler) in self.places()? {
            let name = Arc::clone(self.name.get_or_insert_with(|| default_name(&scheduler)));
            self.check_slots(&scaling).map_err(|error| error.on(&queue))?;
            let spec = scheduler.declared(&queue).await?;
            let mut options = ConsumeOptions::new(name, scaling.initial + spare(self.prefetch, scaling.initial));
            options.lease = self.lease_for(&scheduler, &spec);
            let common = Common { spec: Arc::clone(&spec), states: states.clone(), bell: Arc::clone(&bell) };
            let setup = Setup {
                scheduler,
                spec,
                options,
                routes: Arc::clone(&routes),
                scaling,
                prefetch: self.prefetch,
                prefetch_while_brief: self.prefetch_while_brief,
                sign_of_life,
                common: Arc::new(common),
                observer: self.observer.clone(),
            };
            pools.push(Pool::open(setup).await?);
        }
        Worker::start(pools, bell, self.heartbeat, self.drain)
    }

    /// Starts it, runs until the future resolves, then stops gracefully and says what became of the jobs in hand.
    ///
    /// # Errors
    /// As [`WorkerBuilder::start`].
    pub async fn run_until(self, stop: impl Future) -> Result<DrainReport> {
        let worker = self.start().await?;
        stop.await;
        Ok(worker.stop().await)
    }

    fn check_slots(&self, scaling: &Scaling) -> Result<()> {
        if scaling.initial == 0 && scaling.is_fixed() {
            return Err(config("a queue's concurrency is at least 1"));
        }
        scaling.check()?;
        let most = scaling.most();
        let waiting = spare(self.prefetch, most).max(self.prefetch_while_brief);
        if most.saturating_add(waiting) > MAX_OUTSTANDING {
            return Err(config("concurrency and prefetch of a queue are 100,000 together at most"));
        }
        Ok(())
    }

    fn checked_sign_of_life(&self) -> Result<Duration> {
        let interval = self.health_interval;
        if interval < SHORTEST_HEALTH_INTERVAL {
            return Err(config("health_interval: at least 30 ms"));
        }
        let limit = self.sign_of_life.unwrap_or_else(|| defaults::SIGN_OF_LIFE.min(interval / 2));
        if limit < SHORTEST_HEALTH_INTERVAL / 3 || limit.saturating_mul(3) > interval.saturating_mul(2) {
            return Err(config("sign_of_life: from 10 ms to two thirds of health_interval"));
        }
        Ok(limit)
    }

    /// Which queue on which scheduler, with how many slots.
    fn places(&mut self) -> Result<Vec<(QueueName, Scaling, JobScheduler)>> {
        let mut places = Vec::new();
        for (queue, scaling) in std::mem::take(&mut self.queues) {
            let queue = queue?;
            let schedulers = self.target.consume_from(&queue)?;
            places.extend(schedulers.into_iter().map(|scheduler| (queue.clone(), scaling, scheduler)));
        }
        Ok(places)
    }

    fn lease_for(&self, scheduler: &JobScheduler, spec: &crate::QueueSpec) -> Duration {
        match scheduler.provider().capabilities(Some(spec)).lease {
            LeaseModel::PerMessage { min, max } => self.lease.clamp(min, max),
            LeaseModel::Session { .. } => self.lease.max(Duration::from_millis(100)),
        }
    }

    fn routes(&mut self) -> Result<Arc<Routes>> {
        let wrap = |handler: HandlerService| self.layers.iter().rev().fold(handler, |handler, layer| layer(handler));
        let mut routes = Routes { fallback: self.fallback.take().map(wrap), ..Routes::default() };
        for (kind, handler) in std::mem::take(&mut self.handlers) {
            routes.by_kind.insert(kind?, wrap(handler));
        }
        if routes.by_kind.is_empty() && routes.fallback.is_none() {
            return Err(config("the worker has no handler: add one with `.register(handler)`"));
        }
        Ok(Arc::new(routes))
    }
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder").field("name", &self.name).field("queues", &self.queues).finish_non_exhaustive()
    }
}

fn config(message: &'static str) -> Error {
    Error::new(ErrorCode::Config, message).at("worker")
}

/// Told apart from others on the same machine by its process, and within the process by chance.
fn default_name(scheduler: &JobScheduler) -> Arc<str> {
    format!("worker-{}-{:04x}", std::process::id(), scheduler.env().random.next_u64() & 0xFFFF).into()
}
