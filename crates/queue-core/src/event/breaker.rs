//! What happens to circuit breakers.

use serde::{Deserialize, Serialize};

use crate::{job::Timestamp, provider::ParkKey};

/// A breaker changed its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BreakerEvent {
    /// When.
    pub at: Timestamp,
    /// Which breaker: `breaker:NAME`.
    pub key: ParkKey,
    /// What it was.
    pub from: BreakerState,
    /// What it is.
    pub to: BreakerState,
}

/// What a circuit breaker does with jobs that need its dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Lets them run.
    Closed,
    /// Holds them all back.
    Open,
    /// Lets a few run, to see whether it works again.
    HalfOpen,
}

impl BreakerEvent {
    /// An event.
    #[must_use]
    pub fn new(at: Timestamp, key: ParkKey, from: BreakerState, to: BreakerState) -> Self {
        Self { at, key, from, to }
    }
}

impl BreakerState {
    /// The name on the wire of the live-event interfaces.
    #[must_use]
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Closed => "breaker:closed",
            Self::Open => "breaker:open",
            Self::HalfOpen => "breaker:half-open",
        }
    }
}
