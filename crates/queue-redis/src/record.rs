//! What Redis keeps of a job, as bytes: `docs/book/redis-layout.md` tells every byte. The scripts read the heads; the rest is for this file.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use queue_core::{
    job::{
        ContentType, Envelope, JobError, JobId, JobKind, JobRef, Priority, RawHeaders, StoreId, Timestamp, Unique,
        UniqueKey,
    },
    lifecycle::JobState,
    provider::{Cancel, ParkKey},
    store::{JobRecord, PastFailure},
};

/// The version of records that this library writes.
const VERSION: u8 = 1;
/// Why what a newer version wrote is not read.
pub(crate) const NEWER: Broken = "a newer version wrote it: read it with that one";

const EXPIRES: u8 = 1;
const UNIQUE: u8 = 2;
const LATER: u8 = 4;

const HAS_NOT_BEFORE: u8 = 1;
const HAS_STORE: u8 = 2;
const HAS_TRACE: u8 = 4;

const CANCELLING: u8 = 4;
const PARKED: u8 = 16;

use crate::fault::Broken;

/// The two arguments by which a script takes a job in: what it needs to know, and what it only keeps.
pub(crate) fn to_publish(envelope: &Envelope) -> (Vec<u8>, Vec<u8>) {
    let mut head = Vec::with_capacity(64);
    head.put_slice(envelope.id.as_bytes());
    let flags =
        if envelope.expires_at.is_some() { EXPIRES } else { 0 } | if envelope.unique.is_some() { UNIQUE } else { 0 };
    head.put_u8(flags);
    head.put_u8(envelope.priority.level());
    put_six(&mut head, envelope.not_before.map_or(0, Timestamp::as_millis));
    put_six(&mut head, envelope.expires_at.map_or(0, Timestamp::as_millis));
    let window = envelope.unique.as_ref().and_then(|unique| unique.window);
    put_six(&mut head, window.map_or(0, |window| millis(window).max(1)));
    head.put_u16_le(u16::try_from(envelope.attempt).unwrap_or(u16::MAX));
    head.put_u16_le(u16::try_from(envelope.deliveries).unwrap_or(u16::MAX));
    if let Some(unique) = &envelope.unique {
        head.put_slice(unique.key.as_str().as_bytes());
    }
    (head, body(envelope))
}

/// Bytes of an id.
pub(crate) const ID: usize = 16;
/// Bytes of a head without flags for more, the id with it.
const PLAIN_HEAD: usize = ID + 24;

/// What the heads have in common after the id, if they do and say nothing of a delay, an expiry or a unique key; else nothing.
pub(crate) fn shared_head(jobs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let Some((first, _)) = jobs.first() else { return Vec::new() };
    let (flags, due) = (first[ID], &first[ID + 2..ID + 8]);
    let plain = first.len() == PLAIN_HEAD && flags == 0 && due.iter().all(|byte| *byte == 0);
    if plain && jobs.iter().all(|(head, _)| head[ID..] == first[ID..]) { first[ID..].to_vec() } else { Vec::new() }
}

fn body(envelope: &Envelope) -> Vec<u8> {
    let headers = envelope.headers.as_bytes();
    let trace = trace::find(headers);
    let mut out = Vec::with_capacity(48 + envelope.kind.as_str().len() + headers.len() + envelope.payload.len());
    put_short(&mut out, envelope.kind.as_str());
    let not_before = if envelope.not_before.is_some() { HAS_NOT_BEFORE } else { 0 };
    let store = if envelope.store.is_some() { HAS_STORE } else { 0 };
    out.put_u8(not_before | store | if trace.is_some() { HAS_TRACE } else { 0 });
    match &envelope.content_type {
        ContentType::Json => out.put_u8(0),
        other => put_short(&mut out, other.as_str()),
    }
    put_six(&mut out, envelope.created_at.as_millis());
    put_varint(&mut out, millis(envelope.timeout));
    put_varint(&mut out, u64::from(envelope.generation));
    if let Some(at) = envelope.not_before {
        put_six(&mut out, at.as_millis());
    }
    if let Some(store) = envelope.store {
        out.put_u64_le(store.0.get());
    }
    match trace {
        None => put_headers(&mut out, headers),
        Some((at, packed)) => {
            put_varint(&mut out, at as u64);
            out.put_slice(&packed);
            put_headers(&mut out, &trace::cut(headers, at));
        }
    }
    out.put_slice(&envelope.payload);
    out
}

