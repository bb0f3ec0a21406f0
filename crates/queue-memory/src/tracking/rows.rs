//! What the journal keeps of a tracking store, row by row.
//!
//! Times are wall-clock times, as everywhere in the journal. A record is one row as it was staged; what became of it since is
//! a second one, which is written anew with every change, and never without what it says being whole.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::job::{Envelope, JobId, JobRef, QueueName, StoreId, Timestamp, UniqueKey};

use super::{
    record::{Copy, Origin, Tracked},
    tombstones::Kind,
};
use crate::{
    queue::{Now, nanos},
    rows::{Broken, Reader, StateRow, Writer},
};

const VERSION: u8 = 1;

/// Whose journal it is, under this key among the notes.
pub(super) const OWNER: &[u8] = b"tracking";

const ANNOUNCED: u8 = 1;
const STAGED: u8 = 2;

/// What begins the key of a unique key, of a tombstone, of a watermark.
const UNIQUE: u8 = b'k';
const STONE: u8 = b't';
const WATERMARK: u8 = b'w';

fn start(row: Bytes) -> Result<Reader, Broken> {
    let mut row = Reader::new(row);
    match row.byte()? {
        VERSION => Ok(row),
        newer if newer > VERSION => Err(Broken::Newer(newer)),
        _ => Err(Broken::Record("there is no such version")),
    }
}

fn writer(capacity: usize) -> Writer {
    let mut out = Writer::with_capacity(1 + capacity);
    out.byte(VERSION);
    out
}

/// The store, and how often it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnerRow {
    pub(super) id: StoreId,
    pub(super) opened: u64,
}

impl OwnerRow {
    pub(super) fn encode(self) -> Bytes {
        let mut out = writer(16);
        out.long(self.id.0.get());
        out.long(self.opened);
        out.freeze()
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let id = row.long()?.try_into().map(StoreId).map_err(|_| Broken::Record("a store without an id"))?;
        let found = Self { id, opened: row.long()? };
        row.end()?;
        Ok(found)
    }
}

/// A queue's switches and totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct QueueRow {
    pub(super) version: u64,
    pub(super) paused: bool,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

impl QueueRow {
    pub(super) fn encode(self) -> Bytes {
        let mut out = writer(33);
        out.long(self.version);
        out.byte(u8::from(self.paused));
        out.long(self.submitted);
        out.long(self.completed);
        out.long(self.failed);
        out.freeze()
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let found = Self {
            version: row.long()?,
            paused: row.flag()?,
            submitted: row.long()?,
            completed: row.long()?,
            failed: row.long()?,
        };
        row.end()?;
        Ok(found)
    }
}

/// What a record is, and where its newest copy is.
#[derive(Debug)]
pub(super) struct RecordRow {
    pub(super) place: u16,
    pub(super) announced: bool,
    /// Until when, for how long, and why.
    pub(super) staged: Option<(Timestamp, Duration, Origin)>,
    pub(super) claimed: u32,
    pub(super) due: Option<Timestamp>,
    pub(super) lease: Duration,
    pub(super) state: StateRow,
}

impl RecordRow {
    pub(super) fn encode(record: &Tracked, now: Now) -> Bytes {
        let state = StateRow::encode(&record.job, record.worker.as_deref(), now);
        let mut out = writer(50 + state.len());
        let staged = match record.copy {
            Copy::Staged { until, lease, origin } => Some((until, lease, origin)),
            Copy::Sent => None,
        };
        let flags = [(ANNOUNCED, record.announced), (STAGED, staged.is_some())];
        out.byte(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum());
        if let Some((until, lease, origin)) = staged {
            out.time(Some(now.time_of(until)));
            out.long(nanos(lease));
            out.byte(match origin {
                Origin::Fresh => 0,
                Origin::Redriven => 1,
                Origin::Promised => 2,
            });
        }
        out.word(u32::from(record.place));
        out.word(record.claimed);
        out.time(record.due);
        out.long(nanos(record.lease));
        out.raw(&state);
        out.freeze()
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let flags = row.byte()?;
        if flags > ANNOUNCED + STAGED {
            return Err(Broken::Record("there are no such flags"));
        }
        let staged = if flags & STAGED != 0 { Some(staged(&mut row)?) } else { None };
        let place = row.word()?.try_into().map_err(|_| Broken::Record("there is no such place"))?;
        Ok(Self {
            place,
            announced: flags & ANNOUNCED != 0,
            staged,
            claimed: row.word()?,
            due: row.time()?,
            lease: Duration::from_nanos(row.long()?),
            state: StateRow::decode(row.rest())?,
        })
    }
}

fn staged(row: &mut Reader) -> Result<(Timestamp, Duration, Origin), Broken> {
    let until = row.time()?.ok_or(Broken::Record("a stage without an end"))?;
    let lease = Duration::from_nanos(row.long()?);
    let origin = match row.byte()? {
        0 => Origin::Fresh,
        1 => Origin::Redriven,
        2 => Origin::Promised,
        _ => return Err(Broken::Record("there is no such origin")),
    };
    Ok((until, lease, origin))
}

