//! What the journal keeps of a tracking store, row by row.
//!
//! The records as they were staged are a table of their own, which begins with whose they are: so that neither a memory
//! provider nor a tracking store mistakes the other's journal for its own. All the rest is in the table beside it.
//!
//! Times are wall-clock times, as everywhere in the journal. A record is one row as it was staged; what became of it since is
//! a second one, which is written anew with every change, and never without what it says being whole.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    job::{Envelope, JobId, JobRef, QueueName, StoreId, Timestamp, UniqueKey},
    queue_spec::Retention,
};

use super::{
    record::{Copy, Origin, Tracked},
    tombstones::Kind,
};
use crate::{
    queue::{Now, nanos},
    rows::{Broken, Reader, StateRow, Writer},
};

const VERSION: u8 = 1;
/// Of a queue's row in which its retention is noted.
const NOTED: u8 = 2;

/// Whose journal it is: before all records.
pub(super) const OWNER: &[u8] = b"";

const ANNOUNCED: u8 = 1;
const STAGED: u8 = 2;

fn start(row: Bytes) -> Result<Reader, Broken> {
    start_of(row, VERSION).map(|(row, _)| row)
}

/// A row whose newest version is another, and the version it has.
fn start_of(row: Bytes, newest: u8) -> Result<(Reader, u8), Broken> {
    let mut row = Reader::new(row);
    match row.byte()? {
        version if (VERSION..=newest).contains(&version) => Ok((row, version)),
        newer if newer > newest => Err(Broken::Newer(newer)),
        _ => Err(Broken::Record("there is no such version")),
    }
}

fn begin(out: &mut Vec<u8>) -> Writer<'_> {
    begin_of(out, VERSION)
}

fn begin_of(out: &mut Vec<u8>, version: u8) -> Writer<'_> {
    let mut out = Writer(out);
    out.byte(version);
    out
}

/// The store, and how often it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnerRow {
    pub(super) id: StoreId,
    pub(super) opened: u64,
}

impl OwnerRow {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut out = begin(out);
        out.long(self.id.0.get());
        out.long(self.opened);
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let id = row.long()?.try_into().map(StoreId).map_err(|_| Broken::Record("a store without an id"))?;
        let found = Self { id, opened: row.long()? };
        row.end()?;
        Ok(found)
    }
}

/// A queue's switches and totals, and its retention if that was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct QueueRow {
    pub(super) version: u64,
    pub(super) paused: bool,
    /// In whole milliseconds.
    pub(super) retention: Option<Retention>,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

