//! A point in time, as every broker can carry it.

use std::{
    fmt,
    num::NonZeroU64,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC, of the broker's clock where it has one, else of the injected clock.
///
/// Zero is not a time (it is shown as one millisecond), so that an optional timestamp is eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The latest time there is.
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// From milliseconds since the epoch; zero becomes one.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        match NonZeroU64::new(millis) {
            Some(millis) => Self(millis),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0.get()
    }

    /// How long until `later`; zero if that is past.
    #[must_use]
    pub const fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.as_millis().saturating_sub(self.as_millis()))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates. Parts of a millisecond round up, so that a delay never ends early.
    fn add(self, delay: Duration) -> Self {
        let millis = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self::from_millis(self.as_millis().saturating_add(millis))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Zero where `earlier` is not earlier.
    fn sub(self, earlier: Self) -> Duration {
        earlier.until(self)
    }
}

/// RFC 3339 in UTC, to the millisecond; beyond the year 9999, which it cannot write, milliseconds since the epoch.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const YEAR_10000: u64 = 253_402_300_800_000;
        match self.as_millis() {
            millis if millis < YEAR_10000 => {
                let time = std::time::UNIX_EPOCH + Duration::from_millis(millis);
                write!(f, "{}", humantime::format_rfc3339_millis(time))
            }
            millis => write!(f, "{millis} ms since 1970"),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addition_rounds_up_and_saturates() {
        let at = Timestamp::from_millis(10);
        assert_eq!(at + Duration::from_micros(1), Timestamp::from_millis(11));
        assert_eq!(at + Duration::ZERO, at);
        assert_eq!(at + Duration::MAX, Timestamp::MAX);
        assert_eq!(at - Timestamp::from_millis(4), Duration::from_millis(6));
        assert_eq!(Timestamp::from_millis(4) - at, Duration::ZERO);
    }

    #[test]
    fn it_reads_as_a_date() {
        assert_eq!(Timestamp::from_millis(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp::from_millis(253_402_300_799_999).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::MAX.to_string(), "18446744073709551615 ms since 1970");
    }

    #[test]
    fn an_optional_timestamp_costs_nothing() {
        assert_eq!(size_of::<Option<Timestamp>>(), 8);
    }
}
