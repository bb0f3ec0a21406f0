//! What goes to the scripts of tracked queues and comes from them, as bytes.

use bytes::{BufMut, Bytes};
use queue_core::{
    job::{Envelope, JobId, JobRef, Timestamp},
    lifecycle::JobState,
    provider::ParkKey,
    store::JobRecord,
};

use crate::{
    fault::Broken,
    record::{self, Reader, STATES, millis, put_short, put_six},
};

/// The version of records and rows that this library writes. The scripts leave alone what is newer.
pub(crate) const VERSION: u8 = 1;

const CANCELLING: u16 = 4;
const PARKED: u16 = 16;
const STAGED: u16 = 32;

/// As much of a worker's or provider's name as is kept.
pub(crate) fn short(name: &str) -> &str {
    let end = (0..=name.len().min(120)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    &name[..end]
}

/// What a script needs to know of a copy.
pub(crate) fn head(job: &JobRef, copy: &Envelope) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    put_head(&mut out, job, copy);
    out
}

/// How long that is.
pub(crate) const HEAD: usize = 43;

pub(crate) fn put_head(out: &mut Vec<u8>, job: &JobRef, copy: &Envelope) {
    out.put_slice(copy.id.as_bytes());
    out.put_u16_le(job.place);
    out.put_u8(copy.priority.level());
    for number in [copy.generation, copy.attempt, copy.deliveries] {
        out.put_u32_le(number);
    }
    put_six(out, copy.not_before.map_or(0, Timestamp::as_millis));
    put_six(out, copy.expires_at.map_or(0, Timestamp::as_millis));
}

/// A copy as it is kept: what scripts read of it, and its frame.
pub(crate) fn record(copy: &Envelope) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + copy.encoded_len());
    out.put_u8(VERSION);
    let unique = copy.unique.as_deref();
    put_six(&mut out, unique.and_then(|unique| unique.window).map_or(0, |window| millis(window).max(1)));
    let key = unique.map_or("", |unique| unique.key.as_str());
    out.put_u16_le(u16::try_from(key.len()).unwrap_or(0));
    out.put_slice(key.as_bytes());
    put_short(&mut out, copy.kind.as_str());
    copy.encode_into(&mut out);
    out
}

/// Reads the copy out of a record.
fn read_copy(record: Bytes) -> Result<Envelope, Broken> {
    let mut kept = Reader(record);
    match kept.u8()? {
        VERSION => {}
        newer if newer > VERSION => return Err(record::NEWER),
        _ => return Err("a record of no version"),
    }
    let _window = kept.six()?;
    let key = usize::from(kept.u16()?);
    kept.bytes(key)?;
    kept.short()?;
    Envelope::decode(kept.0).map_err(|_| "a copy that cannot be read")
}

/// Which copy of a job it is; what a script hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edition {
    generation: u32,
    attempt: u32,
    deliveries: u32,
}

impl Edition {
    fn read(row: &mut Reader) -> Result<Self, Broken> {
        Ok(Self { generation: row.u32()?, attempt: row.u32()?, deliveries: row.u32()? })
    }

    /// The copy of this edition: the sweep makes newer ones without rewriting what is kept.
    fn of(self, copy: Envelope) -> Envelope {
        let Self { generation, attempt, deliveries } = self;
        if self == (Self { generation: copy.generation, attempt: copy.attempt, deliveries: copy.deliveries }) {
            return copy;
        }
        copy.edit(|copy| (copy.generation, copy.attempt, copy.deliveries) = (generation, attempt, deliveries))
    }
}

/// A copy for publication, with its place.
pub(crate) fn handed_out(head: Bytes, record: Bytes) -> Result<(JobId, u16, Envelope), Broken> {
    let mut head = Reader(head);
    let (id, place) = (head.id()?, head.u16()?);
    Ok((id, place, Edition::read(&mut head)?.of(read_copy(record)?)))
}

/// What a row says; see `prelude.lua`.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) state: JobState,
    flags: u16,
    pub(crate) priority: u8,
    attempt: u32,
    started: u32,
    edition: Edition,
    pub(crate) place: u16,
    pub(crate) submitted: u64,
    pub(crate) born: u64,
    pub(crate) changed: u64,
    started_at: u64,
    /// When time ends its state: lease, delay, park.
    turn: u64,
    due: u64,
    worker: String,
    pub(crate) provider: String,
}

