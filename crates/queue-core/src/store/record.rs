//! All that is known of one job.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    job::{Envelope, JobError, JobRef, Timestamp},
    lifecycle::JobState,
    limit::SlaCompliance,
    provider::ParkKey,
};

/// All that is known of one job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobRecord {
    /// Which job.
    pub job: JobRef,
    /// What was submitted.
    pub envelope: Envelope,
    /// Where it is in its life.
    pub state: JobState,
    /// What a pending job waits for, if it is parked.
    pub parked: Option<ParkKey>,
    /// The current or last attempt, from 1.
    pub attempt: u32,
    /// Started deliveries that were counted and not settled; see [`crate::provider::Beat::started`].
    pub started_count: u32,
    /// Who holds it, or held it last.
    pub worker: Option<Arc<str>>,
    /// Until when the present holder's lease stands, by the store's clock: `Some` exactly while it runs. It may have passed: the
    /// job is the holder's until somebody notices.
    pub lease_ends: Option<Timestamp>,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When a scheduled or retrying job is due.
    pub due_at: Option<Timestamp>,
    /// When it was last claimed.
    pub started_at: Option<Timestamp>,
    /// When it finished.
    pub finished_at: Option<Timestamp>,
    /// Somebody asked it to stop.
    pub cancel_requested: bool,
    /// What the handler said last: JSON of [`crate::event::Progress`].
    pub progress: Option<Bytes>,
    /// What the handler returned.
    pub result: Option<Bytes>,
    /// The last failure.
    pub error: Option<JobError>,
    /// Failures before the last, the newest last, bounded.
    pub history: Vec<PastFailure>,
    /// What the handler logged, bounded.
    pub logs: Vec<Bytes>,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct PastFailure {
    /// Which attempt.
    pub attempt: u32,
    /// When it was settled.
    pub at: Timestamp,
    /// Why.
    pub error: JobError,
}

impl JobRecord {
    /// The most failures kept besides the last one.
    pub const MAX_HISTORY: usize = 16;
    /// The most log lines kept; older ones give way.
    pub const MAX_LOGS: usize = 100;
    /// The longest log line, in bytes; longer ones are cut.
    pub const MAX_LOG_LINE: usize = 1 << 10;

    /// A job that was just accepted.
    #[must_use]
    pub fn new(job: JobRef, envelope: Envelope, state: JobState, submitted_at: Timestamp) -> Self {
        Self {
            attempt: envelope.attempt,
            started_count: envelope.deliveries,
            due_at: envelope.not_before.filter(|_| state == JobState::Scheduled),
            job,
            envelope,
            state,
            parked: None,
            worker: None,
            lease_ends: None,
            submitted_at,
            started_at: None,
            finished_at: None,
            cancel_requested: false,
            progress: None,
            result: None,
            error: None,
            history: Vec::new(),
            logs: Vec::new(),
        }
    }

    /// Whether it kept to its SLA class: of a completed job that has one.
    #[must_use]
    pub fn sla(&self) -> Option<SlaCompliance> {
        let ended = self.finished_at.filter(|_| self.state == JobState::Completed)?;
        let class = self.envelope.sla()?;
        Some(class.compliance(ended - self.submitted_at))
    }

    /// From submission to the last claim.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        Some(self.started_at? - self.submitted_at)
    }
}
