//! What the worker tells of its runs.

use bytes::Bytes;
use queue_core::{JobId, error::ErrorCode, job::JobError, provider::Disposition, worker::RunReport};
use tokio::sync::mpsc;

use crate::results::Status;

/// So many bytes of results may wait to be written.
const BACKLOG: usize = 64 << 20;

/// How a job came to its end.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) status: Status,
    pub(super) result: Option<Bytes>,
    pub(super) error: Option<JobError>,
}

/// What a report means for its line.
#[derive(Debug)]
pub(super) enum News {
    /// It is over.
    Ended(Fate),
    /// It failed, and runs again.
    Failed(JobError),
    /// It waits again, as before.
    Waits,
    /// Somebody else may have it: only its record knows.
    Doubtful,
}

/// What the worker calls, and where it is heard.
///
/// Where rows cannot be written as fast as programs end (a pipe to a pager), the worker's settling waits here, and with it the
/// next start: results neither pile up nor count against anybody's timeout.
pub(super) fn channel(max_output: usize) -> (impl Fn(RunReport) + Send + Sync + 'static, mpsc::Receiver<RunReport>) {
    let (sender, receiver) = mpsc::channel((BACKLOG / max_output.max(1)).clamp(8, 1_024));
    let tell = move |report| {
        if let Err(mpsc::error::TrySendError::Full(report)) = sender.try_send(report) {
            // An error means that the run is over.
            tokio::task::block_in_place(|| drop(sender.blocking_send(report)));
        }
    };
    (tell, receiver)
}

/// What became of a job.
pub(super) fn news(report: RunReport) -> (JobId, News) {
    let settled = report.outcome.as_ref().is_some_and(|outcome| outcome.is_settled());
    let news = match report.disposition {
        Some(disposition) if settled => of_disposition(disposition),
        _ => News::Doubtful,
    };
    (report.job.id, news)
}

fn of_disposition(disposition: Disposition) -> News {
    match disposition {
        Disposition::Complete { result } => News::Ended(Fate { status: Status::Completed, result, error: None }),
        Disposition::DeadLetter { error } => News::Ended(Fate::failed(Status::Dead, error)),
        Disposition::Cancelled => News::Ended(Fate::cancelled()),
        Disposition::Expired => News::Ended(Fate::expired()),
        Disposition::Retry { error, .. } => News::Failed(error),
        Disposition::Release { .. } | Disposition::Park { .. } => News::Waits,
    }
}

impl Fate {
    pub(super) fn failed(status: Status, error: JobError) -> Self {
        Self { status, result: None, error: Some(error) }
    }

    pub(super) fn cancelled() -> Self {
        Self::failed(Status::Cancelled, JobError::new(ErrorCode::Cancelled, "the job was cancelled"))
    }

    pub(super) fn expired() -> Self {
        let message = "its time to live passed before it was started";
        Self::failed(Status::Expired, JobError::new(ErrorCode::Expired, message))
    }
}
