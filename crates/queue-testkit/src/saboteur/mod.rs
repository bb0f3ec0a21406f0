//! A layer that breaks the contract in one named way, to prove that the suite would notice.
//!
//! A suite that only ever passes proves nothing. [`sabotaged`] wraps a harness so that every connection goes through a
//! [`Defect`]; the matrix of defects and cases is itself a test: each defect must be caught by the case it names.

#![deny(clippy::missing_trait_methods)]

mod admin;
mod consumer;
mod defect;
mod provider;
mod store;
mod topics;

pub use defect::Defect;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Envelope, JobId, JobRef, QueueName, QueueProvider, Result, job::UniqueKey, provider::Receipt};

use crate::{
    harness::{Factory, Facts, Harness},
    simulation::{Graft, Plant},
};
use provider::SabotagedProvider;

/// The same provider with a defect; `None`: the layer alone, which must change nothing.
#[must_use]
pub fn sabotaged(factory: &Factory<dyn Harness>, defect: Option<Defect>) -> Factory<dyn Harness> {
    let inner = factory.clone();
    Factory::new(factory.name, factory.virtual_time, move || {
        let inner = inner.clone();
        async move {
            let inner = inner.make().await?;
            let shared = Arc::new(Shared { defect, state: Mutex::default() });
            Ok(Arc::new(SabotagedHarness { inner, shared, connections: Mutex::default() }) as Arc<dyn Harness>)
        }
    })
}

/// A defect to be planted in a simulated world: see [`crate::simulation::Plant`].
impl Plant for Defect {
    fn sow(&self) -> Arc<dyn Graft> {
        Arc::new(Saboteur(Arc::new(Shared { defect: Some(*self), state: Mutex::default() })))
    }
}

/// One defect, around every connection of one broker.
#[derive(Debug)]
struct Saboteur(Arc<Shared>);

impl Graft for Saboteur {
    fn around(&self, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(SabotagedProvider { inner: provider, shared: Arc::clone(&self.0) })
    }
}

/// What the connections of one broker share.
#[derive(Debug)]
struct Shared {
    defect: Option<Defect>,
    state: Mutex<State>,
}

/// What some defects remember.
#[derive(Debug, Default)]
struct State {
    /// Envelopes as they were published, where the defect changes them on the way in and hides it on the way out.
    originals: HashMap<JobId, Envelope>,
    /// Every unique key that was ever used.
    keys: HashMap<(QueueName, UniqueKey), JobRef>,
    /// Every id that was ever published.
    ids: HashSet<(QueueName, JobId)>,
    /// The attempt in which a dead job died.
    died_in: HashMap<JobId, u32>,
    /// Deliveries by job.
    delivered: HashMap<JobId, u32>,
    /// The longest queues may get.
    max_len: HashMap<QueueName, u64>,
    /// Topics, and the queues subscribed to them.
    subscribed: BTreeSet<(QueueName, QueueName)>,
    /// Queues that were declared with an aged order.
    aged: HashSet<QueueName>,
    /// Jobs as they were given out, where the defect must know them by their receipts.
    given: HashMap<JobId, Envelope>,
    /// Settlements that were said to be done.
    dropped: HashSet<Receipt>,
}

impl Shared {
    fn is(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue it really uses.
    fn queue(&self, queue: &QueueName) -> QueueName {
        if !self.is(Defect::QueueNamesMixed) {
            return queue.clone();
        }
        let kept: String = queue.as_str().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
        QueueName::new(kept).unwrap_or_else(|_| queue.clone())
    }
}

type Connections = Vec<(Arc<dyn QueueProvider>, Arc<dyn QueueProvider>)>;

#[derive(Debug)]
struct SabotagedHarness {
    inner: Arc<dyn Harness>,
    shared: Arc<Shared>,
    /// The layer, and what it wraps.
    connections: Mutex<Connections>,
}

#[async_trait]
impl Harness for SabotagedHarness {
    fn facts(&self) -> Facts {
        self.inner.facts()
    }

    fn env(&self) -> Env {
        self.inner.env()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        let inner = self.inner.connect().await?;
        let outer: Arc<dyn QueueProvider> =
            Arc::new(SabotagedProvider { inner: Arc::clone(&inner), shared: Arc::clone(&self.shared) });
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.push((Arc::clone(&outer), inner));
        Ok(outer)
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        let inner = {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let at = connections.iter().position(|(outer, _)| Arc::ptr_eq(outer, &connection));
            at.map(|at| connections.swap_remove(at).1)
        };
        if let Some(inner) = inner {
            self.inner.crash(inner).await;
        }
    }

    async fn restart_broker(&self) -> Result<()> {
        self.inner.restart_broker().await
    }

    async fn publish_raw(&self, queue: &QueueName, bytes: Bytes) -> Result<()> {
        self.inner.publish_raw(queue, bytes).await
    }

    async fn refuse_successors(&self, queue: &QueueName, refuse: bool) {
        self.inner.refuse_successors(queue, refuse).await;
    }
}
