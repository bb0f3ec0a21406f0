//! A clock whose wall jumps.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use queue_core::{Clock, Timestamp, clock::TokioClock};

/// Follows `tokio::time`, as [`TokioClock`] does; the wall clock can be set beside it, as operators and time servers do.
#[derive(Debug)]
pub(super) struct JumpingClock {
    steady: TokioClock,
    /// Milliseconds that the wall clock is ahead of where it would be.
    ahead: AtomicI64,
    /// The latest time that the wall ever showed.
    latest: AtomicU64,
}

impl JumpingClock {
    /// A clock that shows `wall` now. Must be made inside the runtime it follows.
    #[must_use]
    pub(super) fn new(wall: Timestamp) -> Self {
        Self { steady: TokioClock::new(wall), ahead: AtomicI64::new(0), latest: AtomicU64::new(0) }
    }

    /// Sets the wall clock forward, or back.
    pub(super) fn jump(&self, millis: i64) {
        self.latest();
        self.ahead.fetch_add(millis, Ordering::Relaxed);
        self.latest();
    }

    /// The latest time that the wall ever showed: what may have expired.
    pub(super) fn latest(&self) -> Timestamp {
        let now = self.now().as_millis();
        Timestamp::from_millis(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

impl Clock for JumpingClock {
    fn read(&self) -> (Timestamp, Duration) {
        let (wall, since_start) = self.steady.read();
        let ahead = self.ahead.load(Ordering::Relaxed);
        (Timestamp::from_millis(wall.as_millis().saturating_add_signed(ahead)), since_start)
    }

    fn monotonic(&self) -> Duration {
        self.steady.monotonic()
    }
}
