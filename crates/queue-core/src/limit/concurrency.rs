//! At most so many at a time.

/// How many run. Who they are, and for how long without a sign of life, is kept with their permits.
#[derive(Debug)]
pub(super) struct Concurrency {
    max: u32,
    running: u32,
}

impl Concurrency {
    pub(super) const fn new(max: u32) -> Self {
        Self { max, running: 0 }
    }

    /// Another limit from now on: those that run go on.
    pub(super) fn change(&mut self, max: u32) {
        self.max = max;
    }

    pub(super) fn free(&self) -> u32 {
        self.max.saturating_sub(self.running)
    }

    /// Only where one is free.
    pub(super) fn take(&mut self) {
        self.running += 1;
    }

    pub(super) fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.running == 0
    }
}
