//! What is still known of jobs whose records are gone.

use std::{collections::VecDeque, time::Duration};

use hashbrown::HashMap;
use queue_core::job::{JobId, JobRef, QueueName, Timestamp};

use crate::queue::{Moment, Now};

/// Keeps late copies of forgotten jobs from being adopted as new ones.
#[derive(Debug)]
pub(super) struct Tombstones {
    age: Duration,
    limit: usize,
    stones: HashMap<JobRef, Stone>,
    /// The oldest first. A stone that was lifted, or set again, leaves an outdated entry until its turn comes.
    line: VecDeque<(u64, Moment, JobRef)>,
    laid: u64,
    /// Stones that had to go: whatever is no younger than the youngest of them, and unknown, was forgotten.
    watermarks: HashMap<QueueName, Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Stone {
    serial: u64,
    kind: Kind,
}

/// Why there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It finished, and retention took it.
    Evicted,
    /// It was never accepted: its transport refused it, or its unique key was held.
    Withdrawn,
}

impl Tombstones {
    pub(super) fn new(age: Duration, limit: usize) -> Self {
        Self { age, limit, stones: HashMap::new(), line: VecDeque::new(), laid: 0, watermarks: HashMap::new() }
    }

    pub(super) fn lay(&mut self, job: JobRef, kind: Kind, now: Now) {
        self.laid += 1;
        let job = placeless(&job);
        self.stones.insert(job.clone(), Stone { serial: self.laid, kind });
        self.line.push_back((self.laid, now.mono, job));
        self.prune(now);
    }

    /// The job has a record again.
    pub(super) fn lift(&mut self, job: &JobRef) {
        self.stones.remove(&placeless(job));
    }

    /// Why the job has no record, as far as that is known.
    pub(super) fn kind(&self, queue: &QueueName, id: JobId) -> Option<Kind> {
        let job = JobRef::new(queue.clone(), id);
        if let Some(stone) = self.stones.get(&job) {
            return Some(stone.kind);
        }
        let forgotten = self.watermarks.get(queue).zip(id.created_at()).is_some_and(|(mark, made)| made <= *mark);
        forgotten.then_some(Kind::Evicted)
    }

    /// Whether this very job has a stone; the watermark says nothing of a job that is only now being published.
    pub(super) fn stone(&self, job: &JobRef) -> Option<Kind> {
        self.stones.get(&placeless(job)).map(|stone| stone.kind)
    }

    /// Forgets stones that are too old or too many, and raises the watermark by them.
    pub(super) fn prune(&mut self, now: Now) {
        let age = crate::queue::nanos(self.age);
        while let Some((_, laid, _)) = self.line.front() {
            if self.line.len() <= self.limit && now.mono < laid.saturating_add(age) {
                break;
            }
            let Some((serial, _, job)) = self.line.pop_front() else { break };
            if self.stones.get(&job).is_none_or(|stone| stone.serial != serial) {
                continue;
            }
            self.stones.remove(&job);
            if let Some(made) = job.id.created_at() {
                let mark = self.watermarks.entry(job.queue).or_insert(made);
                *mark = (*mark).max(made);
            }
        }
    }
}

/// A job is the same one wherever the transport keeps it.
fn placeless(job: &JobRef) -> JobRef {
    JobRef::new(job.queue.clone(), job.id)
}
