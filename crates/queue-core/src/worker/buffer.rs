//! Where fetcher, slots and completer hand jobs to each other: one short lock, taken once a job by its slot.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{completer::Finished, held::Held};
use crate::config::defaults;

/// Fetched deliveries that wait for a slot, in the order of their claim, and finished ones that wait for the completer.
/// Bounded by what may be in hand.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    /// Slots sleep here.
    filled: Notify,
    /// The completer sleeps here.
    finished: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Arc<Held>>,
    /// Slots that sleep and stay.
    idle: usize,
    /// Slots that sleep and leave when they wake.
    leaving: usize,
    /// The fetcher has ended.
    closed: bool,
    finished: Vec<Finished>,
    /// The slots have ended.
    slots_ended: bool,
}

impl Buffer {
    /// From the fetcher.
    pub(super) fn fill(&self, jobs: impl IntoIterator<Item = Arc<Held>>) {
        let mut waiting = self.lock();
        waiting.jobs.extend(jobs);
        // One job needs one slot: a second one would be woken on another thread, and for nothing.
        let idle = waiting.idle.min(waiting.jobs.len());
        drop(waiting);
        self.wake(idle);
    }

    /// Takes back what has waited for a slot since before that time.
    pub(super) fn withdraw(&self, before: Duration) -> Vec<Arc<Held>> {
        let mut waiting = self.lock();
        let old = waiting.jobs.iter().take_while(|held| held.fetched < before).count();
        waiting.jobs.drain(..old).collect()
    }

    /// No more will come from the fetcher; the slots end when nothing waits for them.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_waiters();
        self.filled.notify_one();
    }

    /// Asks that many slots to leave at most, of those that have nothing to do, and says how many will: they take no job any
    /// more.
    pub(super) fn retire(&self, most: usize) -> usize {
        let mut waiting = self.lock();
        // While jobs wait, whoever sleeps is about to wake.
        let leaving = if waiting.jobs.is_empty() { most.min(waiting.idle) } else { 0 };
        waiting.idle -= leaving;
        waiting.leaving += leaving;
        drop(waiting);
        for _ in 0..leaving {
            self.filled.notify_one();
        }
        leaving
    }

    /// Slots that have nothing to do.
    pub(super) fn idle(&self) -> usize {
        self.lock().idle
    }

    /// A slot hands over what it finished and gets its next job, and whether it had to wait for it; `None` when it is to leave:
    /// there is none and none will come, or there are too many slots.
    pub(super) async fn exchange(&self, mut finished: Option<Finished>) -> Option<(Arc<Held>, bool)> {
        let mut waited = false;
        loop {
            {
                let mut waiting = self.lock();
                let settle = finished.take().is_some_and(|finished| waiting.put(finished));
                let job = waiting.jobs.pop_front();
                let idle = if waiting.jobs.is_empty() { 0 } else { waiting.idle };
                let end = job.is_none() && waiting.closed;
                waiting.idle += usize::from(job.is_none() && !end);
                drop(waiting);
                if settle {
                    self.finished.notify_one();
                }
                if let Some(job) = job {
                    self.wake(idle);
                    return Some((job, waited));
                }
                if end {
                    // The permit that woke this slot wakes the next.
                    self.filled.notify_one();
                    return None;
                }
            }
            // A permit that came since is kept, so that no job is slept through.
            self.filled.notified().await;
            waited = true;
            if self.wakes_to_leave() {
                // The permit may have been meant for one that stays.
                self.filled.notify_one();
                return None;
            }
        }
    }

    fn wakes_to_leave(&self) -> bool {
        let mut waiting = self.lock();
        let leaves = waiting.leaving > 0;
        let woken = if leaves { &mut waiting.leaving } else { &mut waiting.idle };
        *woken -= 1;
        leaves
    }

    /// Each slot that takes a job wakes two more while there are jobs: few wake-ups when handlers return at once, all slots
    /// soon when they do not. Two, because a runtime may keep the last one that a task woke behind that very task.
    fn wake(&self, idle: usize) {
        for _ in 0..idle.min(2) {
            self.filled.notify_one();
        }
    }

    /// For the completer, from elsewhere than a slot.
    pub(super) fn put(&self, finished: Finished) {
        if self.lock().put(finished) {
            self.finished.notify_one();
        }
    }

    /// The slots have ended; the completer ends when nothing waits for it.
    pub(super) fn close_finished(&self) {
        self.lock().slots_ended = true;
        self.finished.notify_one();
    }

    /// Moves what is finished into `batch`, until that has `full` items, where there are at least so many. `true` when the slots have ended.
    pub(super) fn drain(&self, batch: &mut Vec<Finished>, least: usize, full: usize) -> bool {
        let mut waiting = self.lock();
        if waiting.finished.len() >= least {
            let count = waiting.finished.len().min(full.saturating_sub(batch.len()));
            batch.extend(waiting.finished.drain(..count));
        }
        waiting.slots_ended
    }

    /// Waits until something is finished, a batch is full, or the slots have ended; one that waits hears of it, also later.
    pub(super) async fn has_finished(&self) {
        self.finished.notified().await;
    }

    pub(super) fn is_anything_finished(&self) -> bool {
        !self.lock().finished.is_empty()
    }

    /// Which deliveries wait here, for a slot or for the completer.
    pub(super) fn keys(&self) -> HashSet<usize> {
        let waiting = self.lock();
        let finished = waiting.finished.iter().map(|finished| finished.held.key);
        waiting.jobs.iter().map(|held| held.key).chain(finished).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// `true` where the completer may sleep: it had nothing, or less than a batch.
    fn put(&mut self, finished: Finished) -> bool {
        self.finished.push(finished);
        matches!(self.finished.len(), 1 | defaults::SETTLE_BATCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_slots_that_sleep_are_asked_to_leave() {
        let buffer = Arc::new(Buffer::default());
        let sleeper = || {
            let buffer = Arc::clone(&buffer);
            tokio::spawn(async move { buffer.exchange(None).await.is_none() })
        };
        let sleepers = [sleeper(), sleeper(), sleeper()];
        assert_eq!(buffer.retire(9), 0, "none sleeps yet");
        tokio::task::yield_now().await;
        assert_eq!((buffer.retire(1), buffer.idle()), (1, 2), "who leaves is not counted any more");
        assert_eq!((buffer.retire(9), buffer.idle()), (2, 0));
        for sleeper in sleepers {
            assert!(sleeper.await.unwrap());
        }
        assert_eq!(buffer.retire(9), 0);
    }
}