fn put_headers(out: &mut Vec<u8>, headers: &[u8]) {
    put_varint(out, headers.len() as u64);
    out.put_slice(headers);
}

/// A job as it was submitted, with when that was.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) envelope: Envelope,
    pub(crate) at: Timestamp,
    later: bool,
}

/// Reads a record.
pub(crate) fn read(id: JobId, row: Bytes) -> Result<Submitted, Broken> {
    let mut row = Reader(row);
    match row.u8()? {
        VERSION => {}
        newer if newer > VERSION => return Err(NEWER),
        _ => return Err("a record of no version"),
    }
    let flags = row.u8()?;
    let priority = Priority::new(row.u8()?).map_err(|_| "priority out of range")?;
    let at = Timestamp::from_millis(row.six()?);
    let _rank = row.six()?;
    let (attempt, deliveries) = (u32::from(row.u16()?), u32::from(row.u16()?));
    let expires_at = if flags & EXPIRES == 0 { None } else { Some(Timestamp::from_millis(row.six()?)) };
    let unique = if flags & UNIQUE == 0 { None } else { Some(Box::new(row.unique()?)) };
    let kind = JobKind::new(row.short()?).map_err(|_| "kind")?;
    let has = row.u8()?;
    if has & !(HAS_NOT_BEFORE | HAS_STORE | HAS_TRACE) != 0 {
        return Err(NEWER);
    }
    let content_type = match row.short()? {
        text if text.is_empty() => ContentType::Json,
        text => ContentType::parse(&text).map_err(|_| "content type")?,
    };
    let created_at = Timestamp::from_millis(row.six()?);
    let timeout = Duration::from_millis(row.varint()?);
    let generation = u32::try_from(row.varint()?).map_err(|_| "generation")?;
    let not_before = if has & HAS_NOT_BEFORE == 0 { None } else { Some(Timestamp::from_millis(row.six()?)) };
    let store = if has & HAS_STORE == 0 { None } else { std::num::NonZeroU64::new(row.u64()?).map(StoreId) };
    let trace = if has & HAS_TRACE == 0 { None } else { Some((row.length()?, row.bytes(trace::PACKED)?)) };
    let length = row.length()?;
    let mut headers = row.bytes(length)?;
    if let Some((at, packed)) = trace {
        headers = trace::splice(&headers, at, &packed).ok_or("trace context")?.into();
    }
    let headers = RawHeaders::from_wire(headers).map_err(|_| "headers too large")?;

    let mut parts = Envelope::builder(id, kind, row.0, created_at);
    parts.content_type = content_type;
    parts.attempt = attempt.max(1);
    parts.generation = generation;
    parts.deliveries = deliveries;
    parts.store = store;
    parts.priority = priority;
    parts.not_before = not_before;
    parts.expires_at = expires_at;
    parts.timeout = timeout;
    parts.unique = unique;
    parts.headers = headers;
    Ok(Submitted { envelope: parts.seal(), at, later: flags & LATER != 0 })
}

/// What a status row says; see `prelude.lua`.
#[derive(Debug)]
struct Status {
    state: JobState,
    flags: u8,
    attempt: u32,
    started: u32,
    changed: Timestamp,
    started_at: u64,
    turn: u64,
    worker: String,
}

pub(crate) const STATES: [JobState; 8] = [
    JobState::Pending,
    JobState::Scheduled,
    JobState::Retrying,
    JobState::Running,
    JobState::Completed,
    JobState::Dead,
    JobState::Cancelled,
    JobState::Expired,
];

