//! What the tasks of a consumer and its callers share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use queue_core::{Error, QueueName, QueueSpec, Result, provider::ConsumeOptions};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{plan::BANDS, shelf::Shelf};
use crate::provider::Shared;

/// How far bands have come. Zero: not tried yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Steering {
    /// Raised whenever the bands are to look again what is wanted.
    pub(super) turn: u64,
}

pub(super) struct Station {
    pub(super) base: Arc<Shared>,
    pub(super) queue: QueueName,
    pub(super) spec: Arc<QueueSpec>,
    pub(super) worker: Arc<str>,
    shelf: Mutex<Shelf>,
    /// Something came, ended or failed.
    changed: Notify,
    pub(super) steer: watch::Sender<Steering>,
    followed: [AtomicU64; BANDS],
    tried: [AtomicU64; BANDS],
    /// Given back unstarted.
    pub(super) returned: AtomicUsize,
}

impl std::fmt::Debug for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Station").field("queue", &self.queue).field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Station {
    pub(super) fn new(base: Arc<Shared>, spec: Arc<QueueSpec>, options: &ConsumeOptions) -> Self {
        let max_hold = base.options.max_hold;
        Self {
            base,
            queue: spec.name.clone(),
            spec,
            worker: Arc::clone(&options.worker),
            shelf: Mutex::new(Shelf::new(options.outstanding, max_hold)),
            changed: Notify::new(),
            steer: watch::Sender::new(Steering::default()),
            followed: Default::default(),
            tried: Default::default(),
            returned: AtomicUsize::new(0),
        }
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&Shelf) -> R) -> R {
        look(&self.shelf.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is held and wakes who waits for it.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Shelf) -> R) -> R {
        let changed = self.quietly(change);
        self.changed.notify_waiters();
        changed
    }

    /// Changes something that nobody waits for.
    pub(super) fn quietly<R>(&self, change: impl FnOnce(&mut Shelf) -> R) -> R {
        change(&mut self.shelf.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the bands look again at what is wanted. The turn by which they have.
    pub(super) fn steer(&self) -> u64 {
        let mut turn = 0;
        self.steer.send_modify(|steering| {
            steering.turn += 1;
            turn = steering.turn;
        });
        turn
    }

    pub(super) fn has_followed(&self, band: usize, turn: u64) {
        if self.followed[band].fetch_max(turn, Ordering::AcqRel) < turn {
            self.changed.notify_waiters();
        }
    }

    /// A band has a subscription, or knows why not.
    pub(super) fn has_tried(&self, band: usize) {
        if self.tried[band].fetch_add(1, Ordering::AcqRel) == 0 {
            self.changed.notify_waiters();
        }
    }

    pub(super) fn all_tried(&self) -> bool {
        self.tried.iter().all(|tried| tried.load(Ordering::Acquire) > 0)
    }

    /// Whether the bands have done what was wanted at that turn. One without a channel has no subscription.
    pub(super) fn all_followed(&self, turn: u64) -> bool {
        let done = |band: usize| {
            self.followed[band].load(Ordering::Acquire) >= turn || !self.look(|shelf| shelf.has_channel(band))
        };
        (0..BANDS).all(done)
    }

    /// Waits for something that a change brings about. `false`: it did not by then.
    pub(super) async fn until(&self, by: Option<Instant>, mut is_so: impl FnMut() -> bool) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_so() {
                return true;
            }
            match by {
                None => changed.await,
                Some(by) => {
                    if tokio::time::timeout_at(by, changed).await.is_err() {
                        return is_so();
                    }
                }
            }
        }
    }

    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// # Errors
    /// `CLOSED` once the provider was closed.
    pub(super) fn open(&self, operation: &'static str) -> Result<()> {
        self.base.open(operation).map_err(|error: Error| error.on(&self.queue))
    }
}
