//! What happens when: a min-heap whose outdated entries are skipped when they are met.

use std::{cmp::Reverse, collections::BinaryHeap};

/// A moment on the clock's monotonic line, in nanoseconds.
pub(crate) type Moment = u64;

/// What a timer is for. A job has at most one [`Alarm::Turn`] and one [`Alarm::Expiry`] that are live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// The job's state ends: a lease, a delay, a park. The key is its ticket.
    Turn,
    /// The job's time to live ends. The key is its birth number.
    Expiry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer {
    pub(crate) at: Moment,
    pub(crate) slot: u32,
    pub(crate) key: u32,
    pub(crate) alarm: Alarm,
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<Timer>>);

impl Timers {
    pub(crate) fn push(&mut self, timer: Timer) {
        self.0.push(Reverse(timer));
    }

    /// The earliest, outdated ones included.
    pub(crate) fn peek(&self) -> Option<Timer> {
        self.0.peek().map(|timer| timer.0)
    }

    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        if self.peek()?.at > now {
            return None;
        }
        self.0.pop().map(|timer| timer.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops outdated entries. The caller does so when they outnumber the live ones.
    pub(crate) fn compact(&mut self, is_live: impl Fn(Timer) -> bool) {
        self.0.retain(|timer| is_live(timer.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_early() {
        let mut timers = Timers::default();
        for at in [30, 10, 20] {
            timers.push(Timer { at, slot: 0, key: 0, alarm: Alarm::Turn });
        }
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(20).unwrap().at, 10);
        assert_eq!(timers.pop_due(20).unwrap().at, 20);
        assert_eq!(timers.pop_due(20), None);
        timers.compact(|timer| timer.at != 30);
        assert_eq!(timers.len(), 0);
    }
}
