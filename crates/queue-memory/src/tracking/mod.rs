//! The records of jobs that another transport carries.

mod admin;
mod claim;
mod ledger;
mod record;
mod retain;
mod room;
mod settle;
mod stage;
mod store;
mod sweep;
mod tombstones;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
#[cfg(doc)]
use queue_core::store::TrackingStore;
use queue_core::{Env, config::defaults, job::StoreId};

use crate::{events::Hub, queue::Now, store::Leaders};
use ledger::Ledger;

#[doc = include_str!("../docs/tracking.md")]
#[derive(Debug, Clone)]
pub struct MemoryTracking {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    env: Env,
    id: StoreId,
    hub: Hub,
    leaders: Leaders,
    ledger: Mutex<Ledger>,
}

/// What bounds a [`MemoryTracking`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackingLimits {
    /// How many jobs of a queue may wait before new ones are refused as `Full`.
    pub max_waiting: u64,
    /// How long the id of a forgotten job is kept: longer than the transport can hold a copy of it.
    pub tombstone_age: Duration,
    /// How many such ids are kept, over all queues; the oldest go first.
    pub max_tombstones: usize,
}

impl Default for TrackingLimits {
    /// 1,000,000 waiting jobs; 100,000 ids for 14 days, which is the longest that SQS holds a message.
    fn default() -> Self {
        Self {
            max_waiting: defaults::MEMORY_MAX_LEN,
            tombstone_age: Duration::from_secs(14 * 24 * 3_600),
            max_tombstones: 100_000,
        }
    }
}

impl MemoryTracking {
    /// An empty store on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_env(Env::system())
    }

    /// An empty store on a clock and randomness of the caller's.
    #[must_use]
    pub fn with_env(env: Env) -> Self {
        Self::with_limits(env, TrackingLimits::default())
    }

    /// An empty store with other bounds than the default ones.
    #[must_use]
    pub fn with_limits(env: Env, limits: TrackingLimits) -> Self {
        let hub = Hub::new();
        let ledger = Mutex::new(Ledger::new(limits, hub.clone()));
        let shared = Shared { id: StoreId::fresh(&env), env, hub, leaders: Leaders::default(), ledger };
        Self { shared: Arc::new(shared) }
    }

    /// Reads and changes the records at one moment. Never await inside.
    fn with<R>(&self, act: impl FnOnce(&mut Ledger, Now) -> R) -> R {
        let mut ledger = self.shared.ledger.lock();
        let now = Now::read(&self.shared.env);
        ledger.advance(now);
        act(&mut ledger, now)
    }
}

impl Default for MemoryTracking {
    fn default() -> Self {
        Self::new()
    }
}
