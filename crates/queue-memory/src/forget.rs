//! Forgetting finished jobs by name, for an application that has written down elsewhere how they ended.

use std::collections::HashSet;

use queue_core::{Result, job::JobId, job::QueueName};

use crate::MemoryProvider;

impl MemoryProvider {
    /// Forgets those of these jobs that are finished, dead ones too, and says how many they were. Jobs that wait or run stay.
    /// Nobody waits for it: with a journal it is on disk behind everything that was published, settled or noted before,
    /// within a second.
    pub fn forget(&self, queue: &QueueName, jobs: &HashSet<JobId>) -> usize {
        self.shared.find(queue).map_or(0, |queue| queue.with(|state| state.forget_finished(jobs)))
    }

    /// Whether the journal takes new work; always, where there is none.
    ///
    /// # Errors
    /// `UNAVAILABLE` while its disk refuses, with why; it goes on by itself.
    pub fn ready(&self) -> Result<()> {
        self.shared.ready()
    }
}
