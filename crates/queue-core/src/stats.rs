//! How a queue is doing.

use std::sync::Arc;

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
    /// When the pending job that waits longest became ready. `None` where none is, and where nobody can tell: a bare broker that
    /// keeps no times (RabbitMQ), without a store beside it.
    pub oldest_pending: Option<Timestamp>,
    /// Its partitions, by name. Empty where the queue declares none, or the provider cannot tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionStats>,
}

/// How a partition of a queue is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartitionStats {
    /// Its name.
    pub name: Arc<str>,
    /// Ready to be claimed, parked ones left out.
    pub ready: u64,
    /// Leased.
    pub running: u64,
    /// How many may be leased at a time, if that is bounded.
    pub max_concurrency: Option<u32>,
    /// When the one of its ready jobs that waits longest became ready.
    pub oldest_ready: Option<Timestamp>,
}

impl PartitionStats {
    /// A partition in which nothing is.
    #[must_use]
    pub const fn empty(name: Arc<str>) -> Self {
        Self { name, ready: 0, running: 0, max_concurrency: None, oldest_ready: None }
    }

    /// Whether as many of its jobs run as may: more workers would not help it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.max_concurrency.is_some_and(|most| self.running >= u64::from(most))
    }
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
            partitions: Vec::new(),
        }
    }

    /// What `max_len` counts: pending, scheduled and retrying.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.pending + self.scheduled + self.retrying
    }

    /// What a worker with room could claim: pending, neither parked nor in a partition that is full.
    #[must_use]
    pub fn claimable(&self) -> u64 {
        let held_back: u64 = self.full().map(|partition| partition.ready).sum();
        self.pending.saturating_sub(self.parked).saturating_sub(held_back)
    }

    /// When the one of these that waits longest became ready.
    #[must_use]
    pub fn oldest_claimable(&self) -> Option<Timestamp> {
        if self.full().next().is_none() {
            return self.oldest_pending;
        }
        self.partitions
            .iter()
            .filter(|partition| !partition.is_full())
            .filter_map(|partition| partition.oldest_ready)
            .min()
    }

    fn full(&self) -> impl Iterator<Item = &PartitionStats> {
        self.partitions.iter().filter(|partition| partition.is_full())
    }
}
