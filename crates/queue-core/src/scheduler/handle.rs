//! A submitted job, from the submitter's side.

use std::{marker::PhantomData, time::Duration};

use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::{
    error::{Error, ErrorCode, Result},
    event::Progress,
    job::{JobId, JobRef},
    lifecycle::JobState,
    provider::Cancel,
    store::{CancelOutcome, JobRecord, Watch},
};

use super::{JobScheduler, progress};

/// A submitted job whose handler returns `T`.
#[derive(Debug)]
pub struct JobHandle<T> {
    scheduler: JobScheduler,
    job: JobRef,
    duplicate: bool,
    output: PhantomData<fn() -> T>,
}

impl<T> Clone for JobHandle<T> {
    fn clone(&self) -> Self {
        Self {
            scheduler: self.scheduler.clone(),
            job: self.job.clone(),
            duplicate: self.duplicate,
            output: PhantomData,
        }
    }
}

impl<T> JobHandle<T> {
    pub(super) fn new(scheduler: JobScheduler, job: JobRef, duplicate: bool) -> Self {
        Self { scheduler, job, duplicate, output: PhantomData }
    }

    /// The same handle, marked as one that a unique key led to.
    #[must_use]
    pub fn duplicate(mut self) -> Self {
        self.duplicate = true;
        self
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.job.id
    }

    /// What finds it again, also in another process.
    #[must_use]
    pub fn job(&self) -> &JobRef {
        &self.job
    }

    /// Whether it was there before: the submission's unique key was held by it.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// All that is known of it.
    ///
    /// # Errors
    /// As [`JobScheduler::get`].
    pub async fn record(&self) -> Result<JobRecord> {
        self.scheduler.get(&self.job).await
    }

    /// Cancels it, or asks it to stop. Idempotent.
    ///
    /// # Errors
    /// As [`JobScheduler::cancel`].
    pub async fn cancel(&self) -> Result<CancelOutcome> {
        self.scheduler.cancel(&self.job, &Cancel::by("its submitter")).await
    }

    /// Cancels it, or asks it to stop within the grace, after which its handler is dropped at its next await. Idempotent; a
    /// later request may shorten the grace of an earlier one.
    ///
    /// # Errors
    /// As [`JobScheduler::cancel`].
    pub async fn cancel_with(&self, grace: Duration) -> Result<CancelOutcome> {
        self.scheduler.cancel(&self.job, &Cancel { grace, ..Cancel::by("its submitter") }).await
    }

    /// What its handler logged, the newest last, within the bounds of [`JobRecord`].
    ///
    /// # Errors
    /// As [`JobScheduler::get`].
    pub async fn logs(&self) -> Result<Vec<String>> {
        let record = self.record().await?;
        Ok(record.logs.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect())
    }

    /// How far it is: what its handler said last, and whatever else it says until the job is finished, with which the stream
    /// ends. Only the newest counts: who reads slowly misses what came in between. It ends too with the first error, of which
    /// it tells.
    ///
    /// # Errors
    /// `UNSUPPORTED` without a store; `UNAVAILABLE`.
    pub async fn progress(&self) -> Result<BoxStream<'static, Result<Progress>>> {
        let events = self.scheduler.store()?.watch(Watch::Jobs(vec![self.job.clone()])).await?;
        let reader = (self.scheduler.clone(), self.job.clone());
        Ok(progress::follow(reader, events))
    }

    /// Waits until it is finished, however it ends. Giving up on the wait does not cancel the job.
    ///
    /// # Errors
    /// As [`JobScheduler::get`].
    pub async fn finished(&self) -> Result<JobRecord> {
        // Registered before the record is read, so that no end falls between; and read again now and then, for events are
        // hints that may be missed.
        let mut events = self.scheduler.store()?.watch(Watch::Jobs(vec![self.job.clone()])).await?;
        loop {
            let record = self.record().await?;
            if record.state.is_terminal() {
                return Ok(record);
            }
            let look_again = tokio::time::sleep(JobScheduler::poll_interval());
            tokio::select! {
                biased;
                Some(_) = events.next() => {}
                () = look_again => {}
            }
        }
    }
}

impl<T: DeserializeOwned> JobHandle<T> {
    /// Waits until it is finished and returns what its handler returned. Giving up on the wait does not cancel the job.
    ///
    /// # Errors
    /// `HANDLER_FAILED` where it is dead, `CANCELLED`, `EXPIRED`; `UNDECODABLE` where the result is of another type; else as
    /// [`JobScheduler::get`].
    pub async fn result(&self) -> Result<T> {
        let record = self.finished().await?;
        let ended = |code, message: String| Err(Error::new(code, message).at("result").on(&self.job.queue));
        match record.state {
            JobState::Completed => {
                let json = record.result.as_deref().unwrap_or(b"null");
                serde_json::from_slice(json).map_err(|error| {
                    let message = "the job's result is not of the type its job declares";
                    Error::new(ErrorCode::Undecodable, message).at("result").on(&self.job.queue).caused_by(error)
                })
            }
            JobState::Cancelled => ended(ErrorCode::Cancelled, "the job was cancelled".to_owned()),
            JobState::Expired => {
                ended(ErrorCode::Expired, "the job was not started before its time to live passed".to_owned())
            }
            _ => {
                let why = record.error.map_or_else(|| "it left no error".to_owned(), |error| error.to_string());
                ended(ErrorCode::HandlerFailed, format!("the job is dead after {} attempts: {why}", record.attempt))
            }
        }
    }
}
