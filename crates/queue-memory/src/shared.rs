//! What every connection shares: the index of the queues, the subscriptions, and the journal under both.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use queue_core::{
    Env, Error, ErrorCode, QueueSpec, Result,
    job::{QueueName, StoreId},
    provider::Durability,
};

use crate::{
    events::Hub,
    journal::{Batch, Journal, Ticket, Urgency},
    queue::{Changes, Now, Queue, State},
    topics::Subscriptions,
};

pub(crate) const SCHEME: &str = "memory";

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) store: StoreId,
    pub(crate) hub: Hub,
    /// Where everything is written down that must outlive the process.
    pub(crate) journal: Option<Journal>,
    #[cfg(feature = "journal")]
    pub(crate) recovery: Option<crate::Recovery>,
    pub(crate) notes: Mutex<BTreeMap<String, Bytes>>,
    /// Connections that were not closed: with the last one the journal ends.
    connections: AtomicUsize,
    /// Read on every publish, written when a queue comes or goes.
    queues: ArcSwap<HashMap<QueueName, Arc<Queue>>>,
    subscriptions: ArcSwap<Subscriptions>,
    changing: Mutex<()>,
    numbers: AtomicU64,
    pub(crate) leaders: crate::store::Leaders,
    /// That it was opened: no epoch is given out before that is on disk, or it might be given out again.
    pub(crate) begun: Option<Ticket>,
}

/// What the clones of a handle share.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    closed: AtomicBool,
}

impl Connection {
    pub(crate) fn begin(shared: &Arc<Shared>) -> Arc<Self> {
        shared.connections.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self { shared: Arc::clone(shared), closed: AtomicBool::new(false) })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether no other is open.
    pub(crate) fn end(&self) -> bool {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.shared.connections.fetch_sub(1, Ordering::AcqRel);
        }
        self.shared.connections.load(Ordering::Acquire) == 0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(crate) fn new(env: Env, hub: Hub) -> Self {
        Self {
            store: StoreId::fresh(&env),
            env,
            hub,
            journal: None,
            #[cfg(feature = "journal")]
            recovery: None,
            notes: Mutex::default(),
            connections: AtomicUsize::new(0),
            queues: ArcSwap::default(),
            subscriptions: ArcSwap::default(),
            changing: Mutex::new(()),
            numbers: AtomicU64::new(0),
            leaders: crate::store::Leaders::default(),
            begun: None,
        }
    }

    /// What an earlier process left; the next new queue has the number `next`.
    #[cfg(feature = "journal")]
    pub(crate) fn restore(
        &mut self,
        queues: HashMap<QueueName, Arc<Queue>>,
        next: u64,
        subscriptions: Subscriptions,
        notes: BTreeMap<String, Bytes>,
    ) {
        self.queues.store(Arc::new(queues));
        self.numbers = AtomicU64::new(next);
        self.subscriptions.store(Arc::new(subscriptions));
        self.notes = Mutex::new(notes);
    }

    pub(crate) fn find(&self, name: &QueueName) -> Option<Arc<Queue>> {
        self.queues.load().get(name).cloned()
    }

    /// The queue, with the default spec if nobody declared it.
    pub(crate) fn queue(&self, name: &QueueName) -> Arc<Queue> {
        self.find(name).unwrap_or_else(|| self.queue_or(QueueSpec::new(name.clone())))
    }

    /// The queue, with this spec if it did not exist.
    pub(crate) fn queue_or(&self, spec: QueueSpec) -> Arc<Queue> {
        let _changing = self.changing.lock();
        self.find_or_create(spec)
    }

    /// The caller holds the lock of the index.
    fn find_or_create(&self, spec: QueueSpec) -> Arc<Queue> {
        if let Some(queue) = self.find(&spec.name) {
            return queue;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::new(spec, number, self.hub.clone()));
        if let Some(journal) = &self.journal {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            queue.with(|state| {
                state.write_down(Changes::new(journal.clone(), self.env.clone(), number));
                state.rely(Some(Durability::Synced));
            });
        }
        let mut queues = HashMap::clone(&self.queues.load());
        queues.insert(queue.name.clone(), Arc::clone(&queue));
        self.queues.store(Arc::new(queues));
        queue
    }

    /// Acts on the queue, never on one that is being dropped: what goes into that is lost.
    pub(crate) fn with_live<R>(&self, name: &QueueName, act: impl FnMut(&mut State) -> R) -> (Arc<Queue>, R) {
        let (queue, result, _) = self.with_live_kept(name, act);
        (queue, result)
    }

    /// The same, with the ticket to wait for.
    pub(crate) fn with_live_kept<R>(
        &self,
        name: &QueueName,
        mut act: impl FnMut(&mut State) -> R,
    ) -> (Arc<Queue>, R, Option<Ticket>) {
        let mut queue = self.queue(name);
        loop {
            if let (Some(result), ticket) = queue.with_kept(|state| (!state.dissolved).then(|| act(state))) {
                return (queue, result, ticket);
            }
            queue = self.successor(name);
        }
    }

    /// The queue that comes after one that was found dissolved: whoever dissolves it removes it under the lock that
    /// this waits for.
    pub(crate) fn successor(&self, name: &QueueName) -> Arc<Queue> {
        self.queue_or(QueueSpec::new(name.clone()))
    }

