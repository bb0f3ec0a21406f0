//! The lines that were submitted and have not ended, and what is known of each meanwhile.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use queue_core::{
    JobId,
    job::{JobError, JobRef},
};
use tokio::time::Instant;

use super::why;
use crate::{
    feed::OpenLine,
    results::{Row, Status},
};

/// Shared by the conductor, which opens and ends lines, and the handlers, which say when they start. No lock is held for
/// longer than a look-up.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenJobs(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    jobs: HashMap<JobId, OpenJob>,
    /// In the order of the input, for looking around.
    by_line: BTreeMap<u64, JobId>,
    looked_until: u64,
    running: usize,
}

/// A line on its way.
#[derive(Debug)]
pub(super) struct OpenJob {
    line: OpenLine,
    job: JobRef,
    /// From when it waits for a worker: its submission, or the end of its delay.
    due: Instant,
    expires: Option<Instant>,
    /// The provider said that it has it.
    accepted: bool,
    first_start: Option<Instant>,
    running_since: Option<Instant>,
    attempts: u32,
    run: Duration,
    error: Option<JobError>,
    /// Something happened that only its record can explain.
    pub(super) doubtful: bool,
    /// The last look found no record.
    pub(super) missing: bool,
}

impl OpenJob {
    /// A line that is about to be submitted.
    pub(super) fn new(line: OpenLine, job: JobRef, delay: Option<Duration>, ttl: Option<Duration>) -> Self {
        let now = Instant::now();
        let after = |duration: Duration| now.checked_add(duration);
        Self {
            line,
            job,
            due: delay.and_then(after).unwrap_or(now),
            expires: ttl.and_then(after),
            accepted: false,
            first_start: None,
            running_since: None,
            attempts: 0,
            run: Duration::ZERO,
            error: None,
            doubtful: false,
            missing: false,
        }
    }

    /// It goes on in the journal, without this process.
    pub(super) fn leave(self) {
        self.line.close();
    }

    /// Whether its time to live has passed.
    pub(super) fn is_expired(&self) -> bool {
        self.expires.is_some_and(|end| end <= Instant::now())
    }

    /// Counts attempts that ran in another process.
    pub(super) fn attempted(&mut self, attempts: u32) {
        self.attempts = self.attempts.max(attempts);
    }

    /// The line and the row it ends in. Without an error of its own, a job that did not complete keeps its last one.
    pub(super) fn end(self, status: Status, result: Option<Bytes>, error: Option<JobError>) -> (OpenLine, Row) {
        let still = self.running_since.map(|since| since.elapsed()).unwrap_or_default();
        let row = Row {
            id: Some(self.job.id),
            line: self.line.number,
            status,
            attempts: self.attempts,
            result,
            error: if status == Status::Completed { None } else { error.or(self.error) },
            wait: self.first_start.map(|start| start.saturating_duration_since(self.due)).unwrap_or_default(),
            run: self.run + still,
        };
        (self.line, row)
    }
}

