//! What counts for one key, whichever sort its limit is of.

use std::time::Duration;

use super::{
    Limit, Room, RunEnd,
    breaker::{Breaker, Change},
    bucket::Bucket,
    concurrency::Concurrency,
    window::Window,
};

#[derive(Debug)]
pub(super) struct Meter {
    limit: Limit,
    count: Count,
}

#[derive(Debug)]
enum Count {
    Bucket(Bucket),
    Window(Window),
    Concurrency(Concurrency),
    Breaker(Breaker),
}

impl Meter {
    pub(super) fn new(limit: Limit, now: Duration) -> Self {
        let count = match limit {
            Limit::TokenBucket { rate, per, burst } => Count::Bucket(Bucket::new(rate, per, burst, now)),
            Limit::SlidingWindow { max, per } => Count::Window(Window::new(max, per)),
            Limit::Concurrency { max } => Count::Concurrency(Concurrency::new(max)),
            Limit::Breaker(policy) => Count::Breaker(Breaker::new(policy)),
        };
        Self { limit, count }
    }

    /// Takes a changed rule over, with what was counted so far; a limit of another sort begins anew.
    pub(super) fn follow(&mut self, limit: Limit, now: Duration) {
        if self.limit == limit {
            return;
        }
        self.limit = limit;
        match (&mut self.count, limit) {
            (Count::Bucket(bucket), Limit::TokenBucket { rate, per, burst }) => bucket.change(rate, per, burst, now),
            (Count::Window(window), Limit::SlidingWindow { max, per }) => window.change(max, per),
            (Count::Concurrency(running), Limit::Concurrency { max }) => running.change(max),
            (Count::Breaker(breaker), Limit::Breaker(policy)) => breaker.change(policy),
            _ => self.count = Self::new(limit, now).count,
        }
    }

    /// What time alone brings about.
    pub(super) fn advance(&mut self, now: Duration) -> Option<Change> {
        match &mut self.count {
            Count::Breaker(breaker) => breaker.advance(now),
            _ => None,
        }
    }

    pub(super) fn room(&mut self, now: Duration) -> Room {
        let free = match &mut self.count {
            Count::Bucket(bucket) => bucket.free(now),
            Count::Window(window) => window.free(now),
            Count::Concurrency(running) => running.free(),
            Count::Breaker(breaker) => breaker.free(),
        };
        let next = match &mut self.count {
            _ if free > 0 => None,
            Count::Bucket(bucket) => Some(bucket.next(now)),
            Count::Window(window) => Some(window.next(now)),
            Count::Concurrency(_) => None,
            Count::Breaker(breaker) => breaker.next(now),
        };
        let breaker = match &self.count {
            Count::Breaker(breaker) => Some(breaker.state()),
            _ => None,
        };
        Room { free, next, breaker }
    }

    /// Only where one is free. Returns what [`Self::end`] wants to be told.
    pub(super) fn take(&mut self, now: Duration) -> u32 {
        match &mut self.count {
            Count::Bucket(bucket) => bucket.take(),
            Count::Window(window) => window.take(now),
            Count::Concurrency(running) => running.take(),
            Count::Breaker(breaker) => return breaker.take(),
        }
        0
    }

    /// The run that was let in at `began` is over.
    pub(super) fn end(&mut self, turn: u32, began: Duration, how: RunEnd, now: Duration) -> Option<Change> {
        match &mut self.count {
            Count::Bucket(bucket) if how == RunEnd::Unused => bucket.give_back(now),
            Count::Window(window) if how == RunEnd::Unused => window.give_back(began),
            Count::Bucket(_) | Count::Window(_) => {}
            Count::Concurrency(running) => running.end(),
            Count::Breaker(breaker) => return breaker.end(turn, how, now),
        }
        None
    }

    /// Whether a new one would be no other.
    pub(super) fn is_idle(&mut self, now: Duration) -> bool {
        match &mut self.count {
            Count::Bucket(bucket) => bucket.is_idle(now),
            Count::Window(window) => window.is_idle(now),
            Count::Concurrency(running) => running.is_idle(),
            Count::Breaker(breaker) => breaker.is_idle(now),
        }
    }

    /// Forgets that it is broken.
    pub(super) fn give_up(&mut self) -> Option<Change> {
        match &mut self.count {
            Count::Breaker(breaker) => breaker.give_up(),
            _ => None,
        }
    }
}
