//! A slot's sign of life: counted by the slot, looked at from the heartbeat's thread.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

/// Odd while the slot is polled, and another number after every job and every poll. Who sees the same odd number twice sees a
/// slot that came to no await in between: it blocks its thread. It costs the slot neither a clock nor a lock.
///
/// A cache line of its own: slots must not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Pulse {
    count: AtomicU64,
    replaced: AtomicBool,
}

impl Pulse {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The slot took its next job.
    pub(super) fn step(&self) {
        self.advance(2);
    }

    /// Another has taken its place: it leaves after its job.
    pub(super) fn replace(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Only the slot writes, so that this needs no read-modify-write.
    fn advance(&self, by: u64) {
        self.count.store(self.count().wrapping_add(by), Ordering::Relaxed);
    }
}

/// A slot's work, each poll of it counted.
#[derive(Debug)]
pub(super) struct Pulsing<F> {
    pulse: Arc<Pulse>,
    work: Pin<Box<F>>,
}

impl<F> Pulsing<F> {
    pub(super) fn new(pulse: Arc<Pulse>, work: F) -> Self {
        Self { pulse, work: Box::pin(work) }
    }
}

impl<F: Future> Future for Pulsing<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.pulse.advance(1);
        let poll = self.work.as_mut().poll(cx);
        self.pulse.advance(1);
        poll
    }
}
