//! What was fetched and waits for a slot, and what waits for the completer: two hand-overs that cost a short lock each.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{completer::Finished, held::Held};

/// Deliveries between the fetcher and the slots, in the order of their claim. Bounded by what may be in hand.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Arc<Held>>,
    /// Slots that sleep.
    idle: usize,
    closed: bool,
}

impl Buffer {
    pub(super) fn fill(&self, jobs: impl IntoIterator<Item = Arc<Held>>) {
        let mut waiting = self.lock();
        waiting.jobs.extend(jobs);
        let idle = waiting.idle;
        drop(waiting);
        self.wake(idle);
    }

    /// Takes back what has waited for a slot since before that time.
    pub(super) fn withdraw(&self, before: Duration) -> Vec<Arc<Held>> {
        let mut waiting = self.lock();
        let old = waiting.jobs.iter().take_while(|held| held.fetched < before).count();
        waiting.jobs.drain(..old).collect()
    }

    /// No more will come; the slots end when it is empty.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_waiters();
        self.filled.notify_one();
    }

    /// The next one; `None` when it is closed and empty.
    pub(super) async fn take(&self) -> Option<Arc<Held>> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(job) = waiting.jobs.pop_front() {
                    let idle = if waiting.jobs.is_empty() { 0 } else { waiting.idle };
                    drop(waiting);
                    self.wake(idle);
                    return Some(job);
                }
                if waiting.closed {
                    // The permit that woke this slot wakes the next.
                    self.filled.notify_one();
                    return None;
                }
                waiting.idle += 1;
            }
            // A permit that came since is kept, so that no job is slept through.
            self.filled.notified().await;
            self.lock().idle -= 1;
        }
    }

    /// Each slot that takes a job wakes two more while there are jobs: few wake-ups when handlers return at once, all slots
    /// soon when they do not. Two, because a runtime may keep the last one that a task woke behind that very task.
    fn wake(&self, idle: usize) {
        for _ in 0..idle.min(2) {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finished runs between the slots and the completer.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    waiting: Mutex<Vec<Finished>>,
    filled: Notify,
    /// Set once, when the last slot has ended.
    closed: std::sync::atomic::AtomicBool,
}

impl Outlet {
    pub(super) fn put(&self, finished: Finished) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(finished);
        let first = waiting.len() == 1;
        drop(waiting);
        if first {
            self.filled.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, std::sync::atomic::Ordering::Release);
        self.filled.notify_one();
    }

    /// Moves what is there, at most up to `room` items, into `batch`.
    pub(super) fn drain(&self, batch: &mut Vec<Finished>, room: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(room);
        batch.extend(waiting.drain(..count));
        if !waiting.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Waits for something, then moves it. `false` when it is closed and empty.
    pub(super) async fn wait_and_drain(&self, batch: &mut Vec<Finished>, room: usize) -> bool {
        loop {
            let closed = self.closed.load(std::sync::atomic::Ordering::Acquire);
            self.drain(batch, room);
            if !batch.is_empty() {
                return true;
            }
            if closed {
                return false;
            }
            self.filled.notified().await;
        }
    }
}
