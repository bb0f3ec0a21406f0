//! One job in memory.

use std::sync::Arc;

use bytes::Bytes;
use queue_core::{
    job::{Envelope, JobError, JobRef, QueueName, Timestamp},
    lifecycle::JobState,
    provider::{Cancel, Disposition, ParkKey},
    store::{JobRecord, PastFailure},
};

use super::{Now, changes::Row, lanes::Place, timers::Moment};
use crate::rows::StateRow;

/// One job. What few jobs have stands behind `details`, so that a waiting job stays small.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    /// Moves on with every transition, over all jobs of the queue: it is the lease epoch, and it dates places and timers.
    pub(crate) ticket: u64,
    /// When it last joined a tail, counted as tickets are: a return to the head keeps it.
    pub(crate) rank: u64,
    /// Which occupant of the slot this is.
    pub(crate) born: u32,
    pub(crate) state: JobState,
    /// Which partition of the queue it is in, for all its life.
    pub(crate) partition: u8,
    /// The start of the current delivery was counted in `started_count`.
    pub(crate) marked: bool,
    /// A lease of it was lost.
    pub(crate) orphaned: bool,
    pub(crate) attempt: u32,
    pub(crate) started_count: u32,
    /// The consumer that holds it, or held it last.
    pub(crate) holder: u32,
    /// When its state ends, if by time: lease, delay, park.
    pub(crate) turn_at: Moment,
    pub(crate) settled: Option<Settled>,
    pub(crate) submitted_at: Timestamp,
    /// When it came into its state.
    pub(crate) changed_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    /// Who has it, or had it last: a number of the queue's [`super::state::Workers`].
    pub(crate) worker: u32,
    /// Where it stands in the journal, if there is one.
    pub(crate) row: Row,
    details: Option<Box<Details>>,
}

/// What answered the last settlement, so that a repetition is told from a contradiction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) ticket: u64,
    print: u64,
}

impl Settled {
    pub(crate) fn new(ticket: u64, print: u64) -> Self {
        Self { ticket, print }
    }

    /// The ticket and the print, to be kept.
    pub(crate) fn parts(self) -> (u64, u64) {
        (self.ticket, self.print)
    }

    /// Whether it was this disposition, as far as can be told without the result.
    pub(crate) fn is(&self, disposition: &Disposition) -> bool {
        self.print == print(disposition)
    }
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Details {
    pub(crate) parked: Option<ParkKey>,
    pub(crate) cancel: Option<Cancel>,
    pub(crate) progress: Option<Bytes>,
    pub(crate) result: Option<Bytes>,
    pub(crate) error: Option<JobError>,
    pub(crate) history: Vec<PastFailure>,
    pub(crate) logs: Vec<Bytes>,
}

impl Details {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Entry {
    pub(crate) fn new(envelope: Envelope, state: JobState, ticket: u64, born: u32, at: Timestamp) -> Self {
        Self {
            attempt: envelope.attempt,
            started_count: envelope.deliveries,
            envelope,
            ticket,
            rank: ticket,
            born,
            state,
            partition: 0,
            marked: false,
            orphaned: false,
            holder: 0,
            turn_at: 0,
            settled: None,
            submitted_at: at,
            changed_at: at,
            started_at: None,
            worker: 0,
            row: Row::default(),
            details: None,
        }
    }

    /// As it was kept. Who has it, or had it last, is for the caller to say.
    #[allow(dead_code, reason = "of tracked jobs")]
    pub(crate) fn restored(envelope: Envelope, submitted_at: Timestamp, row: StateRow, born: u32, now: Now) -> Self {
        let mut entry = Self::new(envelope, row.state, row.ticket, born, submitted_at);
        entry.restore(row, now);
        entry
    }

    /// What became of it since it was published. Who has it, or had it last, is for the caller to say.
    pub(crate) fn restore(&mut self, row: StateRow, now: Now) {
        self.state = row.state;
        self.ticket = row.ticket;
        self.rank = row.rank;
        self.marked = row.marked;
        self.orphaned = row.orphaned;
        self.attempt = row.attempt;
        self.started_count = row.started_count;
        self.turn_at = row.turn_at.map_or(0, |time| now.moment_at(time));
        self.settled = row.settled;
        self.changed_at = row.changed_at;
        self.started_at = row.started_at;
        self.details = row.details;
    }

    pub(crate) fn details(&self) -> Option<&Details> {
        self.details.as_deref()
    }

    pub(crate) fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    pub(crate) fn cancel_requested(&self) -> Option<&Cancel> {
        self.details()?.cancel.as_ref()
    }

    /// Whoever asked meant the job's former life.
    pub(crate) fn drop_cancel_request(&mut self) {
        if let Some(details) = &mut self.details {
            details.cancel = None;
        }
    }

    pub(crate) fn parked(&self) -> Option<&ParkKey> {
        self.details()?.parked.as_ref()
    }

    /// Whatever happens to a parked job ends its being parked: what it was parked under.
    pub(crate) fn take_parked(&mut self, from: JobState) -> Option<ParkKey> {
        self.details.as_mut().filter(|_| from == JobState::Pending)?.parked.take()
    }

    /// The ticket as places and timers carry it. Should the cut-off bits ever collide, a pending job is met once too often.
    #[allow(clippy::cast_possible_truncation, reason = "see above")]
    pub(crate) fn short_ticket(&self) -> u32 {
        self.ticket as u32
    }

