//! One dead job.

use std::fmt;

use queue_core::{
    Error, ErrorCode, Job, Result,
    job::JobKind,
    provider::{DeadBody, DeadJob},
    store::{JobRecord, PastFailure},
};

/// A dead job with all that is known of it.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// What it was, and why it is dead.
    pub job: DeadJob,
    /// Its record, where it has one: when it was submitted, who ran it, what it logged.
    pub record: Option<JobRecord>,
}

impl DeadLetter {
    /// From the record of a dead job; the record itself where it does not say why it is dead.
    pub(super) fn of(record: JobRecord) -> Result<Self, Box<JobRecord>> {
        let (Some(error), Some(died_at)) = (record.error.clone(), record.finished_at) else {
            return Err(Box::new(record));
        };
        let body = DeadBody::Envelope(record.envelope.clone());
        let job = DeadJob { id: record.job.id, body, error, attempt: record.attempt, died_at };
        Ok(Self { job, record: Some(record) })
    }

    /// Its kind. `None` where its bytes were no job.
    #[must_use]
    pub fn kind(&self) -> Option<&JobKind> {
        match &self.job.body {
            DeadBody::Envelope(envelope) => Some(&envelope.kind),
            DeadBody::Raw(_) => None,
        }
    }

    /// Its payload; where its bytes were no job, all of them.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.job.body {
            DeadBody::Envelope(envelope) => &envelope.payload,
            DeadBody::Raw(bytes) => bytes,
        }
    }

    /// Its failures before the last, the newest last. Empty where it has no record.
    #[must_use]
    pub fn history(&self) -> &[PastFailure] {
        self.record.as_ref().map_or(&[], |record| &record.history)
    }

    /// The job as its type. Its rules are not checked: it may be dead because it breaks them.
    ///
    /// # Errors
    /// `VALIDATION` where it is of another kind, or its payload is no such job; the message repeats nothing of it.
    pub fn decode<J: Job>(&self) -> Result<J> {
        let refuse = |message: String| Error::new(ErrorCode::Validation, message).at("redrive");
        match self.kind() {
            Some(kind) if kind.as_str() == J::KIND => {}
            Some(kind) => return Err(refuse(format!("the job is of kind {kind}, not {}", J::KIND))),
            None => return Err(refuse("its bytes are no job".to_owned())),
        }
        let wrong = |error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            refuse(format!("the payload is no {}: line {line}, column {column}", J::KIND))
        };
        serde_json::from_slice(self.payload()).map_err(wrong)
    }
}

/// Shows no payload and no log.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.job.id)
            .field("kind", &self.kind())
            .field("error", &self.job.error)
            .field("attempt", &self.job.attempt)
            .field("died_at", &self.job.died_at)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}
