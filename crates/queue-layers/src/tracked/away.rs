//! While the store is away: settlements wait here, and their copies stay ours.
//!
//! Also what the transport was asked and did not do: acknowledgements and releases, which are asked again. Nothing here runs by
//! itself: [`super::Tracked`]'s `maintain` calls it in every process.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use queue_core::{
    JobId,
    provider::{Beat, Settlement},
};

use super::{core::Core, desk::Desk, options::EXTENSIONS_PER_LEASE, rule::Rule, settle::Pending};

/// A claim: the job and the fence's epoch.
pub(super) type Key = (JobId, u64);

/// What waits, of all consumers together.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Consumers with something that waits. They are kept alive until it is done.
    desks: Mutex<Vec<Arc<Desk>>>,
    settlements: AtomicUsize,
}

/// A transport settlement that was not carried out, and the tries that are left.
pub(super) type Chore = (Settlement, u32);

/// What is to be asked of the transport. Whatever is in here when this goes is owed yet: also where whoever asks goes away half-way,
/// for a copy that nobody ends holds a place until the session does.
pub(super) struct Asked<'a> {
    desk: &'a Arc<Desk>,
    chores: Vec<Chore>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(desk: &'a Arc<Desk>, batch: Vec<Settlement>) -> Self {
        Self { desk, chores: batch.into_iter().map(|settlement| (settlement, TRIES)).collect() }
    }

    /// Settles at the transport. What it does not do is kept, to be asked of it again.
    pub(super) async fn ask(mut self) {
        if self.chores.is_empty() {
            return;
        }
        let batch: Vec<Settlement> = self.chores.iter().map(|(chore, _)| chore.clone()).collect();
        let outcomes = self.desk.transport.settle(&batch).await;
        let undone = |(chore, outcome): (Chore, _)| super::desk::is_undone(&outcome).then_some(chore);
        self.chores = std::mem::take(&mut self.chores).into_iter().zip(outcomes).filter_map(undone).collect();
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.desk.keep_chores(std::mem::take(&mut self.chores));
    }
}

/// What one consumer owes.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Settlements that the store has not answered.
    pub(super) settlements: BTreeMap<Key, Pending>,
    pub(super) chores: Vec<Chore>,
    extended: Duration,
}

/// A transport settlement is asked so often; after that the end of the session, or of the lease, brings the copy back.
const TRIES: u32 = 60;
/// How many a consumer may owe the transport.
const MAX_CHORES: usize = 10_000;
const AT_ONCE: usize = 100;

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.settlements.load(Ordering::Acquire)
    }

    fn desks(&self) -> MutexGuard<'_, Vec<Arc<Desk>>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, desk: &Arc<Desk>) {
        let mut desks = self.desks();
        if !desks.iter().any(|kept| Arc::ptr_eq(kept, desk)) {
            desks.push(Arc::clone(desk));
        }
    }

    /// Forgets everything: the provider is closed.
    pub(super) fn clear(&self) -> usize {
        self.desks().clear();
        self.settlements.swap(0, Ordering::AcqRel)
    }
}

impl Core {
    pub(super) fn backlog_is_full(&self) -> bool {
        self.backlog.len() >= self.options.max_buffered
    }

    /// Carries out what waits, as far as store and transport let it.
    pub(super) async fn flush(&self) {
        let desks: Vec<Arc<Desk>> = self.backlog.desks().clone();
        for desk in desks {
            desk.extend_waiting().await;
            if !self.store_is_away().await {
                desk.settle_waiting().await;
            }
            desk.repeat_chores().await;
        }
        self.backlog.desks().retain(|desk| !desk.owes_nothing());
    }
}

impl Desk {
    pub(super) fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn owes_nothing(&self) -> bool {
        let owed = self.owed();
        owed.settlements.is_empty() && owed.chores.is_empty()
    }

    /// Keeps a settlement for the time when the store is back. `false`: there is no room.
    pub(super) fn keep_settlement(self: &Arc<Self>, pending: Pending) -> bool {
        let core = &self.core;
        if !core.keeps(Rule::SettlementsWait) || core.backlog_is_full() {
            return false;
        }
        // What waits already was said first.
        if let Entry::Vacant(place) = self.owed().settlements.entry(pending.key()) {
            place.insert(pending);
            core.backlog.settlements.fetch_add(1, Ordering::AcqRel);
        }
        core.backlog.keep(self);
        true
    }

    /// What waits under the key, if anything does.
    pub(super) fn waiting_settlement(&self, key: Key) -> Option<Settlement> {
        self.owed().settlements.get(&key).map(|pending| pending.settlement.clone())
    }

    pub(super) fn drop_settlement(&self, key: Key) {
        if self.owed().settlements.remove(&key).is_some() {
            // A close may have emptied the count in between.
            let _ =
                self.core.backlog.settlements.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
        }
    }

    fn keep_chores(self: &Arc<Self>, chores: Vec<Chore>) {
        if chores.is_empty() || !self.core.keeps(Rule::AcknowledgementsAreRepeated) {
            return;
        }
        {
            let mut owed = self.owed();
            let room = MAX_CHORES.saturating_sub(owed.chores.len());
            owed.chores.extend(chores.into_iter().take(room));
        }
        self.core.backlog.keep(self);
    }

    /// The transport must not give to others what is only waiting for the store.
    async fn extend_waiting(&self) {
        let now = self.core.now();
        let beats: Vec<Beat> = {
            let mut owed = self.owed();
            if now < owed.extended + self.lease / EXTENSIONS_PER_LEASE || owed.settlements.is_empty() {
                return;
            }
            owed.extended = now;
            let receipts = owed.settlements.values().filter_map(|pending| pending.copy_receipt());
            receipts.map(|receipt| Beat::extend(receipt, self.lease)).collect()
        };
        if self.core.keeps(Rule::WaitingLeasesAreExtended) && !beats.is_empty() {
            self.transport.heartbeat(&beats).await;
        }
    }

    /// Settles again what waits; what the store still does not answer stays.
    pub(super) async fn settle_waiting(self: &Arc<Self>) {
        loop {
            let batch: Vec<Pending> = self.owed().settlements.values().take(AT_ONCE).cloned().collect();
            if batch.is_empty() {
                return;
            }
            let keys: Vec<Key> = batch.iter().map(Pending::key).collect();
            let outcomes = self.carry_out(batch).await;
            let mut unknown = false;
            for (key, outcome) in keys.into_iter().zip(outcomes) {
                match outcome {
                    queue_core::provider::SettleOutcome::Unknown(_) => unknown = true,
                    _ => self.drop_settlement(key),
                }
            }
            if unknown {
                return;
            }
        }
    }

    pub(super) async fn repeat_chores(self: &Arc<Self>) {
        let chores = std::mem::take(&mut self.owed().chores);
        let left = chores.into_iter().filter_map(|(chore, left)| Some((chore, left.checked_sub(1)?)));
        Asked { desk: self, chores: left.collect() }.ask().await;
    }
}
