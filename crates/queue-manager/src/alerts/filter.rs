//! Which events are wanted.

use std::{fmt, str::FromStr, sync::Arc};

use queue_core::{Error, ErrorCode, Event, Result};

/// Which events are wanted, by their names on the wire: `alert:backlog`, all of a family as `alert:*`, or `*`.
///
/// ```
/// use queue_manager::alerts::EventFilter;
/// let filter: EventFilter = "alert:*,worker-pool:worker-unhealthy,job:dead-letter".parse()?;
/// assert_eq!(filter.to_string(), "alert:*,worker-pool:worker-unhealthy,job:dead-letter");
/// # Ok::<(), queue_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    patterns: Vec<Arc<str>>,
}

/// Every name there is: a pattern that can never match is a mistake in writing.
const NAMES: [&str; 28] = [
    "job:submitted",
    "job:processing",
    "job:progress",
    "job:completed",
    "job:retried",
    "job:dead-letter",
    // The same under another name.
    "job:failed",
    "job:cancelled",
    "job:cancel-requested",
    "job:expired",
    "job:released",
    "job:lease-lost",
    "job:parked",
    "job:redriven",
    "worker-pool:scaled-up",
    "worker-pool:scaled-down",
    "worker-pool:worker-unhealthy",
    "breaker:closed",
    "breaker:open",
    "breaker:half-open",
    "provider:store-away",
    "provider:store-back",
    "alert:backlog",
    "alert:dead-letters",
    "alert:dead-letter-growth",
    "alert:sla-breach",
    "alert:unhealthy-queue",
    "alert:flood",
];

impl EventFilter {
    /// Alerts, and nothing else.
    #[must_use]
    pub fn alerts() -> Self {
        Self { patterns: vec!["alert:*".into()] }
    }

    /// Everything: on a busy system that is several events for each job.
    #[must_use]
    pub fn all() -> Self {
        Self { patterns: vec!["*".into()] }
    }

    /// Whether it is wanted.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.matches(event.wire_name()) || event.wire_alias().is_some_and(|alias| self.matches(alias))
    }

    fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(family) => name.starts_with(family),
            None => name == &**pattern,
        })
    }

    /// Whether it wants any that are no alerts: those come from the events of the schedulers.
    pub(crate) fn wants_more_than_alerts(&self) -> bool {
        NAMES.iter().any(|name| !name.starts_with("alert:") && self.matches(name))
    }
}

impl FromStr for EventFilter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut patterns: Vec<Arc<str>> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let known = match part.strip_suffix('*') {
                Some("") => true,
                Some(family) => family.ends_with(':') && NAMES.iter().any(|name| name.starts_with(family)),
                None => NAMES.contains(&part),
            };
            if !known {
                let message =
                    format!("{part:?} is no event; write names such as alert:*, worker-pool:*, job:dead-letter");
                return Err(Error::new(ErrorCode::Validation, message).at("configure"));
            }
            if !patterns.iter().any(|pattern| &**pattern == part) {
                patterns.push(part.into());
            }
        }
        Ok(Self { patterns })
    }
}

impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.patterns.join(","))
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{
        Env, JobId, QueueName, Timestamp,
        event::{BreakerState, JobEvent, JobEventKind},
        job::{JobKind, JobRef},
    };

    use super::*;

    #[test]
    fn names_families_and_everything() {
        let filter: EventFilter = "alert:*, job:dead-letter,alert:*".parse().unwrap();
        assert_eq!(filter.to_string(), "alert:*,job:dead-letter");
        assert!(filter.matches("alert:flood") && filter.matches("job:dead-letter"));
        assert!(!filter.matches("job:completed") && !filter.matches("job:dead-letters"));
        assert!(filter.wants_more_than_alerts() && !EventFilter::alerts().wants_more_than_alerts());
        let all: EventFilter = "*".parse().unwrap();
        assert!(all == EventFilter::all() && NAMES.iter().all(|name| all.matches(name)));
    }

    #[test]
    fn a_dead_job_has_failed() {
        let filter: EventFilter = "job:failed".parse().unwrap();
        let event = |what| {
            let job = JobRef::new(QueueName::from_static("q"), JobId::fresh(&Env::system()));
            Event::from(JobEvent::new(Timestamp::from_millis(1), job, JobKind::from_static("x"), what, 1))
        };
        assert!(filter.wants(&event(JobEventKind::DeadLettered)) && filter.wants_more_than_alerts());
        assert!(!filter.wants(&event(JobEventKind::Retrying)) && !filter.wants(&event(JobEventKind::Cancelled)));
    }

    #[test]
    fn what_never_matches_is_refused() {
        for bad in ["", "alerts:*", "alert:bakclog", "job:*d", "alert:backlog,", "al*"] {
            let error = bad.parse::<EventFilter>().unwrap_err();
            assert!(error.message().contains("is no event"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_names_are_those_of_the_events() {
        use JobEventKind::*;
        for kind in [
            Submitted,
            Started,
            Progress,
            Completed,
            Retrying,
            DeadLettered,
            Cancelled,
            CancelRequested,
            Expired,
            Released,
            LeaseLost,
            Parked,
            Redriven,
        ] {
            assert!(NAMES.contains(&kind.wire_name()), "{kind:?}");
        }
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            assert!(NAMES.contains(&state.wire_name()), "{state:?}");
        }
    }
}
