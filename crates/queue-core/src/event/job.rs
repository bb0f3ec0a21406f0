//! What happened to a job, as others hear of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    job::{Envelope, JobKind, JobRef, SlaClass, Timestamp},
    limit::SlaCompliance,
};

/// The kinds of [`JobEvent`]. Each fires once, from the winner of the compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobEventKind {
    /// The provider accepted it.
    Submitted,
    /// A worker claimed it.
    Started,
    /// The handler said how far it is.
    Progress,
    /// It finished well.
    Completed,
    /// An attempt failed and another follows.
    Retrying,
    /// It is dead.
    DeadLettered,
    /// It was cancelled.
    Cancelled,
    /// A running job was asked to stop.
    CancelRequested,
    /// Its time to live passed before it was started.
    Expired,
    /// It was handed back without spending an attempt.
    Released,
    /// Its worker fell silent.
    LeaseLost,
    /// It waits for a key.
    Parked,
    /// An operator gave it another life.
    Redriven,
}

impl JobEventKind {
    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Completed => "completed",
            Self::Retrying => "retrying",
            Self::DeadLettered => "dead_lettered",
            Self::Cancelled => "cancelled",
            Self::CancelRequested => "cancel_requested",
            Self::Expired => "expired",
            Self::Released => "released",
            Self::LeaseLost => "lease_lost",
            Self::Parked => "parked",
            Self::Redriven => "redriven",
        }
    }

    /// The name on the wire of the live-event interfaces.
    #[must_use]
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Submitted => "job:submitted",
            Self::Started => "job:processing",
            Self::Progress => "job:progress",
            Self::Completed => "job:completed",
            Self::Retrying => "job:retried",
            Self::DeadLettered => "job:dead-letter",
            Self::Cancelled => "job:cancelled",
            Self::CancelRequested => "job:cancel-requested",
            Self::Expired => "job:expired",
            Self::Released => "job:released",
            Self::LeaseLost => "job:lease-lost",
            Self::Parked => "job:parked",
            Self::Redriven => "job:redriven",
        }
    }

    /// Its other name there, where it has two: a job that has failed for good is dead.
    #[must_use]
    pub const fn wire_alias(self) -> Option<&'static str> {
        match self {
            Self::DeadLettered => Some("job:failed"),
            _ => None,
        }
    }

    /// Whether the job is over after it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::DeadLettered | Self::Cancelled | Self::Expired)
    }
}

/// One thing that happened to one job. A hint: it may repeat, and may be missed; the record is the truth.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JobEvent {
    /// When, by the store's clock.
    pub at: Timestamp,
    /// To which job.
    pub job: JobRef,
    /// The job's kind.
    pub kind: JobKind,
    /// What happened.
    pub what: JobEventKind,
    /// In which attempt.
    pub attempt: u32,
    /// With [`JobEventKind::Progress`], what the handler said: JSON of [`Progress`].
    pub progress: Option<Bytes>,
    /// With [`JobEventKind::Completed`], whether the job kept to its SLA class, where it has one. Without a store it counts from
    /// when the job was made, by its submitter's clock.
    pub sla: Option<SlaCompliance>,
    /// With `sla`, the class.
    pub sla_class: Option<SlaClass>,
}

impl JobEvent {
    /// An event without details.
    #[must_use]
    pub fn new(at: Timestamp, job: JobRef, kind: JobKind, what: JobEventKind, attempt: u32) -> Self {
        Self { at, job, kind, what, attempt, progress: None, sla: None, sla_class: None }
    }

    /// The event of a job without a record: what became of it is in the envelope alone.
    pub(crate) fn of_envelope(
        at: Timestamp,
        job: JobRef,
        envelope: &Envelope,
        what: JobEventKind,
        attempt: u32,
    ) -> Self {
        let mut event = Self::new(at, job, envelope.kind.clone(), what, attempt);
        if what == JobEventKind::Completed {
            event.sla_class = envelope.sla();
            event.sla = event.sla_class.map(|class| class.compliance(at - envelope.created_at));
        }
        event
    }
}

/// How far a running job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0.0 to 100.0.
    pub percent: f64,
    /// The step it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
