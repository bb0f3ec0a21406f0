//! What a handler knows of the job it runs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::held::{Held, Order};
use crate::{
    event::Progress,
    job::{Envelope, JobId, JobRef, QueueName, RetryPolicy},
    store::JobRecord,
};

/// The job a handler runs, and its line to the outside. An extractor; a clone is a reference count.
#[derive(Debug, Clone)]
pub struct JobContext(pub(super) Arc<Held>);

impl JobContext {
    /// The job's id: the same in every attempt, and so the idempotency key for what the handler calls.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.0.delivery.envelope.id
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.0.common.spec.name
    }

    /// What finds it again.
    #[must_use]
    pub fn job(&self) -> JobRef {
        JobRef { queue: self.queue().clone(), id: self.id(), place: self.0.delivery.place }
    }

    /// The job as it travelled: payload, priority, headers.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.0.delivery.envelope
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.delivery.attempt
    }

    /// How many attempts there are at most.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.retry_policy().max_attempts
    }

    /// Whether a failure now would be final.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.retry_policy().is_spent(self.attempt())
    }

    /// The longest this attempt may run.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.0.delivery.envelope.timeout
    }

    /// The job's own policy, else its queue's.
    pub(super) fn retry_policy(&self) -> std::borrow::Cow<'_, RetryPolicy> {
        use std::borrow::Cow;
        let envelope = self.envelope();
        if envelope.headers.is_empty() {
            return Cow::Borrowed(&self.0.common.spec.retry);
        }
        match envelope.headers().ok().and_then(|headers| headers.retry) {
            Some(policy) => Cow::Owned(policy),
            None => Cow::Borrowed(&self.0.common.spec.retry),
        }
    }

    /// Says how far the job is, 0 to 100. It reaches the record within a heartbeat, usually within 100 ms; only the newest
    /// counts.
    pub fn progress(&self, percent: f64) {
        self.report(&Progress { percent, ..Progress::default() });
    }

    /// Says how far the job is, with words.
    pub fn report(&self, progress: &Progress) {
        let percent = if progress.percent.is_finite() { progress.percent.clamp(0.0, 100.0) } else { 0.0 };
        if let Ok(json) = serde_json::to_vec(&Progress { percent, ..progress.clone() }) {
            self.0.report(Bytes::from(json));
        }
    }

    /// Adds a line to the job's log: the newest [`JobRecord::MAX_LOGS`] lines are kept, each cut to
    /// [`JobRecord::MAX_LOG_LINE`] bytes between two characters. Who waits for them finds them in
    /// [`JobHandle::logs`](crate::JobHandle::logs).
    pub fn log(&self, line: impl AsRef<str>) {
        let line = line.as_ref();
        let cut = line.floor_char_boundary(JobRecord::MAX_LOG_LINE);
        self.0.log(Bytes::copy_from_slice(&line.as_bytes()[..cut]));
    }

    /// Whether somebody wants the job to stop (a cancel, a shutdown beyond its deadline, a lost lease).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.order() != Order::GoOn
    }

    /// Waits until somebody wants the job to stop. A handler that returns within the grace ends the way it says: a success
    /// completes the job. Any failure of a job that was cancelled is a cancel; where only the worker stops, a failure and
    /// [`Failure::Cancel`](super::Failure::Cancel) release the job, no attempt spent, while
    /// [`Failure::Never`](super::Failure::Never) and [`Failure::Snooze`](super::Failure::Snooze) mean what they say. A handler
    /// that does not return is dropped at its next await.
    pub async fn cancelled(&self) {
        self.0.order_other_than(Order::GoOn).await;
    }
}
