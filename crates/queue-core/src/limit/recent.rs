//! What happened in the last stretch of time, in bounded memory.

use std::{collections::VecDeque, time::Duration};

/// Counts what happened within `span` before now. Events that are closer together than `grain` are one slice, which leaves when
/// its last one has: so nothing is forgotten early, and what is remembered is at most `grain` too old.
///
/// It holds at most `span / grain + 2` slices; with a grain of zero one for each moment that counts.
#[derive(Debug)]
pub(super) struct Recent {
    span: Duration,
    grain: Duration,
    slices: VecDeque<Slice>,
    sum: Count,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) all: u64,
    /// Of these, the bad ones.
    pub(super) bad: u64,
}

#[derive(Debug)]
struct Slice {
    first: Duration,
    last: Duration,
    count: Count,
}

impl Recent {
    pub(super) fn new(span: Duration, grain: Duration) -> Self {
        Self { span, grain, slices: VecDeque::new(), sum: Count::default() }
    }

    /// Another span from now on: what is remembered counts, what was forgotten does not come back.
    pub(super) fn change(&mut self, span: Duration, grain: Duration) {
        (self.span, self.grain) = (span, grain);
    }

    pub(super) fn add(&mut self, now: Duration, bad: bool) {
        match self.slices.back_mut() {
            Some(slice) if now.saturating_sub(slice.first) <= self.grain => {
                slice.last = slice.last.max(now);
                slice.count.add(bad);
            }
            _ => {
                let mut count = Count::default();
                count.add(bad);
                self.slices.push_back(Slice { first: now, last: now, count });
            }
        }
        self.sum.add(bad);
    }

    /// Takes back a good one that was added at that time, if it is still counted.
    pub(super) fn take_back(&mut self, at: Duration) {
        let after = self.slices.partition_point(|slice| slice.first <= at);
        let Some(index) = after.checked_sub(1) else { return };
        let Some(slice) = self.slices.get_mut(index).filter(|slice| at <= slice.last) else { return };
        slice.count.all -= 1;
        self.sum.all -= 1;
        if slice.count.all == 0 {
            self.slices.remove(index);
        }
    }

    pub(super) fn count(&mut self, now: Duration) -> Count {
        while let Some(slice) = self.slices.front()
            && now.saturating_sub(slice.last) >= self.span
        {
            self.sum.all -= slice.count.all;
            self.sum.bad -= slice.count.bad;
            self.slices.pop_front();
        }
        self.sum
    }

    /// How long until the oldest leave.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.slices.front().map(|slice| slice.last.saturating_add(self.span).saturating_sub(now))
    }

    #[cfg(test)]
    pub(super) fn slices(&self) -> usize {
        self.slices.len()
    }
}

impl Count {
    fn add(&mut self, bad: bool) {
        self.all += 1;
        self.bad += u64::from(bad);
    }
}

/// What a slice takes, in bytes.
#[cfg(test)]
pub(super) const SLICE: usize = size_of::<Slice>();
