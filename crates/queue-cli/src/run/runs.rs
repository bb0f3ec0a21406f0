//! What the handlers say of the attempts that run and of those that ran, until their lines end.
//!
//! It stands apart from the lines themselves: these are thousands and lie about in memory, what runs is at hand.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hashbrown::HashMap;
use queue_core::JobId;
use tokio::time::Instant;

/// The attempts of jobs that have been started. No lock is held for longer than a look-up.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<HashMap<JobId, Run>>);

/// The attempts of one job so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    pub(super) first_start: Option<Instant>,
    /// The start of the one under way.
    pub(super) since: Option<Instant>,
    pub(super) attempts: u32,
    /// All of them together, without the one under way.
    time: Duration,
}

impl Run {
    /// All attempts together.
    pub(super) fn time(&self) -> Duration {
        self.time + self.since.map(|since| since.elapsed()).unwrap_or_default()
    }
}

impl Runs {
    /// An attempt begins, until the guard is dropped.
    pub(super) fn start(&self, id: JobId, attempt: u32) -> Running<'_> {
        let now = Instant::now();
        let mut runs = self.lock();
        let run = runs.entry(id).or_default();
        run.first_start = run.first_start.or(Some(now));
        run.attempts = attempt;
        run.since = Some(now);
        drop(runs);
        Running { runs: self, id }
    }

    /// What there was, for the end of its line: from now on nothing is known of it.
    pub(super) fn take(&self, id: JobId) -> Run {
        self.lock().remove(&id).unwrap_or_default()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.lock().values().filter(|run| run.since.is_some()).count()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handler at work; what it took is counted when it is dropped, be it done or not.
#[derive(Debug)]
pub(super) struct Running<'a> {
    runs: &'a Runs,
    id: JobId,
}

impl Running<'_> {
    /// Nothing was run after all.
    pub(super) fn never_mind(self) {
        if let Some(run) = self.runs.lock().get_mut(&self.id) {
            run.attempts = run.attempts.saturating_sub(1);
            if run.attempts == 0 {
                run.first_start = None;
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(run) = self.runs.lock().get_mut(&self.id) {
            run.time += run.since.take().map(|since| now.saturating_duration_since(since)).unwrap_or_default();
        }
    }
}