/// A record when its newest copy was staged: what it was then stands until a [`RecordRow`] of its own says more.
#[derive(Debug)]
pub(super) struct BirthRow {
    pub(super) queue: QueueName,
    pub(super) provider: Arc<str>,
    pub(super) submitted_at: Timestamp,
    pub(super) record: RecordRow,
    pub(super) envelope: Envelope,
}

impl BirthRow {
    pub(super) fn encode(record: &Tracked, now: Now) -> Bytes {
        let state = RecordRow::encode(record, now);
        let frame = record.job.envelope.encode();
        let mut out = writer(40 + record.queue.as_str().len() + record.provider.len() + state.len() + frame.len());
        out.bytes(record.queue.as_str().as_bytes());
        out.bytes(record.provider.as_bytes());
        out.time(Some(record.job.submitted_at));
        out.bytes(&state);
        out.raw(&frame);
        out.freeze()
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let queue = queue(&row.text()?)?;
        let provider = row.text()?.into();
        let submitted_at = row.time()?.ok_or(Broken::Record("a job without a date"))?;
        let record = RecordRow::decode(row.bytes()?)?;
        let envelope = Envelope::decode(row.rest()).map_err(|_| Broken::Record("its envelope"))?;
        Ok(Self { queue, provider, submitted_at, record, envelope })
    }
}

/// What is kept beside the records, each under a key of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Aside {
    Unique { queue: QueueName, key: UniqueKey, id: JobId, until: Option<Timestamp> },
    Stone { serial: u64, job: JobRef, kind: Kind, laid: Timestamp },
    Watermark { queue: QueueName, mark: Timestamp },
}

pub(super) fn unique_key(queue: &QueueName, key: &UniqueKey) -> Vec<u8> {
    let mut row = queue_key(UNIQUE, queue);
    // No queue's name has a zero in it.
    row.push(0);
    row.extend_from_slice(key.as_str().as_bytes());
    row
}

pub(super) fn stone_key(serial: u64) -> Vec<u8> {
    [&[STONE][..], &serial.to_be_bytes()].concat()
}

pub(super) fn watermark_key(queue: &QueueName) -> Vec<u8> {
    queue_key(WATERMARK, queue)
}

fn queue_key(kind: u8, queue: &QueueName) -> Vec<u8> {
    [&[kind], queue.as_str().as_bytes()].concat()
}

impl Aside {
    pub(super) fn encode(&self) -> (Vec<u8>, Bytes) {
        let mut out = writer(64);
        let key = match self {
            Self::Unique { queue, key, id, until } => {
                out.raw(id.as_bytes());
                out.time(*until);
                unique_key(queue, key)
            }
            Self::Stone { serial, job, kind, laid } => {
                out.raw(job.id.as_bytes());
                out.time(Some(*laid));
                out.byte(match kind {
                    Kind::Evicted => 0,
                    Kind::Withdrawn => 1,
                });
                out.raw(job.queue.as_str().as_bytes());
                stone_key(*serial)
            }
            Self::Watermark { queue, mark } => {
                out.time(Some(*mark));
                watermark_key(queue)
            }
        };
        (key, out.freeze())
    }

    pub(super) fn decode(key: &[u8], row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let (kind, key) = key.split_first().ok_or(Broken::Record("a row without a key"))?;
        match *kind {
            UNIQUE => {
                let nonsense = Broken::Record("a key of a queue");
                let at = key.iter().position(|byte| *byte == 0).ok_or(nonsense)?;
                let unique = UniqueKey::new(text(&key[at + 1..])?).map_err(|_| nonsense)?;
                let (id, until) = (id(&mut row)?, row.time()?);
                row.end()?;
                Ok(Self::Unique { queue: queue(text(&key[..at])?)?, key: unique, id, until })
            }
            STONE => {
                let serial = key.try_into().map(u64::from_be_bytes).map_err(|_| Broken::Record("a stone's number"))?;
                let id = id(&mut row)?;
                let laid = row.time()?.ok_or(Broken::Record("a stone without a date"))?;
                let kind = if row.flag()? { Kind::Withdrawn } else { Kind::Evicted };
                Ok(Self::Stone { serial, job: JobRef::new(queue(text(&row.rest())?)?, id), kind, laid })
            }
            WATERMARK => {
                let mark = row.time()?.ok_or(Broken::Record("a watermark without a date"))?;
                row.end()?;
                Ok(Self::Watermark { queue: queue(text(key)?)?, mark })
            }
            _ => Err(Broken::Record("there is no such kind of key")),
        }
    }
}

fn id(row: &mut Reader) -> Result<JobId, Broken> {
    let bytes = row.take(16)?;
    bytes.as_ref().try_into().map(JobId::from_bytes).map_err(|_| Broken::Record("an id"))
}

fn text(bytes: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken::Record("a text is not UTF-8"))
}

pub(super) fn queue(name: &str) -> Result<QueueName, Broken> {
    QueueName::new(name).map_err(|_| Broken::Record("a queue's name"))
}