impl Row {
    /// `None` for one of a newer version.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(row: Bytes) -> Result<Option<Self>, Broken> {
        let mut row = Reader(row);
        if row.u8()? != VERSION {
            return Ok(None);
        }
        let state = usize::from(row.u8()?);
        let state = *state.checked_sub(1).and_then(|state| STATES.get(state)).ok_or("an unknown state")?;
        let (flags, priority) = (row.u16()?, row.u8()?);
        let (attempt, started, _ticket) = (row.u32()?, row.u32()?, row.u64()?);
        let edition = Edition::read(&mut row)?;
        let (_claimed, place) = (row.u32()?, row.u16()?);
        let (submitted, born, changed) = (row.six()?, row.u64()?, row.six()?);
        let (started_at, turn, due) = (row.six()?, row.six()?, row.six()?);
        let (_stage_end, _expires) = (row.six()?, row.six()?);
        let (_settled, _print) = (row.u64()?, row.u64()?);
        Ok(Some(Self {
            state,
            flags,
            priority,
            attempt,
            started,
            edition,
            place,
            submitted,
            born,
            changed,
            started_at,
            turn,
            due,
            worker: row.short()?,
            provider: row.short()?,
        }))
    }

    /// Where it is in its life at that time: nobody may have looked since its time came.
    pub(crate) fn state_at(&self, now: u64) -> JobState {
        let waits = matches!(self.state, JobState::Scheduled | JobState::Retrying);
        if waits && self.due <= now { JobState::Pending } else { self.state }
    }

    /// Whether the transport may deliver it now.
    pub(crate) fn is_ready(&self, now: u64) -> bool {
        self.state_at(now) == JobState::Pending && self.flags & PARKED == 0
    }

    /// Whether the transport has it, and has not delivered it for so long.
    pub(crate) fn is_silent(&self, since: u64) -> bool {
        self.state == JobState::Pending && self.flags & (PARKED | STAGED) == 0 && self.changed <= since
    }
}

/// Everything that is kept of a job, as `look.lua` answers it: record, row, and the details r e h p l k c.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) record: Bytes,
    pub(crate) row: Row,
    pub(crate) details: [Option<Bytes>; 7],
}

impl Kept {
    /// The newest copy.
    pub(crate) fn into_copy(self) -> Result<Envelope, Broken> {
        Ok(self.row.edition.of(read_copy(self.record)?))
    }

    pub(crate) fn into_record(self, job: &JobRef, now: u64) -> Result<JobRecord, Broken> {
        let Self { row, record, details } = self;
        let envelope = row.edition.of(read_copy(record)?);
        let state = row.state_at(now);
        let job = JobRef { place: row.place, ..JobRef::new(job.queue.clone(), job.id) };
        let mut record = JobRecord::new(job, envelope, state, Timestamp::from_millis(row.submitted));
        let [result, error, history, progress, logs, parked, _cancel] = details;
        record.attempt = row.attempt;
        record.started_count = row.started;
        record.worker = Some(row.worker).filter(|worker| !worker.is_empty()).map(Into::into);
        record.started_at = Some(row.started_at).filter(|at| *at > 0).map(Timestamp::from_millis);
        let waits = matches!(state, JobState::Scheduled | JobState::Retrying);
        record.due_at = waits.then_some(Timestamp::from_millis(row.due));
        record.lease_ends = (state == JobState::Running).then_some(Timestamp::from_millis(row.turn));
        record.finished_at = state.is_terminal().then_some(Timestamp::from_millis(row.changed));
        record.cancel_requested = row.flags & CANCELLING != 0;
        if row.flags & PARKED != 0 {
            record.parked = parked.map(|key| ParkKey(String::from_utf8_lossy(&key).into()));
        }
        record.result = result;
        record.error = error.map(|error| record::read_error(&error)).transpose()?;
        record.progress = progress;
        record.history = history.map_or(Ok(Vec::new()), record::read_history)?;
        // The last is the error itself.
        record.history.pop();
        record.logs = logs.map_or(Ok(Vec::new()), record::read_logs)?;
        Ok(record)
    }
}