impl OpenJobs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line is about to be submitted: before it is, so that nothing can happen to a job that is not known here.
    pub(super) fn open(&self, job: OpenJob) {
        let mut table = self.table();
        table.by_line.insert(job.line.number, job.job.id);
        table.jobs.insert(job.job.id, job);
    }

    /// The provider has it.
    pub(super) fn accepted(&self, job: JobRef) {
        self.change(job.id, |open| {
            open.accepted = true;
            open.job = job;
        });
    }

    /// What to remember of a job that goes on.
    pub(super) fn change(&self, id: JobId, change: impl FnOnce(&mut OpenJob)) {
        if let Some(open) = self.table().jobs.get_mut(&id) {
            change(open);
        }
    }

    /// Its last failure, unless another comes.
    pub(super) fn failed(&self, id: JobId, error: JobError) {
        self.change(id, |open| open.error = Some(error));
    }

    /// A line that ends. `None` where it has ended, or is none of ours.
    pub(super) fn take(&self, id: JobId) -> Option<OpenJob> {
        let mut table = self.table();
        let open = table.jobs.remove(&id)?;
        table.by_line.remove(&open.line.number);
        table.running -= usize::from(open.running_since.is_some());
        Some(open)
    }

    /// Every line that is left, in the order of the input.
    pub(super) fn take_all(&self) -> Vec<OpenJob> {
        let mut table = self.table();
        table.running = 0;
        let ids = std::mem::take(&mut table.by_line);
        ids.values().filter_map(|id| table.jobs.remove(id)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table().jobs.is_empty()
    }

    /// How many of them run here.
    pub(super) fn running(&self) -> usize {
        self.table().running
    }

    /// What runs and what waits, the first lines of each.
    pub(super) fn look_over(&self, many: usize) -> why::Open {
        let table = self.table();
        let mut found = why::Open::default();
        for open in table.by_line.values().filter_map(|id| table.jobs.get(id)) {
            let line = open.line.number;
            match open.running_since {
                Some(since) => {
                    found.running_total += 1;
                    if found.running.len() < many {
                        found.running.push(why::AtWork { line, attempt: open.attempts, since: since.elapsed() });
                    }
                }
                None => {
                    found.waiting_total += 1;
                    if found.waiting.len() < many && open.accepted {
                        found.waiting.push(why::Waiting { line, job: open.job.clone() });
                    }
                }
            }
        }
        found
    }

    /// Everything that is open and accepted.
    pub(super) fn all(&self) -> Vec<JobRef> {
        self.table().jobs.values().filter(|open| open.accepted).map(|open| open.job.clone()).collect()
    }

    /// What does not run and was to have expired that long ago.
    pub(super) fn overdue(&self, by: Duration) -> Vec<JobId> {
        let now = Instant::now();
        let overdue = |open: &&OpenJob| {
            let end = open.expires.and_then(|end| end.checked_add(by));
            open.accepted && open.running_since.is_none() && end.is_some_and(|end| end <= now)
        };
        self.table().jobs.values().filter(overdue).map(|open| open.job.id).collect()
    }

    /// Whose records to look at now: the doubtful, and as many others as are asked for, each in its turn.
    pub(super) fn to_look_at(&self, others: usize) -> Vec<JobRef> {
        let mut table = self.table();
        let Table { jobs, by_line, looked_until, .. } = &mut *table;
        let found = |id: &JobId| jobs.get(id).filter(|open| open.accepted);
        let mut chosen: Vec<JobRef> = jobs
            .values()
            .filter(|open| open.accepted && (open.doubtful || open.missing))
            .map(|o| o.job.clone())
            .collect();
        let behind = by_line.range((Bound::Excluded(*looked_until), Bound::Unbounded));
        // At the end, from the beginning.
        let turn = behind.chain(by_line.range(..=*looked_until)).take(others);
        let mut last = *looked_until;
        for (line, id) in turn {
            last = *line;
            chosen.extend(found(id).filter(|open| !open.doubtful && !open.missing).map(|open| open.job.clone()));
        }
        *looked_until = last;
        chosen
    }

    /// A handler begins with attempt number `attempt`, until the guard is dropped.
    pub(super) fn start(&self, id: JobId, attempt: u32) -> Running {
        let mut table = self.table();
        if let Some(open) = table.jobs.get_mut(&id) {
            let now = Instant::now();
            open.first_start = open.first_start.or(Some(now));
            open.attempts = attempt;
            let again = open.running_since.replace(now).is_some();
            table.running += usize::from(!again);
        }
        drop(table);
        Running { open: self.clone(), id }
    }
}

/// A handler at work; what it took is counted when it is dropped, be it done or not.
#[derive(Debug)]
pub(super) struct Running {
    open: OpenJobs,
    id: JobId,
}

