//! What lies in a model broker: bytes, and what the broker notes on them.

use std::collections::BTreeMap;

use bytes::Bytes;
use queue_core::{
    JobId, QueueSpec, Timestamp,
    job::{ContentType, Envelope, FrameError},
};

pub(super) const BANDS: usize = 4;

/// One message. The broker looks at none of its bytes.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Its name, for as long as it exists.
    pub(super) number: u64,
    /// Its place in line; a new one each time it joins the tail.
    pub(super) place: u64,
    pub(super) wire: Bytes,
    pub(super) band: u8,
    /// It waits, or waited, because an attempt failed.
    pub(super) retry: bool,
    /// When it was ready.
    pub(super) since: Timestamp,
    /// How often it was taken before without being settled, as far as the shape counts that.
    pub(super) returns: u32,
    pub(super) redelivered: bool,
}

/// What the bytes turn out to be.
#[derive(Debug)]
pub(super) enum Reading {
    Job(Envelope),
    Newer,
    Broken(FrameError),
}

impl Message {
    pub(super) fn read(&self, spec: &QueueSpec) -> Reading {
        match Envelope::decode(self.wire.clone()) {
            Ok(envelope) => Reading::Job(envelope),
            Err(FrameError::Foreign) => Reading::Job(self.adopt(spec)),
            Err(FrameError::Newer { .. }) => Reading::Newer,
            Err(error) => Reading::Broken(error),
        }
    }

    /// Two equal plain messages are two jobs, and each keeps its id over redeliveries: it follows from the number.
    pub(super) fn derived_id(&self) -> JobId {
        JobId::derive(&self.wire, self.number)
    }

    fn adopt(&self, spec: &QueueSpec) -> Envelope {
        let mut parts = Envelope::builder(self.derived_id(), spec.default_kind.clone(), self.wire.clone(), self.since);
        parts.content_type = ContentType::Bytes;
        parts.priority = spec.default_priority;
        parts.timeout = spec.timeout;
        parts.expires_at = spec.ttl.map(|ttl| self.since + ttl);
        parts.seal()
    }
}

/// Messages that may be taken, a line per band. What comes back stands where it stood.
#[derive(Debug, Default)]
pub(super) struct Ready([BTreeMap<u64, Message>; BANDS]);

impl Ready {
    pub(super) fn insert(&mut self, message: Message) {
        self.0[band_index(message.band)].insert(message.place, message);
    }

    pub(super) fn pop(&mut self) -> Option<Message> {
        self.0.iter_mut().rev().find_map(BTreeMap::pop_first).map(|(_, message)| message)
    }

    pub(super) fn highest(&self) -> Option<u8> {
        self.0.iter().rev().find_map(BTreeMap::first_key_value).map(|(_, message)| message.band)
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.0.iter().filter_map(|band| band.values().map(|message| message.since).min()).min()
    }

    pub(super) fn clear(&mut self) -> usize {
        let removed = self.len();
        *self = Self::default();
        removed
    }
}

/// A band as an index that cannot be out of range.
pub(super) fn band_index(band: u8) -> usize {
    usize::from(band).min(BANDS - 1)
}
