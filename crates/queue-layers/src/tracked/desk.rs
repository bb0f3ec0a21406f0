//! What one consumer has in hand, and how it gives copies back to the transport.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use queue_core::{
    Consumer, Envelope, Error, QueueName,
    provider::{Disposition, Lease, Receipt, ReleaseReason, SettleOutcome, Settlement},
    store::Fence,
};
use tokio::sync::Notify;

use super::{
    away::{Asked, Key, Owed},
    core::Core,
    options::EXTENSIONS_PER_LEASE,
    rule::Rule,
};

/// The part of a consumer that outlives it while something waits for the store.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) core: Arc<Core>,
    pub(super) queue: QueueName,
    pub(super) transport: Arc<dyn Consumer>,
    pub(super) worker: Arc<str>,
    pub(super) lease: Duration,
    /// The queue keeps no records.
    pub(super) untracked: bool,
    pub(super) held: Mutex<HashMap<Key, Held>>,
    pub(super) owed: Mutex<Owed>,
    pub(super) demand: AtomicUsize,
    pub(super) paused: AtomicBool,
    pub(super) told: Mutex<Told>,
    pub(super) closing: AtomicBool,
    pub(super) closed: Notify,
    /// What the next fetch has to tell.
    pub(super) foreign: Mutex<Option<Error>>,
}

/// Which demand the transport has.
#[derive(Debug)]
pub(super) struct Told {
    /// `None`: it was asked and did not answer, or was asked twice at a time, and either may count.
    demand: Option<usize>,
    under_way: usize,
    overlapped: bool,
}

impl Told {
    pub(super) fn new(demand: usize) -> Self {
        Self { demand: Some(demand), under_way: 0, overlapped: false }
    }

    /// The transport is to be asked; not where it surely knows.
    pub(super) fn begin(&mut self, demand: usize) -> bool {
        if self.demand == Some(demand) {
            return false;
        }
        self.demand = None;
        self.overlapped = self.under_way > 0;
        self.under_way += 1;
        true
    }

    /// `answered`: with this demand.
    pub(super) fn end(&mut self, answered: Option<usize>) {
        self.under_way -= 1;
        if !self.overlapped {
            self.demand = answered;
        }
    }
}

/// A claimed copy.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// The transport's.
    pub(super) receipt: Receipt,
    pub(super) envelope: Envelope,
    pub(super) attempt: u32,
    pub(super) started_before: u32,
    /// How long the store's lease stands, on the local monotonic clock.
    pub(super) until: Duration,
}

/// The worker's receipt says which fence it is, so that it is understood after everything else was forgotten.
pub(super) fn receipt_of(fence: Fence) -> Receipt {
    Receipt { id: fence.id, slot: u64::from(fence.generation), epoch: fence.epoch }
}

pub(super) fn fence_of(receipt: &Receipt) -> Fence {
    let generation = u32::try_from(receipt.slot).unwrap_or(u32::MAX);
    Fence { id: receipt.id, epoch: receipt.epoch, generation }
}

pub(super) fn key_of(receipt: &Receipt) -> Key {
    (receipt.id, receipt.epoch)
}

/// Whether asking the transport again may help.
pub(super) fn is_undone(outcome: &SettleOutcome) -> bool {
    matches!(outcome, SettleOutcome::NotSettled { .. } | SettleOutcome::Unknown(_))
}

/// The copy is done with. Not `Complete`: what the job came to is the store's to count.
pub(super) fn acknowledge(receipt: Receipt) -> Settlement {
    Settlement::new(receipt, Disposition::Cancelled)
}

pub(super) fn give_back(receipt: Receipt, after: Duration, reason: ReleaseReason) -> Settlement {
    Settlement::new(receipt, Disposition::Release { after, reason })
}

impl Desk {
    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the receipt is one of the layer's, and not of a job that only passed through.
    pub(super) fn is_tracked(&self, receipt: &Receipt) -> bool {
        !self.untracked || self.held().contains_key(&key_of(receipt))
    }

    /// When a lease of the store ends that was granted or renewed just now.
    pub(super) fn lease_end(&self, lease: &Lease) -> Duration {
        self.core.now().saturating_add(lease.remaining.unwrap_or(self.lease))
    }

    /// What the worker gave up: it does so without a word when a lease ends unrenewed, a while after it did. What waits for the
    /// store is another matter.
    pub(super) fn given_up(&self) -> Vec<Key> {
        let margin = self.lease / EXTENSIONS_PER_LEASE;
        let now = self.core.now();
        let lapsed = |held: &Held| held.until.saturating_add(margin) < now;
        let keys: Vec<Key> = self.held().iter().filter(|(_, held)| lapsed(held)).map(|(key, _)| *key).collect();
        keys.into_iter().filter(|key| self.waiting_settlement(*key).is_none()).collect()
    }

    /// Settles copies at the transport. What it does not do now is asked of it again.
    pub(super) async fn settle_copies(self: &Arc<Self>, batch: Vec<Settlement>) {
        Asked::new(self, batch).ask().await;
    }

    /// The job was lost to others: its copy goes back, for an unreleased one holds a place until the session ends, and what
    /// becomes of it is decided at its next claim.
    pub(super) fn lost_copy(&self, receipt: Receipt) -> Option<Settlement> {
        if !self.core.keeps(Rule::LostCopyGoesBack) {
            return None;
        }
        Some(match self.core.keeps(Rule::LostCopyIsKept) {
            true => give_back(receipt, self.core.options.release_delay, ReleaseReason::Busy),
            false => acknowledge(receipt),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn a_demand_that_nobody_answered_is_asked_again() {
        let mut told = Told::new(4);
        assert!(!told.begin(4), "it was told when it was opened");
        assert!(told.begin(0));
        told.end(None);
        assert!(told.begin(4), "it may have arrived");
        told.end(Some(4));
        assert!(!told.begin(4));
    }

    #[test]
    fn of_two_at_a_time_nobody_knows_which_counts() {
        let mut told = Told::new(4);
        assert!(told.begin(0) && told.begin(8));
        told.end(Some(8));
        told.end(Some(0));
        assert!(told.begin(8));
        told.end(Some(8));
        assert!(!told.begin(8));
    }
}
