//! What happens to the slots of a worker.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::job::{JobId, QueueName, Timestamp};

/// Something that happened to one queue's slots in one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolEvent {
    /// When.
    pub at: Timestamp,
    /// Which worker.
    pub worker: Arc<str>,
    /// Whose queue.
    pub queue: QueueName,
    /// What.
    pub what: PoolChange,
}

/// See [`PoolEvent::what`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolChange {
    /// Slots were added.
    ScaledUp {
        /// Slots before.
        from: usize,
        /// Slots after.
        to: usize,
    },
    /// Idle slots were removed.
    ScaledDown {
        /// Slots before.
        from: usize,
        /// Slots after.
        to: usize,
    },
    /// A slot does not answer, or ended of a defect; another one takes its place.
    Unhealthy {
        /// Which slot: numbers are given once, from 1. 0 is what serves all slots: who fetches, who settles, the runtime.
        slot: u64,
        /// The job it holds, if any.
        job: Option<JobId>,
        /// For people.
        reason: String,
    },
}

impl PoolEvent {
    /// An event.
    #[must_use]
    pub fn new(at: Timestamp, worker: Arc<str>, queue: QueueName, what: PoolChange) -> Self {
        Self { at, worker, queue, what }
    }
}

impl PoolChange {
    /// The name on the wire of the live-event interfaces.
    #[must_use]
    pub const fn wire_name(&self) -> &'static str {
        match self {
            Self::ScaledUp { .. } => "worker-pool:scaled-up",
            Self::ScaledDown { .. } => "worker-pool:scaled-down",
            Self::Unhealthy { .. } => "worker-pool:worker-unhealthy",
        }
    }
}
