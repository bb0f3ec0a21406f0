//! How much happened in the last while.

use std::{collections::VecDeque, time::Duration};

/// A sliding count in a few buckets: exact to a 32nd of its length.
#[derive(Debug)]
pub(super) struct Window {
    within: Duration,
    /// When each began, and what it counts.
    buckets: VecDeque<(Duration, u64)>,
}

const BUCKETS: u32 = 32;

impl Window {
    pub(super) fn new(within: Duration) -> Self {
        Self { within, buckets: VecDeque::new() }
    }

    /// Counts what happened over the time before now, and says how much that makes within the window. Of what happened over
    /// longer than the window the even share is taken: when it did is not known.
    pub(super) fn add(&mut self, n: u64, over: Duration, now: Duration) -> u64 {
        let n = match u64::try_from(u128::from(n) * self.within.as_nanos() / over.as_nanos().max(1)) {
            Ok(share) if over > self.within => share,
            _ => n,
        };
        match self.buckets.back_mut() {
            Some((began, count)) if *began + self.within / BUCKETS > now => *count += n,
            _ if n > 0 => self.buckets.push_back((now, n)),
            _ => {}
        }
        while self.buckets.front().is_some_and(|(began, _)| *began + self.within <= now) {
            self.buckets.pop_front();
        }
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_older_is_not_counted() {
        let mut window = Window::new(60 * SECOND);
        assert_eq!(window.add(5, SECOND, 10 * SECOND), 5);
        assert_eq!(window.add(7, SECOND, 40 * SECOND), 12);
        assert_eq!(window.add(0, SECOND, 69 * SECOND), 12);
        assert_eq!(window.add(0, SECOND, 70 * SECOND), 7);
        assert_eq!(window.add(0, SECOND, 100 * SECOND), 0);
    }

    #[test]
    fn looking_often_takes_no_more_room() {
        let mut window = Window::new(60 * SECOND);
        let mut counted = 0;
        for millis in 1..=120_000 {
            counted = window.add(1, SECOND / 1_000, Duration::from_millis(millis));
        }
        assert!(window.buckets.len() <= 33, "{}", window.buckets.len());
        assert!((58_000..=60_000).contains(&counted), "{counted}");
    }

    #[test]
    fn a_long_gap_counts_by_its_even_share() {
        let mut window = Window::new(60 * SECOND);
        assert_eq!(window.add(600, 600 * SECOND, 600 * SECOND), 60);
        let mut window = Window::new(60 * SECOND);
        assert_eq!(window.add(600, 60 * SECOND, 600 * SECOND), 600);
    }
}
