//! How a job is to be run.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    error::Result,
    job::{ContentType, Headers, Job, JobId, JobKind, Priority, RetryPolicy, Timestamp, Unique},
};

/// A job to submit.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Which handler runs it.
    pub kind: JobKind,
    /// What it is given.
    pub payload: Bytes,
    /// How it is to be run.
    pub options: JobOptions,
}

impl NewJob {
    /// A job with the queue's defaults.
    pub fn new(kind: JobKind, payload: impl Into<Bytes>) -> Self {
        Self { kind, payload: payload.into(), options: JobOptions::default() }
    }

    /// A typed job with the queue's defaults: what a single submission makes of it, for a batch.
    ///
    /// # Errors
    /// `VALIDATION` where it breaks its own rules or cannot be encoded.
    pub fn typed<J: Job>(job: &J) -> Result<Self> {
        Ok(Self::new(JobKind::new(J::KIND)?, super::enqueue::encode(job)?))
    }
}

/// What a submission may say about a job; the queue's spec answers for the rest.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JobOptions {
    /// An id of the caller's, so that submitting twice is one job. Else a fresh one.
    pub id: Option<JobId>,
    /// How the payload is to be read.
    pub content_type: ContentType,
    /// Who runs first.
    pub priority: Option<Priority>,
    /// Not before this.
    pub start: Start,
    /// Not started after that long: then it is expired. It counts from submission, whatever the delay.
    pub ttl: Option<Duration>,
    /// The longest an attempt may run.
    pub timeout: Option<Duration>,
    /// When it runs again after a failure.
    pub retry: Option<RetryPolicy>,
    /// At most one such job.
    pub unique: Option<Unique>,
    /// What rides along. Its `retry` is set from the field above.
    pub headers: Headers,
}

/// When a job may start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// At once.
    #[default]
    Now,
    /// After a delay.
    After(Duration),
    /// At a time.
    At(Timestamp),
}