fn read_status(row: Bytes) -> Result<Status, Broken> {
    let mut row = Reader(row);
    let state = usize::from(row.u8()?);
    let state = *state.checked_sub(1).and_then(|state| STATES.get(state)).ok_or("an unknown state")?;
    let flags = row.u8()?;
    let _priority = row.u8()?;
    let (attempt, started) = (row.u32()?, row.u32()?);
    let _epoch = row.u64()?;
    let _rank = row.six()?;
    let (changed, started_at, turn) = (Timestamp::from_millis(row.six()?), row.six()?, row.six()?);
    let _settled = row.u64()?;
    let _print = row.u64()?;
    Ok(Status { state, flags, attempt, started, changed, started_at, turn, worker: row.short()? })
}

/// Everything that is kept of a job, as `look.lua` answers it: record, status, and the details r e h p l k c.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) record: Bytes,
    pub(crate) status: Bytes,
    pub(crate) details: [Option<Bytes>; 7],
}

impl Kept {
    pub(crate) fn into_record(self, job: JobRef) -> Result<JobRecord, Broken> {
        let submitted = read(job.id, self.record)?;
        let state = if submitted.later { JobState::Scheduled } else { JobState::Pending };
        let not_before = submitted.envelope.not_before;
        let mut record = JobRecord::new(job, submitted.envelope, state, submitted.at);
        if submitted.later {
            record.due_at = not_before;
        }
        let [result, error, history, progress, logs, parked, _cancel] = self.details;
        if !self.status.is_empty() {
            let status = read_status(self.status)?;
            record.state = status.state;
            record.attempt = status.attempt;
            record.started_count = status.started;
            record.worker = Some(status.worker).filter(|worker| !worker.is_empty()).map(Into::into);
            record.started_at = Some(status.started_at).filter(|at| *at > 0).map(Timestamp::from_millis);
            let waits = matches!(status.state, JobState::Scheduled | JobState::Retrying);
            let turn = Timestamp::from_millis(status.turn);
            record.due_at = waits.then_some(turn);
            record.lease_ends = (status.state == JobState::Running).then_some(turn);
            record.finished_at = status.state.is_terminal().then_some(status.changed);
            record.cancel_requested = status.flags & CANCELLING != 0;
            if status.flags & PARKED != 0 {
                record.parked = parked.map(|key| ParkKey(String::from_utf8_lossy(&key).into()));
            }
        }
        record.result = result;
        record.error = error.map(|error| read_error(&error)).transpose()?;
        record.progress = progress;
        record.history = history.map_or(Ok(Vec::new()), read_history)?;
        // The last is the error itself.
        record.history.pop();
        record.logs = logs.map_or(Ok(Vec::new()), read_logs)?;
        Ok(record)
    }
}

pub(crate) fn write_error(error: &JobError) -> Vec<u8> {
    // Strings, a number and a switch: there is nothing that JSON cannot hold.
    serde_json::to_vec(error).unwrap_or_default()
}

pub(crate) fn read_error(bytes: &[u8]) -> Result<JobError, Broken> {
    serde_json::from_slice(bytes).map_err(|_| "an error that cannot be read")
}

pub(crate) fn read_history(bytes: Bytes) -> Result<Vec<PastFailure>, Broken> {
    let mut row = Reader(bytes);
    let mut history = Vec::new();
    while !row.0.is_empty() {
        let (attempt, at) = (row.u32()?, Timestamp::from_millis(row.six()?));
        let length = row.u32()? as usize;
        history.push(PastFailure { attempt, at, error: read_error(&row.bytes(length)?)? });
    }
    Ok(history)
}

pub(crate) fn read_logs(bytes: Bytes) -> Result<Vec<Bytes>, Broken> {
    let mut row = Reader(bytes);
    let mut logs = Vec::new();
    while !row.0.is_empty() {
        let length = usize::from(row.u16()?);
        logs.push(row.bytes(length)?);
    }
    Ok(logs)
}

