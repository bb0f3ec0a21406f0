//! Limits and circuit breakers, as a file says.

use std::{fmt, time::Duration};

use queue_core::limit::{BreakerPolicy, Limit, LimitScope};
use serde::{Deserialize, de};

use super::{positive, section::section, value::Value};

section! {
    /// How many jobs may begin or run. `SCOPE` says which are counted together, and is quoted: `"queue:mail"`, `"tenant:*"`:
    /// by queue, kind, tenant, rate, concurrency or breaker key; with `*` for the name each name is counted by itself. Jobs that
    /// are held back stand in nobody's way. Every process that works must be given the same limits.
    LimitConfig {
        /// At most so many begin in any stretch of that time.
        rate: Option<Rate> = None,
        /// With it the rate is a token bucket: what was not used is saved up, to this many.
        #[validate(range(min = 1, message = "at least 1"))]
        burst: Option<u32> = None,
        /// At most so many run at a time.
        #[validate(range(min = 1, message = "at least 1; pause the queue to keep jobs out of the workers"))]
        concurrency: Option<u32> = None,
    }
}

section! {
    /// The circuit breaker of a dependency, which jobs name (`depends_on`). While it is open they wait and spend no attempt.
    /// `NAME` is the dependency, or `"*"` for each that has no section of its own.
    BreakerConfig {
        /// It opens at so many failures,
        #[validate(range(min = 1, message = "at least 1"))]
        failures: u32 = BreakerPolicy::default().failures,
        /// in that time,
        #[validate(custom(function = "positive"))]
        within: Duration = BreakerPolicy::default().within,
        /// if they are at least this share of the runs that ended in it.
        #[validate(range(min = 0.0, max = 1.0, message = "a share between 0.0 and 1.0"))]
        share: f64 = BreakerPolicy::default().share,
        /// It stays open so long, and then lets probes run.
        #[validate(custom(function = "positive"))]
        open_for: Duration = BreakerPolicy::default().open_for,
        /// So many at a time; it closes when so many in a row went well.
        #[validate(range(min = 1, message = "at least 1"))]
        probes: u32 = BreakerPolicy::default().probes,
    }
}

impl LimitConfig {
    /// The limits that this describes.
    pub(super) fn limits(&self) -> Result<Vec<Limit>, &'static str> {
        let rate = match (self.rate, self.burst) {
            (Some(Rate { count, per }), None) => Some(Limit::SlidingWindow { max: count, per }),
            (Some(Rate { count, per }), Some(burst)) => Some(Limit::TokenBucket { rate: count, per, burst }),
            (None, Some(_)) => return Err("`burst` goes with `rate`"),
            (None, None) => None,
        };
        let running = self.concurrency.map(|max| Limit::Concurrency { max });
        if rate.is_none() && running.is_none() {
            return Err("a limit has a `rate` or a `concurrency`");
        }
        Ok(rate.into_iter().chain(running).collect())
    }
}

impl BreakerConfig {
    /// The policy that this describes.
    #[must_use]
    pub fn policy(&self) -> BreakerPolicy {
        let Self { failures, within, share, open_for, probes } = *self;
        BreakerPolicy { failures, within, share, open_for, probes }
    }
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

impl Value for Rate {
    const SHAPE: &'static str = "`COUNT/DURATION`";

    fn read(text: &str) -> Result<Self, String> {
        let shape = || format!("{text:?} is not a rate; write a count and a duration, such as 100/60s");
        let (count, per) = text.split_once('/').ok_or_else(shape)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(shape)?;
        let per = Duration::read(per.trim()).ok().filter(|per| !per.is_zero()).ok_or_else(shape)?;
        Ok(Self { count, per })
    }

    fn show(&self) -> String {
        format!("{}/{}", self.count, self.per.show())
    }
}

/// Whose runs are counted together; see [`LimitScope`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(pub LimitScope, String);

impl From<LimitScope> for Scope {
    fn from(scope: LimitScope) -> Self {
        let text = scope.to_string();
        Self(scope, text)
    }
}

impl AsRef<str> for Scope {
    fn as_ref(&self) -> &str {
        &self.1
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse()
            .map(|scope: LimitScope| scope.into())
            .map_err(|error: queue_core::Error| de::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_nonsense_is_refused() {
        for (text, count, seconds) in [("100/60s", 100, 60), ("5/1m 30s", 5, 90), ("1 / 1s", 1, 1)] {
            assert_eq!(Rate::read(text), Ok(Rate { count, per: Duration::from_secs(seconds) }));
        }
        assert_eq!(Rate::read("100/60s").unwrap().show(), "100/1m");
        for bad in ["", "100", "100/", "/60s", "0/60s", "100/0s", "-1/1s", "1.5/1s", "100/60"] {
            assert!(Rate::read(bad).unwrap_err().contains("100/60s"), "{bad}");
        }
    }

    #[test]
    fn a_burst_makes_a_bucket_of_a_rate() {
        let rate = Some(Rate { count: 100, per: Duration::from_secs(60) });
        let limits = |rate, burst, concurrency| LimitConfig { rate, burst, concurrency }.limits();
        let per = Duration::from_secs(60);
        assert_eq!(limits(rate, None, None), Ok(vec![Limit::SlidingWindow { max: 100, per }]));
        assert_eq!(limits(rate, Some(9), None), Ok(vec![Limit::TokenBucket { rate: 100, per, burst: 9 }]));
        assert_eq!(limits(None, None, Some(2)), Ok(vec![Limit::Concurrency { max: 2 }]));
        assert_eq!(limits(rate, None, Some(2)).unwrap().len(), 2);
        assert!(limits(None, Some(9), Some(2)).is_err() && limits(None, None, None).is_err());
    }

    #[test]
    fn a_breaker_is_by_default_the_default() {
        assert_eq!(BreakerConfig::default().policy(), BreakerPolicy::default());
    }
}
