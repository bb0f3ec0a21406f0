//! The records of jobs that another transport carries.

mod admin;
mod claim;
mod factory;
#[cfg(feature = "journal")]
mod keeper;
#[cfg(not(feature = "journal"))]
#[path = "unkept.rs"]
mod keeper;
mod ledger;
#[cfg(feature = "journal")]
mod open;
mod record;
mod records;
#[cfg(feature = "journal")]
mod restore;
mod retain;
mod room;
#[cfg(feature = "journal")]
mod rows;
mod settle;
mod stage;
mod store;
mod sweep;
#[cfg(all(test, feature = "journal"))]
mod tests;
mod tombstones;
#[cfg(feature = "journal")]
mod write;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
#[cfg(doc)]
use queue_core::store::TrackingStore;
use queue_core::{Env, Result, config::defaults, job::StoreId};

use crate::{events::Hub, queue::Now, store::Leaders};
pub(crate) use factory::register as register_stores;
use keeper::{Keeper, Mark};
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
    keeper: Keeper,
    #[cfg(feature = "journal")]
    recovery: Option<crate::Recovery>,
}

impl Drop for Shared {
    /// Nobody closed it: what waited for the disk goes there with the journal's own end, which says that it was in order.
    fn drop(&mut self) {
        let now = Now::read(&self.env);
        self.keeper.flush(self.ledger.get_mut(), now);
    }
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
        let ledger = Mutex::new(Ledger::new(limits, hub.clone(), false));
        let (id, leaders, keeper) = (StoreId::fresh(&env), Leaders::default(), Keeper::default());
        Self {
            shared: Arc::new(Shared {
                id,
                env,
                hub,
                leaders,
                ledger,
                keeper,
                #[cfg(feature = "journal")]
                recovery: None,
            }),
        }
    }

    /// Writes all that is not on disk yet and closes the journal; every change after that is refused as `CLOSED`, also those
    /// through clones. In memory alone it does nothing. The last clone's drop closes too, and blocks.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the disk went on refusing: what it refused is lost, and none of it was answered for.
    pub async fn close(&self) -> Result<()> {
        // Not waited for here: closing waits for all of it.
        let ((), _) = self.noted(|_, _| ((), Told::OnceKept));
        self.shared.keeper.close().await
    }

    /// Reads and changes the records at one moment. What changes is on disk some time later, and may be told at once. Never
    /// await inside.
    fn with<R>(&self, act: impl FnOnce(&mut Ledger, Now) -> R) -> R {
        let (answer, _) = self.noted(|ledger, now| (act(ledger, now), Told::AtOnce));
        answer
    }

    /// Changes the records at one moment, and answers once that is on disk, with all that it rests on. Refuses before it
    /// changes anything if the disk refuses already. Never await inside.
    async fn kept<R>(&self, act: impl FnOnce(&mut Ledger, Now) -> R) -> Result<R> {
        self.kept_if(|_| true, act).await
    }

    /// As [`MemoryTracking::kept`], and at once where the answer is none of those that a crash must not undo.
    async fn kept_if<R>(&self, waits: impl FnOnce(&R) -> bool, act: impl FnOnce(&mut Ledger, Now) -> R) -> Result<R> {
        self.shared.keeper.ready()?;
        let (answer, mark) = self.noted(|ledger, now| {
            let answer = act(ledger, now);
            let told = if waits(&answer) { Told::OnceKept } else { Told::AtOnce };
            (answer, told)
        });
        self.shared.keeper.committed(mark).await?;
        Ok(answer)
    }

    /// Changes the records at one moment, and appends what changed as one batch before anybody else sees it.
    fn noted<R>(&self, act: impl FnOnce(&mut Ledger, Now) -> (R, Told)) -> (R, Mark) {
        let mut ledger = self.shared.ledger.lock();
        let now = Now::read(&self.shared.env);
        ledger.advance(now);
        let (answer, told) = act(&mut ledger, now);
        let mark = self.shared.keeper.append(&mut ledger, told, now);
        (answer, mark)
    }
}

/// When an answer may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// At once: should a crash undo it, no harm is done.
    AtOnce,
    /// Once the journal has it.
    OnceKept,
}

impl Default for MemoryTracking {
    fn default() -> Self {
        Self::new()
    }
}
