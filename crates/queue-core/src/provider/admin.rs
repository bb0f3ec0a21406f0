//! What may be asked of queues, for people and tools.

use std::{fmt::Debug, ops::Add, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ParkKey, PublishOptions, PublishOutcome};
use crate::{
    error::{Error, Result},
    job::{Envelope, JobError, JobId, JobKind, JobRef, QueueName, Timestamp},
    queue_spec::QueueSpec,
    stats::QueueStats,
};

/// Each operation refuses with `UNSUPPORTED` what its broker cannot do.
#[async_trait]
pub trait QueueAdmin: Debug + Send + Sync {
    /// Queues whose name begins with `prefix`, by name.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>>;

    /// Numbers, one answer per queue, in order.
    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>>;

    /// Holds all workers back, within 1 s, or lets them go on. Running jobs finish. Idempotent.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `NOT_FOUND` for a queue that was neither declared nor used, where the broker can tell.
    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()>;

    /// Removes every waiting job and says how many. Running and finished ones stay.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;

    /// Dead jobs that match, the oldest first.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` for a cursor of another listing.
    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>>;

    /// Gives dead jobs another life, from attempt 1. Not refused by `max_len`. A time to live that has passed is lifted, and
    /// a request to cancel the former life is forgotten. A job named twice is one.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` for an edited payload without exactly one named job. Where it ended part-way
    /// [`RedriveReport::before`] tells what was done, as far as the provider knows.
    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport>;

    /// The queue as it was declared, by whichever process; `None` where it was not, or the broker does not keep it.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>>;

    /// The keys under which jobs of the queue are parked, with how many, the most first, at most `limit`: so that who was not
    /// there when they were parked can let them go.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>>;

    /// How many pending jobs would be claimed before this one, if nothing else came: an estimate where the order is not
    /// exact. `None` where it is not pending. It may take as long as the queue is deep.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    async fn position(&self, job: &JobRef) -> Result<Option<u64>>;

    /// Forgets dead jobs that match and says how many.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64>;
}

/// Topics: what is published to one reaches every queue that is subscribed.
///
/// Each queue gets a copy of its own under the job's id: ids and unique keys are a queue's own. Topics and queues have names
/// apart; a topic is there as soon as somebody is subscribed. Dropping a queue ends its subscriptions.
#[async_trait]
pub trait Topics: Debug + Send + Sync {
    /// Adds a subscription, for what is published from now on. Idempotent. A queue that was not declared gets the default
    /// spec when the first job reaches it.
    ///
    /// # Errors
    /// `UNAVAILABLE`, `DENIED`.
    async fn subscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()>;

    /// Removes one. Idempotent.
    ///
    /// # Errors
    /// `UNAVAILABLE`, `DENIED`.
    async fn unsubscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()>;

    /// Like [`super::QueueProvider::publish`]: one outcome per item, which is the worst of its queues'.
    ///
    /// An item that one of the queues refuses reaches none of them. `Duplicate` means that its unique key is held in one
    /// queue, and that the others have it. Where nobody is subscribed it is `Rejected(Unroutable)`.
    async fn publish(&self, topic: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome>;
}

/// Where a listing goes on; opaque.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub Arc<str>);

/// A part of a listing.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// `None` at the end.
    pub next: Option<Cursor>,
}

/// Which dead jobs; everything that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// The error's code.
    pub code: Option<String>,
    /// The job's kind.
    pub kind: Option<JobKind>,
    /// Died at or after.
    pub since: Option<Timestamp>,
    /// Died before.
    pub before: Option<Timestamp>,
}

impl DeadFilter {
    /// Whether a dead job with these properties matches.
    #[must_use]
    pub fn matches(&self, code: &str, kind: Option<&JobKind>, died_at: Timestamp) -> bool {
        self.code.as_deref().is_none_or(|wanted| wanted == code)
            && self.kind.as_ref().is_none_or(|wanted| Some(wanted) == kind)
            && self.since.is_none_or(|since| died_at >= since)
            && self.before.is_none_or(|before| died_at < before)
    }
}

/// A dead job.
#[derive(Debug, Clone)]
pub struct DeadJob {
    /// Its id; of bytes that were no envelope, one derived from them.
    pub id: JobId,
    /// What it was.
    pub body: DeadBody,
    /// Why it is dead.
    pub error: JobError,
    /// The last attempt's number.
    pub attempt: u32,
    /// When it died.
    pub died_at: Timestamp,
}

