//! How the suite reaches the broker under test.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use queue_core::{Env, QueueName, QueueProvider, Result, store::TrackingStore};

/// One broker, fresh or shared, and the means to hurt it.
///
/// A harness lives for one case. What it cannot do it says in [`Facts`]; the cases that need it are then ignored with the
/// reason, and the method is never called.
#[async_trait]
pub trait Harness: Debug + Send + Sync + 'static {
    /// What it can do.
    fn facts(&self) -> Facts;

    /// The clock by which the broker's times can be judged, and the randomness of the case.
    fn env(&self) -> Env;

    /// A fresh connection to the same broker; in memory, another handle on the same state.
    ///
    /// # Errors
    /// What stands in the way.
    async fn connect(&self) -> Result<Arc<dyn QueueProvider>>;

    /// Ends a connection and its consumers as `kill -9` would: nothing is released, flushed or closed.
    async fn crash(&self, connection: Arc<dyn QueueProvider>);

    /// Stops the broker without warning, starts it again, and returns once it answers.
    ///
    /// # Errors
    /// What stands in the way.
    async fn restart_broker(&self) -> Result<()>;

    /// Puts foreign bytes into the queue as another client would.
    ///
    /// # Errors
    /// What stands in the way.
    async fn publish_raw(&self, queue: &QueueName, bytes: Bytes) -> Result<()>;

    /// From now on the broker refuses (`true`), or takes again (`false`), what the *provider itself* publishes beside a
    /// settlement: dead letters and successors of this queue.
    async fn refuse_successors(&self, queue: &QueueName, refuse: bool);
}

/// What a harness offers and what its broker's order is worth.
#[derive(Debug, Clone)]
pub struct Facts {
    /// A lease short enough to wait for, where leases are per message.
    pub lease: Duration,
    /// Time is the paused clock of a current-thread runtime.
    pub virtual_time: bool,
    /// What is still "at once". In real time the machine and the broker do other things, too.
    pub at_once: Duration,
    /// [`Harness::crash`] works.
    pub crash: bool,
    /// [`Harness::restart_broker`] works.
    pub restart: bool,
    /// [`Harness::publish_raw`] works.
    pub raw: bool,
    /// [`Harness::refuse_successors`] works.
    pub successor_faults: bool,
    /// Jobs of one priority come first in, first out.
    pub fifo: bool,
    /// No job is claimed while one of a higher band waits, as opposed to a share of the attention.
    pub strict_priority: bool,
    /// A released job comes before those that wait.
    pub release_to_head: bool,
    /// An unparked job comes before those that came meanwhile, as opposed to joining the tail as a new copy.
    pub unpark_to_head: bool,
    /// A lease that ended is seen in the record within a tick, as opposed to at the next claim: until then its holder may still
    /// settle.
    pub lapse_is_seen: bool,
    /// What waits for its time can be removed, as opposed to being out of reach until it is due.
    pub scheduled_in_reach: bool,
    /// What waits can go to any consumer, as opposed to the one that its partition is assigned to.
    pub any_consumer: bool,
}

impl Facts {
    /// An in-process broker under virtual time, on which a connection can be crashed and nothing else injected.
    #[must_use]
    pub fn in_process(lease: Duration) -> Self {
        Self {
            lease,
            virtual_time: true,
            at_once: Duration::from_millis(50),
            crash: true,
            restart: false,
            raw: false,
            successor_faults: false,
            fifo: true,
            strict_priority: true,
            release_to_head: true,
            unpark_to_head: true,
            lapse_is_seen: true,
            scheduled_in_reach: true,
            any_consumer: true,
        }
    }

    /// A real broker in real time, on which nothing can be injected; strict and first in, first out.
    #[must_use]
    pub fn real(lease: Duration) -> Self {
        Self { virtual_time: false, at_once: Duration::from_secs(2), crash: false, ..Self::in_process(lease) }
    }
}

type Make<T> = Arc<dyn Fn() -> BoxFuture<'static, Result<T>> + Send + Sync>;

/// Makes the harness of each case, inside the case's own runtime.
pub struct Factory<T: ?Sized = dyn Harness> {
    /// What the provider is called in the names of the trials.
    pub name: &'static str,
    /// Whether the runtime is paused; see [`Facts::virtual_time`].
    pub virtual_time: bool,
    make: Make<Arc<T>>,
}

impl<T: ?Sized> Factory<T> {
    /// A factory that calls `make` once for each case.
    pub fn new<F>(name: &'static str, virtual_time: bool, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<T>>> + Send + 'static,
    {
        Self { name, virtual_time, make: Arc::new(move || Box::pin(make())) }
    }

    /// The harness of one case.
    ///
    /// # Errors
    /// Why the broker cannot be had.
    pub async fn make(&self) -> Result<Arc<T>> {
        (self.make)().await
    }

    /// The runtime of one case.
    ///
    /// # Errors
    /// The operating system's.
    pub fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        if self.virtual_time {
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()
        } else {
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
        }
    }
}

impl<T: ?Sized> Clone for Factory<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, virtual_time: self.virtual_time, make: Arc::clone(&self.make) }
    }
}

impl<T: ?Sized> std::fmt::Debug for Factory<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Factory")
            .field("name", &self.name)
            .field("virtual_time", &self.virtual_time)
            .finish_non_exhaustive()
    }
}

/// A tracking store under test.
#[derive(Clone)]
pub struct StoreUnderTest {
    /// The store.
    pub store: Arc<dyn TrackingStore>,
    /// Its clock.
    pub env: Env,
    /// Ends it and opens it again, where what it holds outlives that.
    pub restart: Option<Restart>,
}

/// Ends a store in this way and opens what it kept.
pub type Restart = Arc<dyn Fn(Ending) -> BoxFuture<'static, Result<Arc<dyn TrackingStore>>> + Send + Sync>;

/// How a store's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was closed.
    Orderly,
    /// As by `kill -9`: what was not answered may be lost.
    Crash,
}

impl std::fmt::Debug for StoreUnderTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreUnderTest").field("store", &self.store).finish_non_exhaustive()
    }
}
