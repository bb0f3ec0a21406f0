//! The dead jobs of a queue.

use queue_core::{
    JobId, JobScheduler, QueueName, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, Redrive, RedriveReport},
};

/// The dead jobs of one queue: look at them, bring them back, remove them.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    scheduler: JobScheduler,
    queue: QueueName,
}

impl DeadLetters {
    pub(crate) fn new(scheduler: JobScheduler, queue: QueueName) -> Self {
        Self { scheduler, queue }
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// A page of those that match, the oldest first. Give its `next` back for the page after it.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` for a cursor of another listing.
    pub async fn list(&self, filter: &DeadFilter, cursor: Option<Cursor>, limit: usize) -> Result<Page<DeadJob>> {
        self.scheduler.admin().dead(&self.queue, filter, cursor, limit).await
    }

    /// Gives jobs another life, from attempt 1.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` for an edited payload without exactly one named job.
    pub async fn redrive(&self, what: &Redrive) -> Result<RedriveReport> {
        self.scheduler.admin().redrive(&self.queue, what).await
    }

    /// Gives one job another life, from attempt 1.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn redrive_one(&self, id: JobId) -> Result<RedriveReport> {
        self.redrive(&Redrive::one(id)).await
    }

    /// Gives every dead job another life, from attempt 1.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn redrive_all(&self) -> Result<RedriveReport> {
        self.redrive(&Redrive::all()).await
    }

    /// Forgets those that match, for good, and says how many.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn purge(&self, filter: &DeadFilter) -> Result<u64> {
        self.scheduler.admin().drop_dead(&self.queue, filter).await
    }
}
