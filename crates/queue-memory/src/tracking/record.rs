//! One tracked job, and where its newest copy is.

use std::{sync::Arc, time::Duration};

use queue_core::{
    job::{Envelope, JobRef, QueueName, Timestamp},
    lifecycle::JobState,
    store::{Fence, JobRecord, StagedJob},
};

use super::records::Row;
use crate::queue::{Entry, Moment, Now};

/// One job. What it has in common with a job of the provider is the same [`Entry`]; its envelope is the newest copy.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) queue: QueueName,
    /// As the transport said when it took or delivered a copy.
    pub(super) place: u16,
    /// Whose transport carries it.
    pub(super) provider: Arc<str>,
    /// `turn_at` is the end of a lease, a delay or a park; `ticket` is the fence's epoch while the job runs.
    pub(super) job: Entry,
    pub(super) copy: Copy,
    /// Who has it, or had it last.
    pub(super) worker: Option<Arc<str>>,
    /// The generation of the copy that was claimed last: a dead lease is staged anew without ending its fence.
    pub(super) claimed: u32,
    /// When a scheduled or retrying job is due.
    pub(super) due: Option<Timestamp>,
    /// Its submission was told.
    pub(super) announced: bool,
    /// How long its last claim or heartbeat said that the lease lasts.
    pub(super) lease: Duration,
    /// Where the sweep finds it.
    pub(super) listed: Option<(Agenda, Moment)>,
    /// Where its queue's line of ready jobs has it.
    pub(super) in_line: Option<Timestamp>,
    /// Its time to live passed while it ran, or seemed to: should its lease be dead, the transport may have no copy left.
    pub(super) outlived: bool,
    /// It may have been claimed by a process that died before the claim was written.
    pub(super) suspect: bool,
    pub(super) row: Row,
    /// The copy that its row in the journal holds; `None` while there is no row.
    pub(super) kept: Option<Envelope>,
    /// It differs from what the journal was given.
    pub(super) changed: bool,
}

/// Where the newest copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// The transport has it, or nobody needs it (parked, finished).
    Sent,
    /// It is still to be published, by its publisher until the stage lease ends, then by the sweep.
    Staged {
        /// End of the stage lease, or of the hold.
        until: Moment,
        /// How long the publisher has, whatever is left of it.
        lease: Duration,
        /// Whether a refusal may undo it.
        origin: Origin,
    },
}

/// Why a copy was staged, which decides whether its publisher may take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A new job, known to one publisher only: it may still be refused.
    Fresh,
    /// A dead job's next life, known to one publisher only.
    Redriven,
    /// It follows from an accepted job, or others may have published it too: it will be delivered.
    Promised,
}

/// The sweep's two lists: what must be published, and who may have died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agenda {
    Owed,
    Leases,
}

impl Tracked {
    pub(super) fn generation(&self) -> u32 {
        self.job.envelope.generation
    }

    pub(super) fn is(&self, queue: &QueueName, id: queue_core::JobId) -> bool {
        self.job.envelope.id == id && self.queue == *queue
    }

    pub(super) fn reference(&self) -> JobRef {
        JobRef { place: self.place, ..JobRef::new(self.queue.clone(), self.job.envelope.id) }
    }

    pub(super) fn is_parked(&self) -> bool {
        self.job.parked().is_some()
    }

    /// A fence stands until somebody else claims or the job is settled, also when its lease is over.
    pub(super) fn is_held_by(&self, fence: Fence) -> bool {
        self.job.state == JobState::Running && self.job.ticket == fence.epoch && self.claimed == fence.generation
    }

    /// Where the sweep must look for it, and not before when.
    pub(super) fn appointment(&self) -> Option<(Agenda, Moment)> {
        let turn = self.job.turn_at;
        match (self.job.state, self.copy) {
            (state, _) if state.is_terminal() => None,
            // A copy that was staged for a dead lease waits while its holder shows signs of life again.
            (JobState::Running, Copy::Staged { until, .. }) => Some((Agenda::Leases, until.max(turn))),
            // A newer copy than the claimed one is on its way already, as long as its time to live lasts.
            (JobState::Running, Copy::Sent) => {
                (self.outlived || self.claimed == self.generation()).then_some((Agenda::Leases, turn))
            }
            (_, Copy::Staged { until, .. }) => Some((Agenda::Owed, until)),
            (_, Copy::Sent) => self.is_parked().then_some((Agenda::Owed, turn)),
        }
    }

    /// Since when it has been ready, if it is.
    pub(super) fn ready_since(&self) -> Option<Timestamp> {
        (self.job.state == JobState::Pending && !self.is_parked()).then_some(self.job.changed_at)
    }

    /// Makes the newest copy a new one, which outdates every copy before it.
    pub(super) fn renew_copy(&mut self) {
        let (attempt, deliveries) = (self.job.attempt, self.job.started_count);
        self.job.envelope = self.job.envelope.edit(|copy| {
            copy.generation = copy.generation.saturating_add(1);
            copy.attempt = attempt;
            copy.deliveries = deliveries;
        });
    }

    pub(super) fn staged(&self) -> StagedJob {
        StagedJob::new(Arc::clone(&self.provider), self.reference(), self.job.envelope.clone())
    }

    pub(super) fn record(&self, now: Now) -> JobRecord {
        let mut record = self.job.record(&self.queue, self.worker.clone(), now);
        record.job.place = self.place;
        record.due_at = self.due;
        record
    }
}
