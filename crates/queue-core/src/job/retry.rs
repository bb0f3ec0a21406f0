//! How often, and after how long, a failed job runs again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Random,
    config::millis,
    error::{Error, ErrorCode, Result},
};

/// When a retryable failure is tried again.
///
/// The default is four executions with delays of 1, 2 and 4 s (cap 30 s), ±10 % jitter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// How many executions in all; 1 means never again.
    pub max_attempts: u32,
    /// How long to wait between them.
    pub backoff: Backoff,
    /// Each delay is spread evenly by this share of itself in both directions, 0.0 to 1.0, so that jobs which failed
    /// together do not come back together.
    pub jitter: f64,
}

/// The delay before attempt n + 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Backoff {
    /// At once.
    None,
    /// Always the same.
    Fixed {
        /// The delay.
        #[serde(with = "millis")]
        base: Duration,
    },
    /// `base × factor^(n − 1)`, at most `cap`.
    Exponential {
        /// The first delay.
        #[serde(with = "millis")]
        base: Duration,
        /// The growth from one delay to the next, at least 1.
        factor: f64,
        /// The longest delay.
        #[serde(with = "millis")]
        cap: Duration,
    },
    /// The n-th of these; the last one repeats. At most 64.
    Custom(#[serde(with = "millis::list")] Vec<Duration>),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 4,
            backoff: Backoff::Exponential { base: Duration::from_secs(1), factor: 2.0, cap: Duration::from_secs(30) },
            jitter: 0.1,
        }
    }
}

impl RetryPolicy {
    /// One execution, whatever happens.
    #[must_use]
    pub fn never() -> Self {
        Self::immediate(1)
    }

    /// `max_attempts` executions without a delay between them.
    #[must_use]
    pub fn immediate(max_attempts: u32) -> Self {
        Self { max_attempts, backoff: Backoff::None, jitter: 0.0 }
    }

    /// `max_attempts` executions with the same delay between them.
    #[must_use]
    pub fn fixed(max_attempts: u32, base: Duration) -> Self {
        Self { max_attempts, backoff: Backoff::Fixed { base }, jitter: 0.0 }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// `VALIDATION`, naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |rule: &'static str| Err(Error::new(ErrorCode::Validation, rule));
        if self.max_attempts == 0 {
            return refuse("retry.max_attempts counts executions and is at least 1");
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return refuse("retry.jitter is a share between 0.0 and 1.0");
        }
        match &self.backoff {
            Backoff::Exponential { factor, .. } if !factor.is_finite() || *factor < 1.0 => {
                refuse("retry.backoff.factor is at least 1")
            }
            Backoff::Custom(delays) if delays.is_empty() || delays.len() > 64 => {
                refuse("retry.backoff.custom holds 1 to 64 delays")
            }
            _ => Ok(()),
        }
    }

    /// Whether attempt number `attempt` (from 1) was the last.
    #[must_use]
    pub fn is_spent(&self, attempt: u32) -> bool {
        attempt >= self.max_attempts
    }

    /// The delay after attempt number `attempt` (from 1) failed. Jitter never takes it above an exponential's cap.
    #[must_use]
    pub fn delay_after(&self, attempt: u32, random: &dyn Random) -> Duration {
        let (delay, cap) = match &self.backoff {
            Backoff::None => return Duration::ZERO,
            Backoff::Fixed { base } => (*base, Duration::MAX),
            Backoff::Exponential { base, factor, cap } => (exponential(*base, *factor, *cap, attempt), *cap),
            Backoff::Custom(delays) => {
                let index = (attempt.saturating_sub(1) as usize).min(delays.len().saturating_sub(1));
                (delays.get(index).copied().unwrap_or_default(), Duration::MAX)
            }
        };
        if self.jitter == 0.0 {
            return delay.min(cap);
        }
        let spread = 1.0 + self.jitter * (2.0 * random.fraction() - 1.0);
        Duration::try_from_secs_f64(delay.as_secs_f64() * spread).unwrap_or(delay).min(cap)
    }
}

fn exponential(base: Duration, factor: f64, cap: Duration, attempt: u32) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    Duration::try_from_secs_f64(base.as_secs_f64() * factor.powi(exponent)).unwrap_or(cap).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandom;

    #[test]
    fn the_default_is_one_two_four_seconds_within_a_tenth() {
        let policy = RetryPolicy::default();
        let random = SeededRandom::new(1);
        for (attempt, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0)] {
            for _ in 0..200 {
                let delay = policy.delay_after(attempt, &random).as_secs_f64();
                assert!((seconds * 0.9..=seconds * 1.1).contains(&delay), "attempt {attempt}: {delay}");
            }
        }
        assert!(policy.delay_after(u32::MAX, &random) <= Duration::from_secs(30));
        assert!(!policy.is_spent(3));
        assert!(policy.is_spent(4));
    }

    #[test]
    fn jitter_spreads_both_ways() {
        let policy = RetryPolicy { jitter: 0.5, ..RetryPolicy::fixed(9, Duration::from_secs(10)) };
        let random = SeededRandom::new(2);
        let delays: Vec<f64> = (0..500).map(|_| policy.delay_after(1, &random).as_secs_f64()).collect();
        assert!(delays.iter().all(|d| (5.0..=15.0).contains(d)));
        assert!(delays.iter().any(|d| *d < 6.0) && delays.iter().any(|d| *d > 14.0));
    }

    #[test]
    fn a_custom_list_repeats_its_last() {
        let delays = vec![Duration::from_millis(5), Duration::from_millis(7)];
        let policy = RetryPolicy { max_attempts: 9, backoff: Backoff::Custom(delays), jitter: 0.0 };
        let after = |attempt| policy.delay_after(attempt, &SeededRandom::new(0)).as_millis();
        assert_eq!([after(1), after(2), after(3), after(9)], [5, 7, 7, 7]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let fixed = RetryPolicy::fixed(2, Duration::from_secs(1));
        let bad = [
            ("max_attempts", RetryPolicy { max_attempts: 0, ..fixed.clone() }),
            ("jitter", RetryPolicy { jitter: f64::NAN, ..fixed.clone() }),
            ("jitter", RetryPolicy { jitter: 1.1, ..fixed.clone() }),
            ("custom", RetryPolicy { backoff: Backoff::Custom(vec![]), ..fixed.clone() }),
            (
                "factor",
                RetryPolicy {
                    backoff: Backoff::Exponential { base: Duration::ZERO, factor: 0.5, cap: Duration::ZERO },
                    ..fixed.clone()
                },
            ),
        ];
        for (field, policy) in bad {
            assert!(policy.validate().unwrap_err().message().contains(field), "{policy:?}");
        }
        assert!(fixed.validate().is_ok());
    }
}