    pub(crate) fn existing(&self, name: &QueueName, operation: &'static str) -> Result<Arc<Queue>> {
        self.find(name)
            .ok_or_else(|| Error::new(ErrorCode::NotFound, "there is no such queue").at(operation).by(SCHEME).on(name))
    }

    /// Every queue, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        let mut queues: Vec<_> = self.queues.load().values().cloned().collect();
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    /// The queues that are subscribed to a topic, in the order in which they are locked.
    pub(crate) fn subscribed(&self, topic: &QueueName) -> Vec<Arc<Queue>> {
        let find_all = || self.subscriptions.load().of(topic).iter().map(|name| self.find(name)).collect();
        let found: Option<Vec<Arc<Queue>>> = find_all();
        let mut queues = found.unwrap_or_else(|| {
            // One is new, or was dropped just now: nobody drops one under this lock.
            let _changing = self.changing.lock();
            let subscriptions = self.subscriptions.load();
            let names = subscriptions.of(topic).iter();
            names.map(|name| self.find_or_create(QueueSpec::new(name.clone()))).collect()
        });
        queues.sort_by_key(|queue| queue.number);
        queues
    }

    pub(crate) async fn change_subscriptions(&self, change: impl FnOnce(&mut Subscriptions, &mut Batch)) -> Result<()> {
        self.ready()?;
        let ticket = {
            let _changing = self.changing.lock();
            self.edit_subscriptions(change)
        };
        self.kept(ticket).await
    }

    /// The caller holds the lock of the index.
    fn edit_subscriptions(&self, change: impl FnOnce(&mut Subscriptions, &mut Batch)) -> Option<Ticket> {
        let mut subscriptions = Subscriptions::clone(&self.subscriptions.load());
        let mut rows = Batch::new();
        change(&mut subscriptions, &mut rows);
        self.subscriptions.store(Arc::new(subscriptions));
        self.journal.as_ref().map(|journal| journal.append(&rows, Urgency::Now))
    }

    /// Whether anything may be changed now that must outlive the process.
    pub(crate) fn ready(&self) -> Result<()> {
        self.journal.as_ref().map_or(Ok(()), Journal::ready)
    }

    /// Waits until a change is on disk; `None` is on no disk, or nobody waits for it.
    pub(crate) async fn kept(&self, ticket: Option<Ticket>) -> Result<()> {
        let (Some(journal), Some(ticket)) = (&self.journal, ticket) else { return Ok(()) };
        // Boxed, so that whoever has no journal carries none of it in every call.
        Box::pin(journal.kept(ticket)).await
    }

    /// Changes a queue and answers once that is on disk, as far as the queue's durability says.
    pub(crate) async fn change<R>(
        &self,
        queue: &Queue,
        operation: &'static str,
        act: impl FnOnce(&mut State) -> R,
    ) -> Result<R> {
        let away = |error: Error| error.at(operation).on(&queue.name);
        self.ready().map_err(away)?;
        let (result, ticket) = queue.with_kept(|state| {
            state.rely(None);
            act(state)
        });
        self.kept(ticket).await.map_err(away)?;
        Ok(result)
    }

    /// Ends the journal in order.
    pub(crate) async fn finish(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        self.flush();
        journal.close().await
    }

    /// Appends what waits in the queues for a disk that refused.
    fn flush(&self) {
        for queue in self.all() {
            queue.with(|state| state.rely(Some(Durability::Relaxed)));
        }
    }

    /// Waits until nobody changes the index: whoever found a dissolved queue finds it gone then.
    pub(crate) fn settle_down(&self) {
        drop(self.changing.lock());
    }

    /// Takes the queue out of the index, with its subscriptions, if `dissolve` dissolves it. Under the lock of the index, so
    /// that whoever finds it dissolved and looks again finds the next one.
    pub(crate) fn remove(
        &self,
        name: &QueueName,
        dissolve: impl FnOnce(&Queue) -> (bool, Option<Ticket>),
    ) -> Result<Option<Ticket>, ()> {
        let _changing = self.changing.lock();
        let queue = self.find(name);
        let (drops, mut ticket) = queue.as_ref().map_or((true, None), |queue| dissolve(queue));
        if !drops {
            return Err(());
        }
        if self.subscriptions.load().is_subscribed(name) {
            ticket = ticket.max(self.edit_subscriptions(|subscriptions, rows| subscriptions.forget(name, rows)));
        }
        if queue.is_none() {
            // Somebody may have dropped it just now, and not be sure of that yet.
            let so_far = self.journal.as_ref().map(|journal| journal.append(&Batch::new(), Urgency::Now));
            return Ok(ticket.max(so_far));
        }
        let mut queues = HashMap::clone(&self.queues.load());
        queues.remove(name);
        self.queues.store(Arc::new(queues));
        Ok(ticket)
    }

    pub(crate) fn now(&self) -> Now {
        Now::read(&self.env)
    }
}

impl Drop for Shared {
    /// Nobody closed it: what waited for the disk goes there with the journal's own end.
    fn drop(&mut self) {
        if self.journal.is_some() {
            self.flush();
        }
    }
}
