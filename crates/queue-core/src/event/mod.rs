//! What happens, as others hear of it: one typed enum inside, and the names that interfaces use for it.

mod alert;
mod breaker;
mod job;
mod pool;
mod provider;

pub use alert::{Alert, AlertKind};
pub use breaker::{BreakerEvent, BreakerState};
pub use job::{JobEvent, JobEventKind, Progress};
pub use pool::{PoolChange, PoolEvent};
pub use provider::{ProviderEvent, ProviderStatus};

/// Anything that happens. Job events come from the store where there is one; the others are told by the process in which they
/// happen.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// To a job.
    Job(JobEvent),
    /// To a worker's slots.
    Pool(PoolEvent),
    /// To a circuit breaker.
    Breaker(BreakerEvent),
    /// To the connection with a provider.
    Provider(ProviderEvent),
    /// Somebody should look.
    Alert(Alert),
}

impl Event {
    /// The name on the wire of the live-event interfaces.
    #[must_use]
    pub const fn wire_name(&self) -> &'static str {
        match self {
            Self::Job(event) => event.what.wire_name(),
            Self::Pool(event) => event.what.wire_name(),
            Self::Breaker(event) => event.to.wire_name(),
            Self::Provider(event) => event.to.wire_name(),
            Self::Alert(alert) => alert.what.wire_name(),
        }
    }
}

impl Event {
    /// Its other name on the wire, where it has two.
    #[must_use]
    pub const fn wire_alias(&self) -> Option<&'static str> {
        match self {
            Self::Job(event) => event.what.wire_alias(),
            Self::Pool(_) | Self::Breaker(_) | Self::Provider(_) | Self::Alert(_) => None,
        }
    }
}

impl From<JobEvent> for Event {
    fn from(event: JobEvent) -> Self {
        Self::Job(event)
    }
}
