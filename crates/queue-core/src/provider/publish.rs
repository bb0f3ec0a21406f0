//! Putting jobs in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::{defaults, millis},
    error::{Error, ErrorCode},
    job::JobRef,
};

/// How a batch is to be published.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// Every outcome is known by then, be it [`PublishOutcome::Unknown`].
    pub deadline: Duration,
    /// More than the queue's default, for this batch.
    pub durability: Option<Durability>,
    /// What a full queue does.
    pub on_full: OnFull,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { deadline: defaults::PUBLISH_DEADLINE, durability: None, on_full: OnFull::Reject }
    }
}

/// What a full queue does to the items that find no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// [`Rejection::Full`] at once.
    Reject,
    /// Each waits for room until the deadline, then [`Rejection::Full`].
    Wait,
    /// Nothing: the jobs were accepted before, and these are their next copies. Retries, follow-ups and redrives are never
    /// refused by `max_len`; a layer that publishes them itself says so with this.
    Exceed,
}

/// What `Accepted` and `Settled` promise. The queue's default governs both; a publish may ask for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Survives the publisher at best.
    Relaxed,
    /// On disk, or confirmed, at least this often.
    Interval(#[serde(with = "millis")] Duration),
    /// On disk, confirmed.
    Synced,
    /// Confirmed by so many replicas within the time.
    Replicated {
        /// How many.
        replicas: u8,
        /// How long to wait for them.
        #[serde(with = "millis")]
        timeout: Duration,
    },
}

impl Durability {
    /// The word for it, as in the capability table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Interval(_) => "interval",
            Self::Synced => "synced",
            Self::Replicated { .. } => "replicated",
        }
    }
}

/// What became of one item of a batch.
#[derive(Debug, Clone)]
pub enum PublishOutcome {
    /// It will be delivered. With the queue and the id, `place` makes the [`JobRef`].
    Accepted {
        /// See [`JobRef::place`].
        place: u16,
    },
    /// The unique key is held by another job. A hit on the item's own id is `Accepted`.
    Duplicate {
        /// The holder.
        existing: JobRef,
    },
    /// It will not be delivered.
    Rejected(Rejection),
    /// It was written to the wire and no answer came. Repeat it, under the same id, only where `dedup_by_id` is native
    /// or emulated; elsewhere that may make it two.
    Unknown(Error),
}

impl PublishOutcome {
    /// Whether it will be delivered.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

/// Why an item was refused; nothing was written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Rejection {
    /// The queue has reached its `max_len`.
    Full,
    /// It is larger, encoded, than the queue or the broker takes.
    TooLarge {
        /// The most bytes.
        limit: usize,
        /// Its bytes.
        actual: usize,
    },
    /// Its timeout outlasts the broker's session.
    ExceedsMaxHold {
        /// The longest timeout.
        max: Duration,
    },
    /// Its delay is longer than the provider can hold.
    DelayTooLong {
        /// The longest delay.
        max: Duration,
    },
    /// No queue takes it.
    Unroutable,
    /// Refused before anything was written: blocked connection, out of memory, no quorum, closed.
    Unavailable(Error),
    /// Not allowed, or not valid.
    Denied(Error),
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Full => {
                Self::new(ErrorCode::QueueFull, "the queue is full: wait for room, or raise its max_len")
            }
            Rejection::TooLarge { limit, actual } => {
                let message = format!(
                    "the job takes {actual} bytes and {limit} are allowed: store the data elsewhere and send a reference"
                );
                Self::new(ErrorCode::PayloadTooLarge, message)
            }
            Rejection::ExceedsMaxHold { max } => {
                let message = format!("a job may run for {max:?} at most on this broker: shorten its timeout or split it");
                Self::new(ErrorCode::ExceedsMaxHold, message)
            }
            Rejection::DelayTooLong { max } => {
                Self::new(ErrorCode::DelayTooLong, format!("a delay may be {max:?} at most on this provider"))
            }
            Rejection::Unroutable => Self::new(ErrorCode::Unroutable, "no queue takes this job: declare the queue first"),
            Rejection::Unavailable(error) | Rejection::Denied(error) => error,
        }
        .at("publish")
    }
}