    pub(crate) fn stands_at(&self, place: Place) -> bool {
        self.state == JobState::Pending && self.short_ticket() == place.ticket && self.parked().is_none()
    }

    /// What it holds, as retention counts it.
    pub(crate) fn bytes(&self) -> u64 {
        let result = self.details().and_then(|details| details.result.as_ref()).map_or(0, Bytes::len);
        (self.envelope.encoded_len() + result) as u64
    }

    /// Keeps the last failure, and those before it within bounds.
    pub(crate) fn fail(&mut self, error: &JobError, at: Timestamp) {
        let attempt = self.attempt;
        let details = self.details_mut();
        details.history.push(PastFailure { attempt, at, error: error.clone() });
        if details.history.len() > JobRecord::MAX_HISTORY {
            details.history.remove(0);
        }
        details.error = Some(error.clone());
    }

    pub(crate) fn log(&mut self, lines: &[Bytes]) {
        let logs = &mut self.details_mut().logs;
        logs.extend(lines.iter().map(|line| line.slice(..line.len().min(JobRecord::MAX_LOG_LINE))));
        let excess = logs.len().saturating_sub(JobRecord::MAX_LOGS);
        logs.drain(..excess);
    }

    /// Counts the start of this delivery, once.
    pub(crate) fn mark_started(&mut self) {
        if !self.marked {
            self.marked = true;
            self.started_count = self.started_count.saturating_add(1);
        }
    }

    /// The delivery was settled, so its start ended well: only those that ended in a lost lease stay counted.
    fn take_mark_back(&mut self) {
        if std::mem::take(&mut self.marked) {
            self.started_count = self.started_count.saturating_sub(1);
        }
    }

    /// The delivery was settled. Who gives a job back unstarted says nothing of whether it ends whoever starts it: what was
    /// claimed before without being settled stays a redelivery.
    pub(crate) fn settle_delivery(&mut self, disposition: &Disposition) {
        let given_back = matches!(disposition, Disposition::Release { .. } | Disposition::Park { .. });
        self.orphaned &= given_back && !self.marked;
        self.take_mark_back();
    }

    pub(crate) fn remember_settlement(&mut self, ticket: u64, disposition: &Disposition) {
        self.settled = Some(Settled { ticket, print: print(disposition) });
    }

    /// Whether this very settlement was recorded; `None` where the receipt's claim was not settled at all.
    pub(crate) fn was_settled(&self, ticket: u64, disposition: &Disposition) -> Option<bool> {
        let settled = self.settled.filter(|settled| settled.ticket == ticket)?;
        Some(settled.is(disposition) && self.has_result_of(disposition))
    }

    /// Results are compared as they are: hashing each one would cost every settlement.
    fn has_result_of(&self, disposition: &Disposition) -> bool {
        match disposition {
            Disposition::Complete { result } => {
                self.details().and_then(|details| details.result.as_ref()) == result.as_ref()
            }
            _ => true,
        }
    }

    pub(crate) fn record(&self, queue: &QueueName, worker: Option<Arc<str>>, now: Now) -> JobRecord {
        let job = JobRef::new(queue.clone(), self.envelope.id);
        let mut record = JobRecord::new(job, self.envelope.clone(), self.state, self.submitted_at);
        record.attempt = self.attempt;
        record.started_count = self.started_count;
        record.worker = worker;
        record.started_at = self.started_at;
        let submitted_for_later = self.envelope.not_before.is_some_and(|due| due > now.wall);
        if self.state == JobState::Retrying || (self.state == JobState::Scheduled && !submitted_for_later) {
            let left = std::time::Duration::from_nanos(self.turn_at.saturating_sub(now.mono));
            record.due_at = Some(now.wall + left);
        }
        record.lease_ends = (self.state == JobState::Running).then(|| now.time_of(self.turn_at));
        record.finished_at = self.state.is_terminal().then_some(self.changed_at);
        if let Some(details) = self.details() {
            record.parked.clone_from(&details.parked);
            record.cancel_requested = details.cancel.is_some();
            record.progress.clone_from(&details.progress);
            record.result.clone_from(&details.result);
            record.error.clone_from(&details.error);
            record.history = details.history.clone();
            record.history.pop();
            record.logs.clone_from(&details.logs);
        }
        record
    }
}

/// Tells dispositions apart without keeping them.
fn print(disposition: &Disposition) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = match disposition {
        // The common case by far, and its result is compared separately.
        Disposition::Complete { .. } => return 1,
        Disposition::Cancelled => return 2,
        Disposition::Expired => return 3,
        _ => DefaultHasher::new(),
    };
    match disposition {
        Disposition::Retry { after, error } => {
            (4u8, after, error.code.as_ref(), &error.message, error.retryable).hash(&mut hasher);
        }
        Disposition::DeadLetter { error } => {
            (5u8, error.code.as_ref(), &error.message, error.retryable).hash(&mut hasher);
        }
        Disposition::Release { after, reason } => (6u8, after, reason).hash(&mut hasher),
        Disposition::Park { key, at_most } => (7u8, key, at_most).hash(&mut hasher),
        Disposition::Complete { .. } | Disposition::Cancelled | Disposition::Expired => {}
    }
    hasher.finish()
}