pub(crate) fn write_cancel(cancel: &Cancel) -> Vec<u8> {
    let mut out = Vec::new();
    put_six(&mut out, millis(cancel.grace));
    out.put_slice(cancel.by.as_bytes());
    out
}

pub(crate) fn read_cancel(bytes: Bytes) -> Result<Cancel, Broken> {
    let mut row = Reader(bytes);
    let grace = Duration::from_millis(row.six()?);
    Ok(Cancel { by: String::from_utf8_lossy(&row.0).into(), grace })
}

/// How `claim.lua` tells of a claim.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) id: JobId,
    pub(crate) epoch: u64,
    /// Nothing, where nothing has happened to it: its record tells.
    pub(crate) past: Option<Past>,
}

#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) attempt: u32,
    pub(crate) started: u32,
    pub(crate) redelivered: bool,
}

/// `next` is the epoch of a job to which nothing has happened.
pub(crate) fn read_claim(row: &mut Reader, next: u64) -> Result<Claim, Broken> {
    let id = row.id()?;
    if row.u8()? == 0 {
        return Ok(Claim { id, epoch: next, past: None });
    }
    let epoch = row.u64()?;
    let past = Past { attempt: row.u32()?, started: row.u32()?, redelivered: row.u8()? == 1 };
    Ok(Claim { id, epoch, past: Some(past) })
}

pub(crate) fn read_id(bytes: &[u8]) -> Result<JobId, Broken> {
    <[u8; 16]>::try_from(bytes).map(JobId::from_bytes).map_err(|_| "not an id")
}

pub(crate) fn put_six(out: &mut Vec<u8>, value: u64) {
    out.put_slice(&value.min((1 << 48) - 1).to_le_bytes()[..6]);
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What may be delayed is never early: up to whole milliseconds.
pub(crate) fn millis_up(duration: Duration) -> u64 {
    millis(duration).saturating_add(u64::from(!duration.subsec_nanos().is_multiple_of(1_000_000)))
}

pub(crate) fn put_short(out: &mut Vec<u8>, text: &str) {
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(&text.as_bytes()[..text.len().min(255)]);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads what may be cut short or made up.
pub(crate) struct Reader(pub(crate) Bytes);

impl Reader {
    pub(crate) fn bytes(&mut self, length: usize) -> Result<Bytes, Broken> {
        if self.0.len() < length {
            return Err("cut short");
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Broken> {
        Ok(self.bytes(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Broken> {
        Ok(self.bytes(2)?.get_u16_le())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Broken> {
        Ok(self.bytes(4)?.get_u32_le())
    }

    pub(crate) fn six(&mut self) -> Result<u64, Broken> {
        Ok(self.bytes(6)?.get_uint_le(6))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Broken> {
        Ok(self.bytes(8)?.get_u64_le())
    }

    pub(crate) fn id(&mut self) -> Result<JobId, Broken> {
        read_id(&self.bytes(16)?)
    }

    pub(crate) fn short(&mut self) -> Result<String, Broken> {
        let length = usize::from(self.u8()?);
        String::from_utf8(self.bytes(length)?.to_vec()).map_err(|_| "not text")
    }

    fn unique(&mut self) -> Result<Unique, Broken> {
        let window = Some(self.six()?).filter(|window| *window > 0).map(Duration::from_millis);
        let length = usize::from(self.u16()?);
        let key = self.bytes(length)?;
        let key = std::str::from_utf8(&key).ok().and_then(|key| UniqueKey::new(key).ok()).ok_or("unique key")?;
        Ok(Unique { key, window })
    }

    fn length(&mut self) -> Result<usize, Broken> {
        usize::try_from(self.varint()?).map_err(|_| "a length without end")
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number without end")
    }
}

mod trace;

#[cfg(test)]
mod tests;
