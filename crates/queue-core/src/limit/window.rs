//! A sliding window: at most so many starts in any stretch of so long.

use std::time::Duration;

use super::recent::Recent;

/// Exact up to [`EXACT`] starts. Beyond that starts are remembered in slices of a 1,000th of the stretch, each of which counts
/// until its last start has left: there are never more than `max` in any stretch, and a start waits at most a 1,000th of the
/// stretch longer than it must.
#[derive(Debug)]
pub(super) struct Window {
    max: u32,
    starts: Recent,
}

/// As many moments are remembered one by one, and as many slices otherwise: 48 KiB a key.
const EXACT: u32 = 1_000;

impl Window {
    pub(super) fn new(max: u32, per: Duration) -> Self {
        Self { max, starts: Recent::new(per, grain(max, per)) }
    }

    /// Another limit from now on: what began is counted under it, as far as it is remembered.
    pub(super) fn change(&mut self, max: u32, per: Duration) {
        self.max = max;
        self.starts.change(per, grain(max, per));
    }

    pub(super) fn free(&mut self, now: Duration) -> u32 {
        let begun = self.starts.count(now).all;
        u32::try_from(u64::from(self.max).saturating_sub(begun)).unwrap_or(u32::MAX)
    }

    /// How long until there is room, where there is none.
    pub(super) fn next(&self, now: Duration) -> Duration {
        self.starts.next(now).unwrap_or_default()
    }

    /// Only where one is free.
    pub(super) fn take(&mut self, now: Duration) {
        self.starts.add(now, false);
    }

    /// The start at that time was none.
    pub(super) fn give_back(&mut self, at: Duration) {
        self.starts.take_back(at);
    }

    pub(super) fn is_idle(&mut self, now: Duration) -> bool {
        self.starts.count(now).all == 0
    }
}

fn grain(max: u32, per: Duration) -> Duration {
    if max <= EXACT { Duration::ZERO } else { per / EXACT }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_start_leaves_when_the_stretch_has_passed_and_not_before() {
        let mut window = Window::new(2, MS(1_000));
        window.take(MS(0));
        window.take(MS(400));
        assert_eq!((window.free(MS(400)), window.next(MS(400))), (0, MS(600)));
        assert_eq!((window.free(MS(999)), window.free(MS(1_000))), (0, 1));
        window.take(MS(1_000));
        assert_eq!((window.free(MS(1_000)), window.next(MS(1_000))), (0, MS(400)));
        assert!(!window.is_idle(MS(1_999)) && window.is_idle(MS(2_000)));
    }

    #[test]
    fn a_start_that_was_none_makes_room_at_once() {
        let mut window = Window::new(2, MS(1_000));
        window.take(MS(0));
        window.take(MS(0));
        window.give_back(MS(0));
        assert_eq!(window.free(MS(1)), 1);
        // One that has left already gives nothing back.
        window.take(MS(1));
        window.give_back(MS(0));
        window.give_back(MS(0));
        assert_eq!((window.free(MS(1)), window.free(MS(1_001))), (1, 2));
    }

    #[test]
    fn a_large_one_is_small_in_memory_and_nearly_as_fast() {
        let (max, per) = (100_000, MS(1_000));
        let mut window = Window::new(max, per);
        let mut now = Duration::ZERO;
        // Greedy: takes whatever is free, and waits as long as it is told.
        let mut begun = 0u64;
        while now < MS(20_000) {
            match window.free(now) {
                0 => now += window.next(now),
                _ => {
                    window.take(now);
                    begun += 1;
                    now += Duration::from_nanos(3_300);
                }
            }
            assert!(window.starts.slices() <= EXACT as usize + 2);
        }
        let most = 20 * u64::from(max);
        assert!(begun <= most && begun >= most - most / 500, "{begun} of {most}");
    }

    /// The definition: every start by itself.
    struct Model {
        max: usize,
        per: Duration,
        starts: VecDeque<Duration>,
    }

    proptest! {
        /// Exact: it lets start what the definition does, whenever, whatever is given back.
        #[test]
        fn as_exact_as_its_definition(
            max in 1u32..6, per in 1u64..50,
            steps in prop::collection::vec((0u64..20, 0u8..5), 1..300),
        ) {
            let per = MS(per);
            let mut window = Window::new(max, per);
            let mut model = Model { max: max as usize, per, starts: VecDeque::new() };
            let mut now = Duration::ZERO;
            for (wait, what) in steps {
                now += MS(wait);
                let counted = |start: &&Duration| now - **start < model.per;
                let free = model.max - model.starts.iter().filter(counted).count();
                prop_assert_eq!(window.free(now) as usize, free);
                match what {
                    0 => if let Some(start) = model.starts.pop_back() {
                        window.give_back(start);
                    },
                    _ if free > 0 => {
                        window.take(now);
                        model.starts.push_back(now);
                    }
                    _ => {
                        let next = window.next(now);
                        prop_assert!(next > Duration::ZERO);
                        prop_assert_eq!(window.free(now + next - Duration::from_nanos(1)), 0);
                        now += next;
                        prop_assert!(window.free(now) > 0);
                    }
                }
            }
        }

        /// In slices: never more than `max` in any stretch.
        #[test]
        fn never_more_than_max_in_any_stretch(
            extra in 1u32..400,
            steps in prop::collection::vec((prop_oneof![0u64..9_000, 0u64..2_000_000], 1u32..400), 1..300),
        ) {
            let (max, per) = (EXACT + extra, MS(10));
            let mut window = Window::new(max, per);
            let mut now = Duration::ZERO;
            let mut starts: Vec<(Duration, u64)> = Vec::new();
            for (wait, wanted) in steps {
                now += Duration::from_nanos(wait);
                let took = wanted.min(window.free(now));
                (0..took).for_each(|_| window.take(now));
                starts.push((now, u64::from(took)));
            }
            for (index, (from, _)) in starts.iter().enumerate() {
                let stretch = starts[index..].iter().take_while(|(at, _)| *at - *from < per);
                prop_assert!(stretch.map(|(_, count)| count).sum::<u64>() <= u64::from(max));
            }
        }
    }
}
