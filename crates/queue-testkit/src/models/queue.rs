//! One queue of a model broker: the line, what waits for its time, and what is dead.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, JobError, QueueSpec, Timestamp,
    config::defaults,
    provider::{DeadBody, DeadJob},
    stats::QueueStats,
};

use super::{
    line::{Ground, Line, MemberId},
    message::Message,
};

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) spec: QueueSpec,
    pub(super) paused: bool,
    pub(super) line: Box<dyn Line>,
    /// By due time on the monotonic clock, then by number.
    delayed: BTreeMap<(Duration, u64), Message>,
    /// By a number that rises with the time of death.
    pub(super) dead: BTreeMap<u64, DeadJob>,
    pub(super) totals: Totals,
    ground: Ground,
}

#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

/// What is written to a queue.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) wire: Bytes,
    pub(super) band: u8,
    pub(super) retry: bool,
    pub(super) delay: Duration,
}

impl Queue {
    pub(super) fn new(spec: QueueSpec, line: Box<dyn Line>, ground: Ground) -> Self {
        let (delayed, dead) = (BTreeMap::new(), BTreeMap::new());
        Self { spec, paused: false, line, delayed, dead, totals: Totals::default(), ground }
    }

    pub(super) fn put(&mut self, letter: Letter) {
        let Letter { wire, band, retry, delay } = letter;
        let (number, place, since) = (self.ground.number(), self.ground.number(), self.ground.wall());
        let message = Message { number, place, wire, band, retry, since, returns: 0, redelivered: false };
        if delay.is_zero() {
            self.line.put(message);
        } else {
            self.delayed.insert((self.ground.now().saturating_add(delay), number), message);
        }
    }

    /// Time passes. Returns the members whose session the broker ended.
    pub(super) fn refresh(&mut self) -> Vec<MemberId> {
        let now = self.ground.now();
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let mut message = entry.remove();
            message.place = self.ground.number();
            message.since = self.ground.wall();
            self.line.put(message);
        }
        self.line.sweep()
    }

    /// When [`Queue::refresh`] has something to do next, on the monotonic clock.
    pub(super) fn next(&self) -> Option<Duration> {
        let due = self.delayed.first_key_value().map(|((due, _), _)| *due);
        [due, self.line.next()].into_iter().flatten().min()
    }

    /// What `max_len` counts.
    pub(super) fn waiting(&self) -> u64 {
        (self.line.pending() + self.delayed.len()) as u64
    }

    /// Nothing waits and nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.line.census().running == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting() >= self.spec.max_len.unwrap_or(defaults::MEMORY_MAX_LEN)
    }

    pub(super) fn purge(&mut self) -> u64 {
        let waited = self.delayed.len();
        self.delayed.clear();
        (waited + self.line.purge()) as u64
    }

    pub(super) fn bury(&mut self, dead: DeadJob) -> Result<(), Error> {
        if self.dead.len() as u64 >= defaults::MEMORY_MAX_LEN {
            let message = "the dead-letter queue is full: redrive or remove dead jobs";
            return Err(Error::new(ErrorCode::QueueFull, message).on(&self.spec.name));
        }
        self.dead.insert(self.ground.number(), dead);
        Ok(())
    }

    /// Forgets what has been dead for longer than the retention.
    pub(super) fn forget_old_dead(&mut self) {
        let (now, keep) = (self.ground.wall(), self.spec.retention.dead);
        self.dead.retain(|_, dead| now - dead.died_at <= keep);
    }

    pub(super) fn stats(&self, exact: bool) -> QueueStats {
        let census = self.line.census();
        let retrying = self.delayed.values().filter(|message| message.retry).count() as u64;
        let mut stats = QueueStats::empty(self.spec.name.clone());
        stats.exact = exact;
        stats.paused = self.paused;
        stats.pending = self.line.pending() as u64;
        stats.running = census.running;
        stats.oldest_pending = census.oldest;
        stats.scheduled = self.delayed.len() as u64 - retrying;
        stats.retrying = retrying;
        stats.dead = self.dead.len() as u64;
        stats.submitted_total = self.totals.submitted;
        stats.completed_total = self.totals.completed;
        stats.failed_total = self.totals.failed;
        stats
    }
}

/// Bytes that nobody can read, kept as they came.
pub(super) fn unreadable(message: &Message, why: &str, at: Timestamp) -> DeadJob {
    DeadJob {
        id: message.derived_id(),
        body: DeadBody::Raw(message.wire.clone()),
        error: JobError::new(ErrorCode::Undecodable, why),
        attempt: 1,
        died_at: at,
    }
}
