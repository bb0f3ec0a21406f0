//! What the worker tells of its runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use queue_core::{
    JobId,
    error::ErrorCode,
    job::JobError,
    provider::{Disposition, ReleaseReason},
    worker::RunReport,
};
use tokio::{runtime::Handle, sync::Notify};

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

/// What the worker calls, and where it is heard.
///
/// Where rows cannot be written as fast as programs end (a pipe to a pager), the worker's settling waits here, and with it the
/// next start: results neither pile up nor count against anybody's timeout.
pub(super) fn channel() -> (impl Fn(RunReport) + Send + Sync + 'static, Reports) {
    let desk = Arc::new(Desk::default());
    let teller = Teller(Arc::clone(&desk));
    (move |report: RunReport| teller.tell(report), Reports(desk))
}

/// Reports lie here until they are heard, all at once: two locks and a wake-up for many of them.
#[derive(Debug, Default)]
struct Desk {
    pile: Mutex<Pile>,
    /// Whoever hears sleeps here.
    told: Notify,
    /// Whoever tells waits here.
    room: Notify,
}

#[derive(Debug, Default)]
struct Pile {
    reports: Vec<RunReport>,
    bytes: usize,
    /// Nobody tells any more, or nobody hears.
    closed: bool,
}

impl Desk {
    fn pile(&self) -> MutexGuard<'_, Pile> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.pile().closed = true;
        self.told.notify_one();
        self.room.notify_waiters();
    }

    /// Gives it back where there is no room.
    fn put(&self, report: RunReport) -> Option<RunReport> {
        let bytes = weight(&report);
        let mut pile = self.pile();
        if pile.closed {
            // The run is over.
            return None;
        }
        if pile.reports.len() >= AT_ONCE || (pile.bytes > 0 && pile.bytes + bytes > BACKLOG) {
            return Some(report);
        }
        pile.bytes += bytes;
        pile.reports.push(report);
        let first = pile.reports.len() == 1;
        drop(pile);
        if first {
            self.told.notify_one();
        }
        None
    }

    async fn put_later(&self, mut report: RunReport) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let Some(back) = self.put(report) else { return };
            report = back;
            room.await;
        }
    }
}

/// The worker's end.
struct Teller(Arc<Desk>);

impl Teller {
    fn tell(&self, report: RunReport) {
        if let Some(report) = self.0.put(report) {
            tokio::task::block_in_place(|| Handle::current().block_on(self.0.put_later(report)));
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The conductor's end.
#[derive(Debug)]
pub(super) struct Reports(Arc<Desk>);

impl Reports {
    /// Waits for reports and takes all there are into `into`, which is empty; how many. 0 when no more will come.
    pub(super) async fn hear(&mut self, into: &mut Vec<RunReport>) -> usize {
        loop {
            {
                let mut pile = self.0.pile();
                if !pile.reports.is_empty() {
                    std::mem::swap(&mut pile.reports, into);
                    pile.bytes = 0;
                    drop(pile);
                    self.0.room.notify_waiters();
                    return into.len();
                }
                if pile.closed {
                    return 0;
                }
            }
            self.0.told.notified().await;
        }
    }

    /// Takes what was told, and hears no more.
    pub(super) fn close(&mut self) -> Vec<RunReport> {
        self.0.close();
        std::mem::take(&mut self.0.pile().reports)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The bytes of its result, about.
fn weight(report: &RunReport) -> usize {
    const OVERHEAD: usize = 256;
    let result = match &report.disposition {
        Some(Disposition::Complete { result: Some(result) }) => result.len(),
        _ => 0,
    };
    result + OVERHEAD
}

/// Whether the program ran. A job is put off where it could not be started, and that is no attempt.
pub(super) fn ran(report: &RunReport) -> bool {
    let put_off =
        matches!(&report.disposition, Some(Disposition::Release { reason, .. }) if *reason != ReleaseReason::Shutdown);
    report.begun.is_some() && !put_off
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
