//! What waits in the queues.

use std::{fmt::Write as _, ops::Deref};

use queue_core::{
    Error, ErrorCode, Job, Result,
    lifecycle::JobState,
    store::{JobQuery, JobRecord},
};

use super::TestQueues;

/// A job that waits: its payload, to which it derefs, and all that is known of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Enqueued<J> {
    /// The job as the application wrote it.
    pub job: J,
    /// Its queue, state, priority, time, tags, …
    pub record: JobRecord,
}

impl<J> Deref for Enqueued<J> {
    type Target = J;

    fn deref(&self) -> &J {
        &self.job
    }
}

/// A failure lists so many jobs, each with so many bytes of its payload.
const LISTED: usize = 20;
const SHOWN: usize = 200;

impl TestQueues {
    /// Every job of this type that waits, in whatever queue: pending, scheduled or to be retried.
    ///
    /// # Errors
    /// `UNDECODABLE` for a payload of this kind that is not a `J`.
    pub async fn enqueued<J: Job>(&self) -> Result<Vec<Enqueued<J>>> {
        let mut found = Vec::new();
        for record in self.waiting().await? {
            if record.envelope.kind.as_str() == J::KIND {
                let job = serde_json::from_slice(&record.envelope.payload).map_err(|error| {
                    let message = format!("the payload of {} is not a `{}`", record.job, J::KIND);
                    Error::new(ErrorCode::Undecodable, message).caused_by(error)
                })?;
                found.push(Enqueued { job, record });
            }
        }
        Ok(found)
    }

    async fn waiting(&self) -> Result<Vec<JobRecord>> {
        let states = JobState::ALL.into_iter().filter(|state| state.is_waiting());
        let query = JobQuery::default().in_states(states);
        Ok(self.store()?.list(&query, None, usize::MAX).await?.items)
    }

    /// What [`assert_enqueued!`](crate::assert_enqueued) asks: one that matches, or a report of what there is.
    #[doc(hidden)]
    pub async fn find_enqueued<J: Job>(
        &self,
        matches: impl Fn(&Enqueued<J>) -> bool,
    ) -> std::result::Result<Enqueued<J>, String> {
        let jobs = self.enqueued::<J>().await.map_err(|error| error.to_string())?;
        match jobs.into_iter().find(matches) {
            Some(job) => Ok(job),
            None => Err(format!("no `{}` job that matches is enqueued. {}", J::KIND, self.report().await)),
        }
    }

    /// What [`refute_enqueued!`](crate::refute_enqueued) asks.
    #[doc(hidden)]
    pub async fn find_none_enqueued<J: Job>(
        &self,
        matches: impl Fn(&Enqueued<J>) -> bool,
    ) -> std::result::Result<(), String> {
        let jobs = self.enqueued::<J>().await.map_err(|error| error.to_string())?;
        match jobs.into_iter().find(matches) {
            None => Ok(()),
            Some(job) => {
                Err(format!("a `{}` job that matches is enqueued:\n{}", J::KIND, line(&job.record).trim_end()))
            }
        }
    }

    async fn report(&self) -> String {
        let jobs = match self.waiting().await {
            Ok(jobs) if jobs.is_empty() => return "Nothing is enqueued.".to_owned(),
            Ok(jobs) => jobs,
            Err(error) => return error.to_string(),
        };
        let mut report = "Enqueued are:\n".to_owned();
        report.extend(jobs.iter().take(LISTED).map(line));
        if let Some(more) = jobs.len().checked_sub(LISTED + 1) {
            let _ = writeln!(report, "  … and {} more", more + 1);
        }
        report.truncate(report.trim_end().len());
        report
    }
}

fn line(record: &JobRecord) -> String {
    let JobRecord { envelope, job, state, attempt, .. } = record;
    let payload = String::from_utf8_lossy(&envelope.payload);
    let shown = &payload[..payload.floor_char_boundary(SHOWN)];
    let cut = if shown.len() < payload.len() { "…" } else { "" };
    let due = record.due_at.map_or(String::new(), |due| format!(", due {due:?}"));
    let level = envelope.priority.level();
    format!("  {} in {}: {state}{due}, attempt {attempt}, priority {level}: {shown}{cut}\n", envelope.kind, job.queue)
}

/// Fails unless a job of the type waits in some queue, and, with a closure, one for which it holds. Is that
/// [`Enqueued`](crate::testing::Enqueued) job. The failure lists what does wait.
///
/// The closure gets an [`Enqueued`](crate::testing::Enqueued): the job's own fields, and `record` for the rest. See
/// [`testing`](crate::testing) for an example.
#[macro_export]
macro_rules! assert_enqueued {
    ($queues:expr, $job:ty $(,)?) => {
        $crate::assert_enqueued!($queues, $job, |_| true)
    };
    ($queues:expr, $job:ty, $matches:expr $(,)?) => {
        match $queues.find_enqueued::<$job>($matches).await {
            ::core::result::Result::Ok(job) => job,
            ::core::result::Result::Err(report) => ::core::panic!("{report}"),
        }
    };
}

/// Fails if a job of the type waits in some queue, or, with a closure, one for which it holds.
#[macro_export]
macro_rules! refute_enqueued {
    ($queues:expr, $job:ty $(,)?) => {
        $crate::refute_enqueued!($queues, $job, |_| true)
    };
    ($queues:expr, $job:ty, $matches:expr $(,)?) => {
        if let ::core::result::Result::Err(report) = $queues.find_none_enqueued::<$job>($matches).await {
            ::core::panic!("{report}")
        }
    };
}
