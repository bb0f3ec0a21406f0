//! The lines that were submitted and have not ended, and what is known of each meanwhile.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use queue_core::{
    JobId,
    job::{JobError, JobRef},
};
use slab::Slab;
use tokio::time::Instant;

use super::{
    runs::{Run, Running, Runs},
    why,
};
use crate::{
    feed::OpenLine,
    results::{Row, Status},
};

/// Shared by the conductor, which opens and ends lines, and the handlers, which say when they start. No lock is held for
/// longer than a look-up, but for the looks round.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenJobs(Arc<Books>);

#[derive(Debug, Default)]
struct Books {
    /// Locked before `runs` where both are.
    table: Mutex<Table>,
    runs: Runs,
}

#[derive(Debug, Default)]
struct Table {
    /// Where each is in `jobs`: small enough to stay at hand, where the lines themselves do not.
    places: HashMap<JobId, usize>,
    jobs: Slab<OpenJob>,
    looked_until: u64,
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
    /// Attempts that ran elsewhere.
    attempts: u32,
    /// Those that ran here.
    run: Run,
    error: Option<Box<JobError>>,
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
            attempts: 0,
            run: Run::default(),
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
        let error = || error.or(self.error.map(|error| *error));
        let row = Row {
            id: Some(self.job.id),
            line: self.line.number,
            status,
            attempts: self.attempts.max(self.run.attempts),
            result,
            error: if status == Status::Completed { None } else { error() },
            wait: self.run.first_start.map(|start| start.saturating_duration_since(self.due)).unwrap_or_default(),
            run: self.run.time(),
        };
        (self.line, row)
    }
}

impl OpenJobs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line is about to be submitted: before it is, so that nothing can happen to a job that is not known here.
    pub(super) fn open(&self, job: OpenJob) {
        let mut table = self.table();
        let id = job.job.id;
        let place = table.jobs.insert(job);
        table.places.insert(id, place);
    }

    /// The provider has it.
    pub(super) fn accepted(&self, job: &JobRef) {
        self.change(job.id, |open| {
            open.accepted = true;
            open.job.place = job.place;
        });
    }

    /// What to remember of a job that goes on.
    pub(super) fn change(&self, id: JobId, change: impl FnOnce(&mut OpenJob)) {
        let mut table = self.table();
        let place = table.places.get(&id).copied();
        if let Some(open) = place.and_then(|place| table.jobs.get_mut(place)) {
            change(open);
        }
    }

    /// It waits to run again. Nothing is kept of a job that is none of ours: a queue may be shared.
    pub(super) fn waits(&self, id: JobId) {
        if !self.table().places.contains_key(&id) {
            self.0.runs.take(id);
        }
    }

    /// Its last failure, unless another comes.
    pub(super) fn failed(&self, id: JobId, error: JobError) {
        self.change(id, |open| open.error = Some(Box::new(error)));
    }

    /// A line that ends. `None` where it has ended, or is none of ours.
    pub(super) fn take(&self, id: JobId) -> Option<OpenJob> {
        let run = self.0.runs.take(id);
        let mut table = self.table();
        let place = table.places.remove(&id)?;
        let mut open = table.jobs.try_remove(place)?;
        open.run = run;
        Some(open)
    }

    /// Every line that is left, in the order of the input.
    pub(super) fn take_all(&self) -> Vec<OpenJob> {
        let mut table = self.table();
        table.places.clear();
        let mut all: Vec<OpenJob> = table.jobs.drain().collect();
        all.sort_unstable_by_key(|open| open.line.number);
        all.iter_mut().for_each(|open| open.run = self.0.runs.take(open.job.id));
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table().jobs.is_empty()
    }

    /// How many of them run here.
    pub(super) fn running(&self) -> usize {
        self.0.runs.running()
    }

    /// What runs and what waits, the first lines of each.
    pub(super) fn look_over(&self, many: usize) -> why::Open {
        let table = self.table();
        let runs = self.0.runs.lock();
        let mut found = why::Open::default();
        for open in table.in_order() {
            let line = open.line.number;
            match runs.get(&open.job.id) {
                Some(Run { since: Some(since), attempts, .. }) => {
                    found.running_total += 1;
                    if found.running.len() < many {
                        found.running.push(why::AtWork { line, attempt: *attempts, since: since.elapsed() });
                    }
                }
                _ => {
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
        self.table()
            .jobs
            .iter()
            .map(|(_, open)| open)
            .filter(|open| open.accepted)
            .map(|open| open.job.clone())
            .collect()
    }

    /// What does not run and was to have expired that long ago.
    pub(super) fn overdue(&self, by: Duration) -> Vec<JobId> {
        let now = Instant::now();
        let table = self.table();
        let runs = self.0.runs.lock();
        let overdue = |open: &&OpenJob| {
            let end = open.expires.and_then(|end| end.checked_add(by));
            let runs = || runs.get(&open.job.id).is_some_and(|run| run.since.is_some());
            open.accepted && end.is_some_and(|end| end <= now) && !runs()
        };
        table.jobs.iter().map(|(_, open)| open).filter(overdue).map(|open| open.job.id).collect()
    }

    /// Whose records to look at now: the doubtful, and as many others as are asked for, each in its turn.
    pub(super) fn to_look_at(&self, others: usize) -> Vec<JobRef> {
        let mut table = self.table();
        let in_order = table.in_order();
        let is_due = |open: &&OpenJob| open.accepted && (open.doubtful || open.missing);
        let mut chosen: Vec<JobRef> = in_order.iter().copied().filter(is_due).map(|open| open.job.clone()).collect();
        let (before, behind) =
            in_order.split_at(in_order.partition_point(|open| open.line.number <= table.looked_until));
        let mut last = table.looked_until;
        // At the end, from the beginning.
        for open in behind.iter().chain(before).take(others) {
            last = open.line.number;
            if open.accepted && !is_due(open) {
                chosen.push(open.job.clone());
            }
        }
        table.looked_until = last;
        chosen
    }

    /// A handler begins with attempt number `attempt`, until the guard is dropped.
    pub(super) fn start(&self, id: JobId, attempt: u32) -> Running<'_> {
        self.0.runs.start(id, attempt)
    }
}

impl Table {
    /// In the order of the input. Lines come and go by the thousand for each look round, so they are put in order here.
    fn in_order(&self) -> Vec<&OpenJob> {
        let mut all: Vec<&OpenJob> = self.jobs.iter().map(|(_, open)| open).collect();
        all.sort_unstable_by_key(|open| open.line.number);
        all
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
        open.accepted(&job);
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
    async fn nothing_is_kept_of_a_job_of_somebody_else() {
        let open = OpenJobs::default();
        let ours = opened(&open, 1, None).await;
        let others = JobId::derive(b"another run", 1);
        for id in [ours, others] {
            drop(open.start(id, 1));
            open.waits(id);
        }
        assert_eq!(open.0.runs.lock().keys().copied().collect::<Vec<_>>(), [ours]);
        drop(open.start(others, 2));
        assert!(open.take(others).is_none());
        let (line, row) = open.take(ours).unwrap().end(Status::Completed, None, None);
        assert_eq!((row.attempts, open.0.runs.lock().len()), (1, 0));
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
