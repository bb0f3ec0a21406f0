//! How a queue is doing.

use serde::{Deserialize, Serialize};

use crate::job::{QueueName, Timestamp};

/// What is in a queue now, and what went through it since the provider started counting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// The queue.
    pub queue: QueueName,
    /// Whether the numbers below are exact, or the broker's estimate.
    pub exact: bool,
    /// Whether workers are held back.
    pub paused: bool,
    /// Ready to be claimed, parked ones included.
    pub pending: u64,
    /// Of these, waiting for a key.
    pub parked: u64,
    /// Waiting for their time.
    pub scheduled: u64,
    /// Failed and waiting for the next attempt.
    pub retrying: u64,
    /// Leased.
    pub running: u64,
    /// Dead and not yet redriven or removed.
    pub dead: u64,
    /// Finished and still remembered (completed, cancelled, expired).
    pub finished: u64,
    /// Accepted so far.
    pub submitted_total: u64,
    /// Completed so far.
    pub completed_total: u64,
    /// Attempts that failed so far, retried or not.
    pub failed_total: u64,
    /// When the pending job that waits longest became ready.
    pub oldest_pending: Option<Timestamp>,
}

impl QueueStats {
    /// A queue in which nothing is and was.
    #[must_use]
    pub fn empty(queue: QueueName) -> Self {
        Self {
            queue,
            exact: true,
            paused: false,
            pending: 0,
            parked: 0,
            scheduled: 0,
            retrying: 0,
            running: 0,
            dead: 0,
            finished: 0,
            submitted_total: 0,
            completed_total: 0,
            failed_total: 0,
            oldest_pending: None,
        }
    }

    /// What `max_len` counts: pending, scheduled and retrying.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.pending + self.scheduled + self.retrying
    }
}
