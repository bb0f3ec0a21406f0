//! What the worker tells of its runs.

use std::sync::Arc;

use bytes::Bytes;
use queue_core::{JobId, error::ErrorCode, job::JobError, provider::Disposition, worker::RunReport};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::results::Status;

/// So many bytes of results may wait to be written.
const BACKLOG: usize = 64 << 20;
/// And so many reports.
const AT_ONCE: usize = 1_024;

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

/// A report on its way to be written, with its room.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) report: RunReport,
    _room: OwnedSemaphorePermit,
}

/// What the worker calls, and where it is heard.
///
/// Where rows cannot be written as fast as programs end (a pipe to a pager), the worker's settling waits here, and with it the
/// next start: results neither pile up nor count against anybody's timeout.
pub(super) fn channel() -> (impl Fn(RunReport) + Send + Sync + 'static, mpsc::Receiver<Told>) {
    let (sender, receiver) = mpsc::channel(AT_ONCE);
    let backlog = Arc::new(Semaphore::new(BACKLOG));
    let tell = move |report: RunReport| {
        let bytes = weight(&report);
        let told = match Arc::clone(&backlog).try_acquire_many_owned(bytes) {
            Ok(room) => sender.try_send(Told { report, _room: room }).map_err(|error| error.into_inner().report),
            Err(_) => Err(report),
        };
        // An error from here on means that the run is over.
        if let Err(report) = told
            && !sender.is_closed()
        {
            let later = async {
                let Ok(room) = Arc::clone(&backlog).acquire_many_owned(bytes).await else { return };
                let _ = sender.send(Told { report, _room: room }).await;
            };
            tokio::task::block_in_place(|| Handle::current().block_on(later));
        }
    };
    (tell, receiver)
}

/// The bytes of its result, about.
fn weight(report: &RunReport) -> u32 {
    const OVERHEAD: usize = 256;
    let result = match &report.disposition {
        Some(Disposition::Complete { result: Some(result) }) => result.len(),
        _ => 0,
    };
    u32::try_from((result + OVERHEAD).min(BACKLOG)).unwrap_or(u32::MAX)
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