impl QueueRow {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut out = begin_of(out, if self.retention.is_some() { NOTED } else { VERSION });
        out.long(self.version);
        out.byte(u8::from(self.paused));
        out.long(self.submitted);
        out.long(self.completed);
        out.long(self.failed);
        if let Some(Retention { age, count, bytes, dead }) = self.retention {
            [millis(age), count, bytes, millis(dead)].into_iter().for_each(|number| out.long(number));
        }
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let (mut row, version) = start_of(row, NOTED)?;
        let mut found = Self {
            version: row.long()?,
            paused: row.flag()?,
            retention: None,
            submitted: row.long()?,
            completed: row.long()?,
            failed: row.long()?,
        };
        if version == NOTED {
            found.retention = Some(Retention {
                age: Duration::from_millis(row.long()?),
                count: row.long()?,
                bytes: row.long()?,
                dead: Duration::from_millis(row.long()?),
            });
        }
        row.end()?;
        Ok(found)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    pub(super) fn write(record: &Tracked, now: Now, bytes: &mut Vec<u8>) {
        let mut out = begin(bytes);
        let staged = match record.copy {
            Copy::Staged { until, lease, origin } => Some((until, lease, origin)),
            Copy::Sent => None,
        };
        let flags = [(ANNOUNCED, record.announced), (STAGED, staged.is_some())];
        out.byte(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum::<u8>());
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
        StateRow::write(&record.job, record.worker.as_deref(), now, bytes);
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
    pub(super) fn write(record: &Tracked, now: Now, bytes: &mut Vec<u8>) {
        let mut state = Vec::with_capacity(128);
        RecordRow::write(record, now, &mut state);
        let mut out = begin(bytes);
        out.bytes(record.queue.as_str().as_bytes());
        out.bytes(record.provider.as_bytes());
        out.time(Some(record.job.submitted_at));
        out.bytes(&state);
        out.raw(&record.job.envelope.encode());
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

/// Where a row lies among those that are not of the records as they were staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// What became of a record.
    State(u64),
    Queue(QueueName),
    Unique(QueueName, UniqueKey),
    Stone(u64),
    Watermark(QueueName),
}

impl Place {
    pub(super) fn key(&self) -> Vec<u8> {
        match self {
            Self::State(number) => [&b"s"[..], &number.to_be_bytes()].concat(),
            Self::Queue(queue) => [&b"q"[..], queue.as_str().as_bytes()].concat(),
            // No queue's name has a zero in it.
            Self::Unique(queue, key) => [b"u", queue.as_str().as_bytes(), &[0], key.as_str().as_bytes()].concat(),
            Self::Stone(serial) => [&b"t"[..], &serial.to_be_bytes()].concat(),
            Self::Watermark(queue) => [&b"w"[..], queue.as_str().as_bytes()].concat(),
        }
    }

    pub(super) fn read(key: &[u8]) -> Result<Self, Broken> {
        let (kind, key) = key.split_first().ok_or(Broken::Record("a row without a key"))?;
        Ok(match kind {
            b's' => Self::State(number(key)?),
            b'q' => Self::Queue(queue(text(key)?)?),
            b'u' => {
                let nonsense = Broken::Record("a unique key");
                let at = key.iter().position(|byte| *byte == 0).ok_or(nonsense)?;
                let unique = UniqueKey::new(text(&key[at + 1..])?).map_err(|_| nonsense)?;
                Self::Unique(queue(text(&key[..at])?)?, unique)
            }
            b't' => Self::Stone(number(key)?),
            b'w' => Self::Watermark(queue(text(key)?)?),
            _ => return Err(Broken::Record("there is no such kind of row")),
        })
    }
}

/// Who holds a unique key, and until when if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HoldRow {
    pub(super) id: JobId,
    pub(super) until: Option<Timestamp>,
}

impl HoldRow {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let mut out = begin(out);
        out.raw(self.id.as_bytes());
        out.time(self.until);
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let found = Self { id: id(&mut row)?, until: row.time()? };
        row.end()?;
        Ok(found)
    }
}

/// A tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoneRow {
    pub(super) job: JobRef,
    pub(super) kind: Kind,
    pub(super) laid: Timestamp,
}

impl StoneRow {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut out = begin(out);
        out.raw(self.job.id.as_bytes());
        out.time(Some(self.laid));
        out.byte(u8::from(self.kind == Kind::Withdrawn));
        out.raw(self.job.queue.as_str().as_bytes());
    }

    pub(super) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = start(row)?;
        let id = id(&mut row)?;
        let laid = row.time()?.ok_or(Broken::Record("a stone without a date"))?;
        let kind = if row.flag()? { Kind::Withdrawn } else { Kind::Evicted };
        Ok(Self { job: JobRef::new(queue(text(&row.rest())?)?, id), kind, laid })
    }
}

pub(super) fn write_watermark(mark: Timestamp, out: &mut Vec<u8>) {
    begin(out).time(Some(mark));
}

pub(super) fn watermark(row: Bytes) -> Result<Timestamp, Broken> {
    let mut row = start(row)?;
    let mark = row.time()?.ok_or(Broken::Record("a watermark without a date"))?;
    row.end()?;
    Ok(mark)
}

pub(super) fn number(key: &[u8]) -> Result<u64, Broken> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Broken::Record("a number"))
}

fn id(row: &mut Reader) -> Result<JobId, Broken> {
    let bytes = row.take(16)?;
    bytes.as_ref().try_into().map(JobId::from_bytes).map_err(|_| Broken::Record("an id"))
}

fn text(bytes: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken::Record("a text is not UTF-8"))
}

fn queue(name: &str) -> Result<QueueName, Broken> {
    QueueName::new(name).map_err(|_| Broken::Record("a queue's name"))
}
