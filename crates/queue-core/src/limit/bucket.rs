//! A token bucket, exact to the nanosecond.

use std::time::Duration;

use super::nanos;

/// Tokens are counted in parts, of which `per` nanoseconds make one: then `rate` parts come in every nanosecond, and nothing is
/// ever rounded.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u128,
    per: u128,
    burst: u128,
    /// Parts in it at `at`.
    level: u128,
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: u32, per: Duration, burst: u32, now: Duration) -> Self {
        let (rate, per, burst) = (u128::from(rate.max(1)), nanos(per).max(1), u128::from(burst));
        Self { rate, per, burst, level: burst * per, at: now }
    }

    /// Another limit from now on: it keeps the tokens it has, as far as they fit.
    pub(super) fn change(&mut self, rate: u32, per: Duration, burst: u32, now: Duration) {
        self.fill(now);
        let (whole, part) = (self.level / self.per, self.level % self.per);
        let full = Self::new(rate, per, burst, now);
        let level = whole * full.per + part * full.per / self.per;
        *self = Self { level: level.min(full.level), ..full };
    }

    fn fill(&mut self, now: Duration) {
        let gained = nanos(now.saturating_sub(self.at)) * self.rate;
        self.level = self.level.saturating_add(gained).min(self.burst * self.per);
        self.at = self.at.max(now);
    }

    /// Whole tokens in it.
    pub(super) fn free(&mut self, now: Duration) -> u32 {
        self.fill(now);
        u32::try_from(self.level / self.per).unwrap_or(u32::MAX)
    }

    /// How long until there is one.
    pub(super) fn next(&mut self, now: Duration) -> Duration {
        self.fill(now);
        let missing = self.per.saturating_sub(self.level);
        Duration::from_nanos(u64::try_from(missing.div_ceil(self.rate)).unwrap_or(u64::MAX))
    }

    /// Only where one is free.
    pub(super) fn take(&mut self) {
        self.level = self.level.saturating_sub(self.per);
    }

    pub(super) fn give_back(&mut self, now: Duration) {
        self.fill(now);
        self.level = (self.level + self.per).min(self.burst * self.per);
    }

    /// Whether a new one would be no other.
    pub(super) fn is_idle(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.level == self.burst * self.per
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn it_begins_full_refills_evenly_and_says_when() {
        let mut bucket = Bucket::new(10, MS(1_000), 3, MS(0));
        for left in (0..3).rev() {
            bucket.take();
            assert_eq!(bucket.free(MS(0)), left);
        }
        assert_eq!(bucket.next(MS(0)), MS(100));
        assert_eq!((bucket.free(MS(99)), bucket.next(MS(99))), (0, MS(1)));
        assert_eq!(bucket.free(MS(100)), 1);
        assert_eq!((bucket.free(MS(9_000)), bucket.is_idle(MS(9_000))), (3, true));
    }

    #[test]
    fn what_does_not_divide_is_not_lost() {
        // Three in a second: each takes 333,333,333⅓ ns.
        let mut bucket = Bucket::new(3, MS(1_000), 2, MS(0));
        (0..2).for_each(|_| bucket.take());
        let mut now = Duration::ZERO;
        for _ in 0..3_000 {
            now += bucket.next(now);
            assert_eq!(bucket.free(now), 1);
            bucket.take();
        }
        assert_eq!(now, MS(1_000_000));
    }

    #[test]
    fn the_longest_times_and_the_largest_counts_do_not_overflow() {
        let mut bucket = Bucket::new(u32::MAX, Duration::MAX, u32::MAX, MS(0));
        assert_eq!(bucket.free(Duration::MAX), u32::MAX);
        bucket.take();
        bucket.change(1, MS(1), 1, Duration::MAX);
        assert_eq!(bucket.free(Duration::MAX), 1);
        bucket.change(u32::MAX, Duration::MAX, u32::MAX, Duration::MAX);
        assert_eq!(bucket.free(Duration::MAX), 1);
    }

    proptest! {
        /// What began between any two moments is at most the burst and what was gained between them; given-back tokens
        /// count as never taken. And whoever waits as long as `next` says gets one, no sooner.
        #[test]
        fn never_more_than_it_gained(
            rate in 1u32..20, per in 1u64..2_000, burst in 1u32..10,
            steps in prop::collection::vec((0u64..500_000, 0u8..4), 1..200),
        ) {
            let per = Duration::from_micros(per);
            let mut bucket = Bucket::new(rate, per, burst, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut begun: Vec<Duration> = Vec::new();
            for (wait, what) in steps {
                now += Duration::from_nanos(wait);
                if what == 0 && !begun.is_empty() {
                    begun.pop();
                    bucket.give_back(now);
                } else if bucket.free(now) > 0 {
                    bucket.take();
                    begun.push(now);
                } else {
                    let next = bucket.next(now);
                    prop_assert!(next > Duration::ZERO);
                    prop_assert_eq!(bucket.free(now + next - Duration::from_nanos(1)), 0);
                    now += next;
                    prop_assert_eq!(bucket.free(now), 1);
                }
                prop_assert!(bucket.free(now) <= burst);
            }
            for (first, from) in begun.iter().enumerate() {
                for (last, to) in begun.iter().enumerate().skip(first) {
                    let gained = (*to - *from).as_nanos() * u128::from(rate) / per.as_nanos();
                    prop_assert!((last - first + 1) as u128 <= u128::from(burst) + gained);
                }
            }
        }
    }
}
