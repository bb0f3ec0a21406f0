//! Delays without plugins: a ladder of queues, of which each holds a message for a fixed time.
//!
//! Rung `k` is a topic exchange and a quorum queue in which a message lives 2^k seconds; a routing key has one word for each
//! rung, the highest first, `1` where the job waits there and `0` where it goes on. What leaves a rung's queue, or passes it by,
//! goes to the exchange of the rung below, and from the lowest to the `due` exchange, which reads the words behind the rungs:
//! the destination. Each queue has one constant time to live, so that nothing waits behind a longer delay.

use std::time::Duration;

/// The rungs, as many as there are words before the destination in a routing key: up to 2^28 s, eight and a half years.
pub(crate) const RUNGS: u8 = 28;

/// The longest delay.
pub(crate) const LONGEST: Duration = Duration::from_secs((1 << RUNGS) - 1);

/// A retry's delay keeps so many of its highest bits: it is rounded up to them, so that it needs no more than three hops.
const RETRY_BITS: u32 = 3;

/// How a delayed message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The rung at which it enters: the highest in which it waits.
    pub(crate) rung: u8,
    /// One word for each rung, and the destination.
    pub(crate) key: String,
}

/// Whole seconds, rounded up: a delay is never cut short.
pub(crate) fn seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0))
}

/// Rounded up to its three highest bits: late by a quarter at most, and exact up to 8 s.
pub(crate) fn round_retry(seconds: u64) -> u64 {
    let unit = 1u64 << seconds.checked_ilog2().unwrap_or(0).saturating_sub(RETRY_BITS - 1);
    seconds.div_ceil(unit).saturating_mul(unit)
}

/// The way of a delay of so many seconds. `None` for no delay, and for one that is longer than the ladder.
pub(crate) fn route(seconds: u64, destination: &str) -> Option<Route> {
    let rung = u8::try_from(seconds.checked_ilog2()?).ok().filter(|rung| *rung < RUNGS)?;
    let mut key = String::with_capacity(usize::from(RUNGS) * 2 + destination.len());
    for bit in (0..RUNGS).rev() {
        key.push_str(if seconds >> bit & 1 == 1 { "1." } else { "0." });
    }
    key.push_str(destination);
    Some(Route { rung, key })
}

/// What a rung's queue, or its way past the queue, is bound with: any word for the other rungs and anything behind.
pub(crate) fn pattern(rung: u8, waits: bool) -> String {
    let mut pattern = String::with_capacity(usize::from(RUNGS) * 2 + 1);
    for bit in (0..RUNGS).rev() {
        pattern.push_str(match (bit == rung, waits) {
            (true, true) => "1.",
            (true, false) => "0.",
            (false, _) => "*.",
        });
    }
    pattern.push('#');
    pattern
}

/// What a destination is bound with at the foot. Exactly as many words as there are rungs, so that one destination is never
/// taken for the end of another.
pub(crate) fn foot(destination: &str) -> String {
    let mut pattern = "*.".repeat(usize::from(RUNGS));
    pattern.push_str(destination);
    pattern
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_delay_is_rounded_up_to_seconds() {
        for (millis, expected) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (86_400_000, 86_400)] {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn a_retry_is_rounded_up_to_three_bits() {
        let rounded =
            [(0, 0), (1, 1), (7, 7), (8, 8), (9, 10), (13, 14), (15, 16), (60, 64), (100, 112), (3_600, 4_096)];
        for (seconds, expected) in rounded {
            assert_eq!(round_retry(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn thirty_days_take_their_way() {
        let thirty_days = 30 * 86_400;
        let route = route(thirty_days, "x.1").unwrap();
        assert_eq!(route.rung, 21);
        let bits: String = route.key.split('.').take(28).collect();
        assert_eq!(u64::from_str_radix(&bits, 2).unwrap(), thirty_days);
        assert!(route.key.ends_with(".x.1"));
        assert_eq!(super::route(0, "x"), None);
        assert_eq!(super::route(1 << 28, "x"), None);
    }

    /// As a topic exchange matches.
    fn matches(pattern: &str, key: &str) -> bool {
        let (mut pattern, mut key) = (pattern.split('.'), key.split('.'));
        loop {
            match (pattern.next(), key.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(word)) if wanted == word => {}
                _ => return false,
            }
        }
    }

    proptest! {
        #[test]
        fn every_delay_waits_exactly_its_time(seconds in 1u64..(1 << RUNGS)) {
            let Route { rung, key } = route(seconds, "d.0").unwrap();
            let mut waited = 0;
            for rung in (0..=rung).rev() {
                let (waits, passes) = (matches(&pattern(rung, true), &key), matches(&pattern(rung, false), &key));
                prop_assert!(waits != passes);
                waited += u64::from(waits) << rung;
            }
            prop_assert_eq!(waited, seconds);
            prop_assert!(matches(&foot("d.0"), &key));
            prop_assert!(!matches(&foot("0"), &key) && !matches(&foot("d"), &key));
        }

        #[test]
        fn a_rounded_retry_is_never_early_and_has_three_hops(seconds in 0u64..(1 << 27)) {
            let rounded = round_retry(seconds);
            prop_assert!(rounded >= seconds && rounded <= seconds + seconds / 4);
            prop_assert!(rounded.count_ones() <= 3);
        }
    }
}