/// What a dead letter holds.
#[derive(Debug, Clone)]
pub enum DeadBody {
    /// A job.
    Envelope(Envelope),
    /// Bytes that could not be read, kept as they came.
    Raw(Bytes),
}

/// Which dead jobs to bring back.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// Which.
    pub which: RedriveSelection,
    /// Only count.
    pub dry_run: bool,
    /// Another payload, for exactly one named job.
    pub payload: Option<Bytes>,
}

/// See [`Redrive::which`].
#[derive(Debug, Clone)]
pub enum RedriveSelection {
    /// These.
    Jobs(Vec<JobId>),
    /// All that match.
    Matching(DeadFilter),
}

impl Redrive {
    /// Every dead job of the queue.
    #[must_use]
    pub fn all() -> Self {
        Self::matching(DeadFilter::default())
    }

    /// All that match.
    #[must_use]
    pub fn matching(filter: DeadFilter) -> Self {
        Self { which: RedriveSelection::Matching(filter), dry_run: false, payload: None }
    }

    /// Exactly one.
    #[must_use]
    pub fn one(id: JobId) -> Self {
        Self { which: RedriveSelection::Jobs(vec![id]), dry_run: false, payload: None }
    }
}

/// What a redrive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveReport {
    /// Dead jobs that were meant.
    pub matched: u64,
    /// Of these, brought back.
    pub redriven: u64,
    /// Of these, left dead because their unique key is held by another job now.
    pub duplicates: u64,
}

impl Add for RedriveReport {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            matched: self.matched + other.matched,
            redriven: self.redriven + other.redriven,
            duplicates: self.duplicates + other.duplicates,
        }
    }
}

impl RedriveReport {
    /// The error that ended a redrive, with what was done before it: of the same code, saying the numbers, and caused by a
    /// [`StoppedRedrive`]. What that error itself tells to have been done is added. Where nothing was brought back it stays as it is.
    #[must_use]
    pub fn stopped_by(self, error: Error) -> Error {
        let (report, error) = match StoppedRedrive::within(&error) {
            Some(stopped) => (self + stopped.report, stopped.error.clone()),
            None => (self, error),
        };
        if report.redriven == 0 {
            return error;
        }
        let message = format!(
            "{} of {} dead jobs that were looked at live again, then the redrive ended, and the others stay dead: {}",
            report.redriven,
            report.matched,
            error.message()
        );
        let mut told = Error::new(error.code(), message);
        if let Some(operation) = error.operation() {
            told = told.at(operation);
        }
        if let Some(provider) = error.provider() {
            told = told.by(provider);
        }
        if let Some(queue) = error.queue() {
            told = told.on(queue);
        }
        told.caused_by(StoppedRedrive { report, error })
    }

    /// What was done before this error ended a redrive.
    #[must_use]
    pub fn before(error: &Error) -> Option<Self> {
        StoppedRedrive::within(error).map(|stopped| stopped.report)
    }
}

/// A redrive that ended part-way.
#[derive(Debug, thiserror::Error)]
#[error("{} of {} were redriven", .report.redriven, .report.matched)]
pub struct StoppedRedrive {
    /// What was done before.
    pub report: RedriveReport,
    /// Why it ended.
    #[source]
    pub error: Error,
}

impl StoppedRedrive {
    fn within(error: &Error) -> Option<&Self> {
        std::error::Error::source(error)?.downcast_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn what_a_redrive_did_before_its_end_is_told_once_and_added_up() {
        let queue = QueueName::from_static("mail");
        let away = || Error::new(ErrorCode::Unavailable, "nobody there").at("redrive").on(&queue);
        let untouched = RedriveReport { matched: 3, ..RedriveReport::default() }.stopped_by(away());
        assert_eq!((untouched.message(), RedriveReport::before(&untouched)), ("nobody there", None));
        let inner = RedriveReport { matched: 2, redriven: 1, duplicates: 0 }.stopped_by(away());
        let outer = RedriveReport { matched: 5, redriven: 3, duplicates: 1 }.stopped_by(inner);
        assert_eq!(RedriveReport::before(&outer), Some(RedriveReport { matched: 7, redriven: 4, duplicates: 1 }));
        assert_eq!(
            (outer.code(), outer.operation(), outer.queue()),
            (ErrorCode::Unavailable, Some("redrive"), Some(&queue))
        );
        assert!(outer.message().starts_with("4 of 7 ") && outer.message().ends_with(": nobody there"), "{outer}");
    }
}
