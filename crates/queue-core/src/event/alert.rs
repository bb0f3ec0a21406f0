//! What somebody should look at.

use serde::{Deserialize, Serialize};

use crate::job::{JobId, QueueName, Timestamp};

/// Something about a queue that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alert {
    /// When it was seen.
    pub at: Timestamp,
    /// About which queue.
    pub queue: QueueName,
    /// What.
    #[serde(flatten)]
    pub what: AlertKind,
    /// For people.
    pub message: String,
}

/// See [`Alert::what`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "alert", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertKind {
    /// More jobs wait than the threshold.
    Backlog {
        /// Waiting now.
        waiting: u64,
        /// The threshold.
        threshold: u64,
    },
    /// More jobs are dead than the threshold.
    DeadLetters {
        /// Dead now.
        dead: u64,
        /// The threshold.
        threshold: u64,
    },
    /// More jobs died in a while than they may.
    DeadLetterGrowth {
        /// Died in that time.
        died: u64,
        /// The threshold.
        threshold: u64,
        /// The time, in milliseconds.
        within_ms: u64,
    },
    /// A job took longer than its SLA class allows.
    SlaBreach {
        /// Which job.
        job: JobId,
        /// From submission to completion.
        actual_ms: u64,
        /// What its class allows.
        target_ms: u64,
    },
    /// Jobs wait and nobody takes them.
    Unhealthy {
        /// How long the oldest has waited.
        oldest_pending_ms: u64,
    },
    /// Jobs come faster than they may.
    Flood {
        /// Submitted in that time.
        submitted: u64,
        /// The threshold.
        threshold: u64,
        /// The time, in milliseconds.
        within_ms: u64,
    },
}

impl Alert {
    /// An alert.
    #[must_use]
    pub fn new(at: Timestamp, queue: QueueName, what: AlertKind, message: impl Into<String>) -> Self {
        Self { at, queue, what, message: message.into() }
    }
}

impl AlertKind {
    /// The name on the wire of the live-event interfaces.
    #[must_use]
    pub const fn wire_name(&self) -> &'static str {
        match self {
            Self::Backlog { .. } => "alert:backlog",
            Self::DeadLetters { .. } => "alert:dead-letters",
            Self::DeadLetterGrowth { .. } => "alert:dead-letter-growth",
            Self::SlaBreach { .. } => "alert:sla-breach",
            Self::Unhealthy { .. } => "alert:unhealthy-queue",
            Self::Flood { .. } => "alert:flood",
        }
    }
}