impl Running {
    /// Nothing was run after all.
    pub(super) fn never_mind(self) {
        self.open.change(self.id, |open| {
            open.attempts = open.attempts.saturating_sub(1);
            if open.attempts == 0 {
                open.first_start = None;
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut table = self.open.table();
        let Some(open) = table.jobs.get_mut(&self.id) else { return };
        let Some(since) = open.running_since.take() else { return };
        open.run += since.elapsed();
        table.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{QueueName, error::ErrorCode};

    use super::*;
    use crate::{input::Text, window::Window};

    const SECOND: Duration = Duration::from_secs(1);

    async fn opened(open: &OpenJobs, number: u64, delay: Option<Duration>) -> JobId {
        let id = JobId::derive(b"run", number);
        let slot = Window::default().enter(1).await.unwrap();
        let line = OpenLine::new(number, Text::Utf8(Bytes::new()), slot);
        let job = JobRef::new(QueueName::new("q").unwrap(), id);
        open.open(OpenJob::new(line, job.clone(), delay, None));
        open.accepted(job);
        id
    }

    #[tokio::test(start_paused = true)]
    async fn runs_add_up_and_an_asked_delay_is_no_wait() {
        let open = OpenJobs::default();
        let id = opened(&open, 7, Some(3 * SECOND)).await;
        tokio::time::advance(5 * SECOND).await;
        let running = open.start(id, 1);
        assert_eq!(open.running(), 1);
        tokio::time::advance(SECOND).await;
        drop(running);
        assert_eq!(open.running(), 0);
        open.failed(id, JobError::new(ErrorCode::HandlerFailed, "first"));
        tokio::time::advance(10 * SECOND).await;
        let running = open.start(id, 2);
        tokio::time::advance(4 * SECOND).await;
        let (line, row) = open.take(id).unwrap().end(Status::Aborted, None, None);
        drop(running);
        assert_eq!((line.number, row.line, row.attempts), (7, 7, 2));
        assert_eq!((row.wait, row.run), (2 * SECOND, 5 * SECOND), "what still runs counts too");
        assert_eq!(row.error.unwrap().message, "first");
        assert!(open.is_empty() && open.take(id).is_none());
        assert_eq!(open.running(), 0);
        line.close();
    }

    #[tokio::test(start_paused = true)]
    async fn what_expired_long_ago_and_does_not_run_is_overdue() {
        let open = OpenJobs::default();
        let ids = [opened(&open, 1, None).await, opened(&open, 2, None).await, opened(&open, 3, None).await];
        for id in &ids[..2] {
            open.change(*id, |open| open.expires = Some(Instant::now() + SECOND));
        }
        let _running = open.start(ids[0], 1);
        tokio::time::advance(2 * SECOND).await;
        assert!(open.overdue(2 * SECOND).is_empty());
        tokio::time::advance(SECOND).await;
        assert_eq!(open.overdue(2 * SECOND), [ids[1]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_ran_has_no_attempt() {
        let open = OpenJobs::default();
        let id = opened(&open, 1, None).await;
        open.start(id, 1).never_mind();
        let (line, row) = open.take(id).unwrap().end(Status::Aborted, None, None);
        assert_eq!((row.attempts, row.wait, row.run), (0, Duration::ZERO, Duration::ZERO));
        line.close();
    }

    #[tokio::test(start_paused = true)]
    async fn looks_go_round_and_the_doubtful_come_every_time() {
        let open = OpenJobs::default();
        let mut ids = Vec::new();
        for number in 1..=5 {
            ids.push(opened(&open, number, None).await);
        }
        open.change(ids[4], |job| job.doubtful = true);
        let seen = |n| {
            let lines = open.to_look_at(n).into_iter().map(|job| ids.iter().position(|id| *id == job.id).unwrap());
            lines.collect::<Vec<_>>()
        };
        assert_eq!(seen(2), [4, 0, 1]);
        assert_eq!(seen(2), [4, 2, 3]);
        assert_eq!(seen(2), [4, 0], "its own turn, and from the beginning");
        assert_eq!(seen(0), [4]);
        assert_eq!(seen(9), [4, 1, 2, 3, 0]);
        assert_eq!(open.take_all().len(), 5);
        assert!(open.to_look_at(9).is_empty());
    }
}
