//! The lines that were submitted and have not ended, and what is known of each meanwhile.

use std::{
    collections::{HashMap as StdMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use queue_core::{
    JobId, QueueName,
    job::{JobError, JobRef},
    worker::AtWork,
};
use slab::Slab;
use tokio::time::Instant;

use super::why;
use crate::{
    feed::OpenLine,
    results::{Row, Status},
};

/// The conductor's, and of the looks round that it takes. No lock is held for longer than a look-up, but for those.
#[derive(Debug, Clone)]
pub(super) struct OpenJobs(Arc<Books>);

#[derive(Debug)]
struct Books {
    queue: QueueName,
    run: JobId,
    table: Mutex<Table>,
}

/// Lines that are so close to the newest one are found by their numbers alone: more than are open at once, so most often that
/// is all of them.
const NEAR: usize = 1 << 14;

#[derive(Debug)]
struct Table {
    jobs: Slab<OpenJob>,
    /// Where in `jobs` a line is, by its number; of lines that share a place here, the newest. Small enough to stay at hand,
    /// where the lines themselves do not.
    near: Box<[u32]>,
    /// The others.
    far: HashMap<u64, u32>,
    /// The lines of jobs whose ids do not tell.
    named: HashMap<JobId, u64>,
    looked_until: u64,
}

/// A line on its way.
#[derive(Debug)]
pub(super) struct OpenJob {
    line: OpenLine,
    id: JobId,
    place: u16,
    /// From when it waits for a worker: its submission, or the end of its delay.
    due: Instant,
    expires: Option<Instant>,
    /// The provider said that it has it.
    accepted: bool,
    attempts: u32,
    first_start: Option<Instant>,
    /// All attempts together.
    run: Duration,
    error: Option<Box<JobError>>,
    /// Something happened that only its record can explain.
    pub(super) doubtful: bool,
    /// The last look found no record.
    pub(super) missing: bool,
    /// The last look found that it ended after an attempt whose report was not heard.
    unheard: bool,
}

impl OpenJob {
    /// A line that is submitted now.
    pub(super) fn new(line: OpenLine, id: JobId, now: Instant, delay: Option<Duration>, ttl: Option<Duration>) -> Self {
        let after = |duration: Duration| now.checked_add(duration);
        Self {
            line,
            id,
            place: 0,
            due: delay.and_then(after).unwrap_or(now),
            expires: ttl.and_then(after),
            accepted: false,
            attempts: 0,
            first_start: None,
            run: Duration::ZERO,
            error: None,
            doubtful: false,
            missing: false,
            unheard: false,
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

    /// It was found to have ended after so many attempts. The report of the last of them may be on the way, and it alone knows
    /// the times: so that is believed once it was heard, or at the second look.
    pub(super) fn is_surely_over(&mut self, attempts: u32) -> bool {
        let heard = attempts <= self.attempts;
        heard || std::mem::replace(&mut self.unheard, true)
    }

    /// Counts an attempt that ran here, to its end or not.
    pub(super) fn ran(&mut self, attempt: u32, begun: Instant, run: Duration) {
        self.attempted(attempt);
        self.first_start = self.first_start.or(Some(begun));
        self.run += run;
    }

    /// Its last failure, unless another comes.
    pub(super) fn failed(&mut self, error: JobError) {
        self.error = Some(Box::new(error));
    }

    /// The line and the row it ends in. Without an error of its own, a job that did not complete keeps its last one.
    pub(super) fn end(self, status: Status, result: Option<Bytes>, error: Option<JobError>) -> (OpenLine, Row) {
        let error = || error.or(self.error.map(|error| *error));
        let row = Row {
            id: Some(self.id),
            line: self.line.number,
            status,
            attempts: self.attempts,
            result,
            error: if status == Status::Completed { None } else { error() },
            wait: self.first_start.map(|start| start.saturating_duration_since(self.due)).unwrap_or_default(),
            run: self.run,
        };
        (self.line, row)
    }
}

impl OpenJobs {
    /// Of a run: its queue, and the id that its jobs' are [numbered](JobId::numbered) in, most of them.
    pub(super) fn new(queue: QueueName, run: JobId) -> Self {
        let table = Table {
            jobs: Slab::new(),
            near: vec![u32::MAX; NEAR].into(),
            far: HashMap::new(),
            named: HashMap::new(),
            looked_until: 0,
        };
        Self(Arc::new(Books { queue, run, table: Mutex::new(table) }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reference(&self, open: &OpenJob) -> JobRef {
        JobRef { queue: self.0.queue.clone(), id: open.id, place: open.place }
    }

    /// A line is about to be submitted: before it is, so that nothing can happen to a job that is not known here.
    pub(super) fn open(&self, job: OpenJob) {
        let names_itself = job.id.number_in(self.0.run) == Some(job.line.number);
        self.table().open(job, names_itself);
    }

    /// The provider has it.
    pub(super) fn accepted(&self, job: &JobRef) {
        self.change(job.id, |open| (open.accepted, open.place) = (true, job.place));
    }

    /// What to remember of a job that goes on.
    pub(super) fn change(&self, id: JobId, change: impl FnOnce(&mut OpenJob)) {
        let mut table = self.table();
        let place = table.find(id, self.0.run);
        if let Some(open) = place.and_then(|place| table.jobs.get_mut(place)) {
            change(open);
        }
    }

    /// A line that ends. `None` where it has ended, or is none of ours.
    pub(super) fn take(&self, id: JobId) -> Option<OpenJob> {
        let mut table = self.table();
        let place = table.find(id, self.0.run)?;
        Some(table.remove(place))
    }

    /// Every line that is left, in the order of the input.
    pub(super) fn take_all(&self) -> Vec<OpenJob> {
        let mut table = self.table();
        let mut all: Vec<OpenJob> = table.jobs.drain().collect();
        table.far.clear();
        table.named.clear();
        all.sort_unstable_by_key(|open| open.line.number);
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table().jobs.is_empty()
    }

    /// These are cut off, in their programs or before they were settled: their attempts count as far as they came.
    pub(super) fn cut_off<'a>(&self, at_work: impl Iterator<Item = &'a AtWork>) {
        let now = Instant::now();
        for AtWork { job, attempt, for_so_long, ended_after, .. } in at_work {
            let begun = now.checked_sub(*for_so_long).unwrap_or(now);
            self.change(*job, |open| open.ran(*attempt, begun, ended_after.unwrap_or(*for_so_long)));
        }
    }

    /// What runs and what waits, the first lines of each.
    pub(super) fn look_over(&self, at_work: &[AtWork], many: usize) -> why::Open {
        let at_work: StdMap<JobId, &AtWork> = at_work.iter().map(|at_work| (at_work.job, at_work)).collect();
        let mut found = why::Open::default();
        for open in self.table().in_order() {
            let line = open.line.number;
            match at_work.get(&open.id) {
                Some(AtWork { attempt, for_so_long, .. }) => {
                    found.running_total += 1;
                    if found.running.len() < many {
                        found.running.push(why::AtWork { line, attempt: *attempt, since: *for_so_long });
                    }
                }
                None => {
                    found.waiting_total += 1;
                    if found.waiting.len() < many && open.accepted {
                        found.waiting.push(why::Waiting { line, job: self.reference(open) });
                    }
                }
            }
        }
        found
    }

    /// Everything that is open and accepted.
    pub(super) fn all(&self) -> Vec<JobRef> {
        let table = self.table();
        let accepted = table.jobs.iter().map(|(_, open)| open).filter(|open| open.accepted);
        accepted.map(|open| self.reference(open)).collect()
    }

    /// What does not run and was to have expired that long ago.
    pub(super) fn overdue(&self, by: Duration, at_work: &[AtWork]) -> Vec<JobId> {
        let now = Instant::now();
        let at_work: HashSet<JobId> = at_work.iter().map(|at_work| at_work.job).collect();
        let table = self.table();
        let overdue = |open: &&OpenJob| {
            let end = open.expires.and_then(|end| end.checked_add(by));
            open.accepted && end.is_some_and(|end| end <= now) && !at_work.contains(&open.id)
        };
        table.jobs.iter().map(|(_, open)| open).filter(overdue).map(|open| open.id).collect()
    }

    /// Whose records to look at now: the doubtful, and as many others as are asked for, each in its turn.
    pub(super) fn to_look_at(&self, others: usize) -> Vec<JobRef> {
        let mut table = self.table();
        let in_order = table.in_order();
        let is_due = |open: &&OpenJob| open.accepted && (open.doubtful || open.missing || open.unheard);
        let mut chosen: Vec<JobRef> =
            in_order.iter().copied().filter(is_due).map(|open| self.reference(open)).collect();
        let (before, behind) =
            in_order.split_at(in_order.partition_point(|open| open.line.number <= table.looked_until));
        let mut last = table.looked_until;
        // At the end, from the beginning.
        for open in behind.iter().chain(before).take(others) {
            last = open.line.number;
            if open.accepted && !is_due(open) {
                chosen.push(self.reference(open));
            }
        }
        table.looked_until = last;
        chosen
    }
}

impl Table {
    fn open(&mut self, job: OpenJob, names_itself: bool) {
        let (id, line) = (job.id, job.line.number);
        let place = self.jobs.insert(job) as u32;
        if !names_itself {
            self.named.insert(id, line);
        }
        let older = std::mem::replace(&mut self.near[near(line)], place);
        // Long under way, it gives its place to the newer one; or it has ended, and whoever is there now is not meant.
        if older != place
            && let Some(older_line) = self.jobs.get(older as usize).map(|open| open.line.number)
            && near(older_line) == near(line)
        {
            self.far.insert(older_line, older);
        }
    }

    /// Where a job is in `jobs`.
    fn find(&self, id: JobId, run: JobId) -> Option<usize> {
        let line = self.named.get(&id).copied().or_else(|| id.number_in(run))?;
        let is_it = |place: &usize| self.jobs.get(*place).is_some_and(|open| open.id == id);
        let near = Some(self.near[near(line)] as usize).filter(is_it);
        near.or_else(|| self.far.get(&line).map(|place| *place as usize).filter(is_it))
    }

    fn remove(&mut self, place: usize) -> OpenJob {
        let open = self.jobs.remove(place);
        if !self.far.is_empty() {
            self.far.remove(&open.line.number);
        }
        if !self.named.is_empty() {
            self.named.remove(&open.id);
        }
        open
    }

    /// In the order of the input. Lines come and go by the thousand for each look round, so they are put in order here.
    fn in_order(&self) -> Vec<&OpenJob> {
        let mut all: Vec<&OpenJob> = self.jobs.iter().map(|(_, open)| open).collect();
        all.sort_unstable_by_key(|open| open.line.number);
        all
    }
}

#[allow(clippy::cast_possible_truncation, reason = "of the number only its end is wanted")]
fn near(line: u64) -> usize {
    line as usize % NEAR
}

#[cfg(test)]
mod tests;
