//! What happened, a line each, for people; and a digest of it, for replays.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The notes of one run. Lines are written only where somebody wants them: a run without them is the same run, and twice as
/// fast.
#[derive(Debug)]
pub(super) struct Trace {
    written: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<String>,
    digest: u64,
    notes: u64,
}

/// A trace beyond it has lost its reader.
const MOST_LINES: usize = 200_000;

impl Trace {
    /// A trace; `written` keeps its lines.
    #[must_use]
    pub(super) fn new(written: bool) -> Self {
        Self { written, inner: Mutex::default() }
    }

    /// Notes that somebody did something at that time of the simulation. `code` stands for it in the digest.
    pub(super) fn note(&self, at: Duration, who: &str, code: u64, what: impl FnOnce() -> String) {
        let mut inner = self.lock();
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let name = who.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        for part in [nanos, name, code] {
            inner.digest = (inner.digest.rotate_left(5) ^ part).wrapping_mul(0x0100_0000_01B3);
        }
        inner.notes += 1;
        if self.written && inner.lines.len() < MOST_LINES {
            let line = format!("{:>9.3} s  {who:<12} {}", at.as_secs_f64(), what());
            inner.lines.push(line);
        }
    }

    /// The same for the same run, and hardly ever for another.
    #[must_use]
    pub(super) fn digest(&self) -> u64 {
        let inner = self.lock();
        inner.digest ^ inner.notes
    }

    /// The lines so far.
    #[must_use]
    pub(super) fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
