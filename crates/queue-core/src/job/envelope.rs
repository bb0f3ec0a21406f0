//! One job on its way, immutable and cheap to share.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ContentType, Headers, JobId, JobKind, Priority, RawHeaders, StoreId, Timestamp, frame};
use crate::{
    config::{defaults, millis},
    error::{Error, ErrorCode, Result},
};

/// Everything a worker needs to run a job, and a broker to carry it. A clone is a reference count.
///
/// It derefs to [`EnvelopeBuilder`] for reading; [`Envelope::edit`] makes a changed copy, such as a successor.
#[derive(Clone, PartialEq)]
pub struct Envelope(Arc<EnvelopeBuilder>);

/// The fields of an [`Envelope`], before it is sealed and through its `Deref` after.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct EnvelopeBuilder {
    /// The same for every copy of the job.
    pub id: JobId,
    /// Which handler runs it.
    pub kind: JobKind,
    /// How the payload is to be read.
    pub content_type: ContentType,
    /// Opaque here.
    pub payload: Bytes,
    /// 1 for the first execution. A lost lease adds a delivery, not an attempt.
    pub attempt: u32,
    /// Raised only when a *successor copy* is published (retry by copy, unpark, redrive). It fences old copies at claim:
    /// older than the record is dropped; newer (a store restored or failed over) is adopted and run.
    pub generation: u32,
    /// Started deliveries so far, where only the message can carry the count (a session broker without a store).
    pub deliveries: u32,
    /// The store that holds, or will adopt, the record; stamped also while the store is away. `None`: untracked.
    pub store: Option<StoreId>,
    /// Who runs first.
    pub priority: Priority,
    /// When it was submitted, by the submitter's clock.
    pub created_at: Timestamp,
    /// Not to be started before.
    pub not_before: Option<Timestamp>,
    /// Not to be started after, be it the first start or a later one: then it is expired.
    pub expires_at: Option<Timestamp>,
    /// The longest an attempt may run, in whole milliseconds.
    pub timeout: Duration,
    /// At most one such job at a time, or in a window.
    pub unique: Option<Box<Unique>>,
    /// What only some readers parse: retry policy, correlation, trace context, limit keys.
    pub headers: RawHeaders,
}

/// A unique key and how long it is held. The scope is the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// The key.
    pub key: UniqueKey,
    /// `None`: until the job is finished (dead is finished). `Some`: for this long from its publication, finished or not.
    #[serde(default, with = "millis::option", skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
}

/// The application's name for "the same job": 1 to 256 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UniqueKey(Arc<str>);

impl UniqueKey {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// `VALIDATION` where it is empty or longer than 256 bytes.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        match text.as_ref() {
            text if (1..=256).contains(&text.len()) => Ok(Self(Arc::from(text))),
            _ => Err(Error::new(ErrorCode::Validation, "a unique key has 1 to 256 bytes")),
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UniqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for UniqueKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::new(<std::borrow::Cow<'de, str>>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Envelope {
    /// A first attempt with the defaults of [`defaults`], to be changed field by field and then sealed.
    #[must_use]
    pub fn builder(id: JobId, kind: JobKind, payload: impl Into<Bytes>, created_at: Timestamp) -> EnvelopeBuilder {
        EnvelopeBuilder {
            id,
            kind,
            content_type: ContentType::Json,
            payload: payload.into(),
            attempt: 1,
            generation: 0,
            deliveries: 0,
            store: None,
            priority: Priority::NORMAL,
            created_at,
            not_before: None,
            expires_at: None,
            timeout: defaults::JOB_TIMEOUT,
            unique: None,
            headers: RawHeaders::default(),
        }
    }

    /// A changed copy. The payload and headers are shared, not copied.
    #[must_use]
    pub fn edit(&self, change: impl FnOnce(&mut EnvelopeBuilder)) -> Self {
        let mut parts = EnvelopeBuilder::clone(&self.0);
        change(&mut parts);
        parts.seal()
    }

    /// The size on the wire in bytes, against which every limit is checked.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        frame::encoded_len(&self.0)
    }

    /// The bytes on the wire, in [frame version 1](super::FRAME_VERSION).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        frame::encode(&self.0)
    }

    /// The same bytes, behind what `out` holds.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        frame::encode_into(&self.0, out);
    }

    /// Reads what [`Envelope::encode`] wrote. Payload and headers stay slices of `wire`.
    ///
    /// # Errors
    /// [`FrameError`](super::FrameError): a newer version is told apart from nonsense.
    pub fn decode(wire: Bytes) -> std::result::Result<Self, super::FrameError> {
        frame::decode(wire).map(EnvelopeBuilder::seal)
    }

    /// Its SLA class, where it has one.
    #[must_use]
    pub fn sla(&self) -> Option<super::SlaClass> {
        if self.0.headers.is_empty() { None } else { self.headers().ok()?.sla }
    }

    /// The partition that it names, if any: see [`crate::QueueSpec::partitions`]. Headers that cannot be read name none.
    #[must_use]
    pub fn partition(&self) -> Option<Arc<str>> {
        self.0.headers.partition()
    }

    /// The parsed headers.
    ///
    /// # Errors
    /// `UNDECODABLE` where they are not what any version wrote.
    pub fn headers(&self) -> Result<Headers> {
        self.0.headers.parse()
    }
}

impl EnvelopeBuilder {
    /// No further changes.
    #[must_use]
    pub fn seal(self) -> Envelope {
        Envelope(Arc::new(self))
    }
}

impl Deref for Envelope {
    type Target = EnvelopeBuilder;

    fn deref(&self) -> &EnvelopeBuilder {
        &self.0
    }
}

/// Shows the size of the payload, never the payload.
impl fmt::Debug for EnvelopeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("attempt", &self.attempt)
            .field("generation", &self.generation)
            .field("priority", &self.priority.level())
            .field("not_before", &self.not_before)
            .field("expires_at", &self.expires_at)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_leaves_the_original_and_shares_the_payload() {
        let payload = Bytes::from(vec![7; 200]);
        let id = JobId::derive(b"x", 0);
        let first = Envelope::builder(id, JobKind::from_static("k"), payload.clone(), Timestamp::from_millis(1)).seal();
        let second = first.edit(|parts| parts.attempt += 1);
        assert_eq!((first.attempt, second.attempt), (1, 2));
        assert_eq!(second.payload.as_ptr(), payload.as_ptr());
        assert_eq!(second.id, id);
    }

    #[test]
    fn debug_never_shows_the_payload() {
        let envelope = Envelope::builder(
            JobId::derive(b"x", 0),
            JobKind::from_static("k"),
            &b"s3cret"[..],
            Timestamp::from_millis(1),
        )
        .seal();
        let shown = format!("{envelope:?}");
        assert!(!shown.contains("s3cret") && shown.contains("payload_bytes: 6"), "{shown}");
    }
}
