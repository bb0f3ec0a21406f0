//! What changes of a job.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    job::{JobError, Timestamp},
    lifecycle::JobState,
    provider::{Cancel, ParkKey},
    store::{JobRecord, PastFailure},
};

use super::{Broken, Reader, Writer};
use crate::queue::{Details, Entry, Now, Settled};

const VERSION: u8 = 1;

const MARKED: u8 = 1;
const ORPHANED: u8 = 2;
const SETTLED: u8 = 4;
const WORKER: u8 = 8;
const DETAILS: u8 = 16;

/// All of an [`Entry`] that changes while it lives. Times are wall-clock times: it outlives the process.
#[derive(Debug)]
pub(crate) struct StateRow {
    pub(crate) state: JobState,
    pub(crate) marked: bool,
    pub(crate) orphaned: bool,
    pub(crate) ticket: u64,
    pub(crate) rank: u64,
    pub(crate) attempt: u32,
    pub(crate) started_count: u32,
    pub(crate) changed_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    /// When its state ends, if by time: lease, delay, park. Never early.
    pub(crate) turn_at: Option<Timestamp>,
    pub(crate) settled: Option<Settled>,
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) details: Option<Box<Details>>,
}

impl StateRow {
    /// `worker` is who has the job, or had it last.
    pub(crate) fn write(entry: &Entry, worker: Option<&str>, now: Now, out: &mut Vec<u8>) {
        let mut out = Writer(out);
        out.byte(VERSION);
        out.byte(entry.state as u8);
        let details = entry.details().filter(|details| !details.is_empty());
        let flags = [
            (MARKED, entry.marked),
            (ORPHANED, entry.orphaned),
            (SETTLED, entry.settled.is_some()),
            (WORKER, worker.is_some()),
            (DETAILS, details.is_some()),
        ];
        out.byte(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag).sum::<u8>());
        out.word(entry.attempt);
        out.word(entry.started_count);
        out.long(entry.ticket);
        out.long(entry.rank);
        out.long(entry.changed_at.as_millis());
        out.time(entry.started_at);
        out.time((entry.turn_at != 0).then(|| now.time_of(entry.turn_at)));
        if let Some(settled) = entry.settled {
            let (ticket, print) = settled.parts();
            out.long(ticket);
            out.long(print);
        }
        if let Some(worker) = worker {
            out.bytes(worker.as_bytes());
        }
        if let Some(details) = details {
            put_details(&mut out, details);
        }
    }

    pub(crate) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = Reader::new(row);
        match row.byte()? {
            VERSION => {}
            newer if newer > VERSION => return Err(Broken::Newer(newer)),
            _ => return Err(Broken::Record("there is no such version")),
        }
        let state = usize::from(row.byte()?);
        let state = *JobState::ALL.get(state).ok_or(Broken::Record("there is no such state"))?;
        let flags = row.byte()?;
        if flags >= DETAILS << 1 {
            return Err(Broken::Record("there are no such flags"));
        }
        let has = |flag: u8| flags & flag != 0;
        let found = Self {
            state,
            marked: has(MARKED),
            orphaned: has(ORPHANED),
            attempt: row.word()?,
            started_count: row.word()?,
            ticket: row.long()?,
            rank: row.long()?,
            changed_at: row.time()?.ok_or(Broken::Record("a state without a date"))?,
            started_at: row.time()?,
            turn_at: row.time()?,
            settled: if has(SETTLED) { Some(Settled::new(row.long()?, row.long()?)) } else { None },
            worker: if has(WORKER) { Some(row.text()?.into()) } else { None },
            details: if has(DETAILS) { Some(Box::new(details(&mut row)?)) } else { None },
        };
        row.end()?;
        Ok(found)
    }
}

fn put_details(out: &mut Writer<'_>, details: &Details) {
    out.maybe(details.parked.as_ref().map(|key| key.0.as_bytes()));
    out.maybe(details.cancel.as_ref().map(|cancel| cancel.by.as_bytes()));
    if let Some(cancel) = &details.cancel {
        out.long(u64::try_from(cancel.grace.as_millis()).unwrap_or(u64::MAX));
    }
    out.maybe(details.progress.as_deref());
    out.maybe(details.result.as_deref());
    out.byte(u8::from(details.error.is_some()));
    if let Some(error) = &details.error {
        put_error(out, error);
    }
    out.word(u32::try_from(details.history.len()).unwrap_or(u32::MAX));
    for past in &details.history {
        out.word(past.attempt);
        out.long(past.at.as_millis());
        put_error(out, &past.error);
    }
    out.word(u32::try_from(details.logs.len()).unwrap_or(u32::MAX));
    for line in &details.logs {
        out.bytes(line);
    }
}

fn details(row: &mut Reader) -> Result<Details, Broken> {
    let parked = row.maybe()?.map(|key| Ok(ParkKey(text(&key)?.into()))).transpose()?;
    let cancel = match row.maybe()? {
        Some(by) => Some(Cancel { by: text(&by)?.into(), grace: Duration::from_millis(row.long()?) }),
        None => None,
    };
    let progress = row.maybe()?;
    let result = row.maybe()?;
    let error = if row.flag()? { Some(job_error(row)?) } else { None };
    let history = (0..row.count(JobRecord::MAX_HISTORY)?).map(|_| {
        let attempt = row.word()?;
        let at = row.time()?.ok_or(Broken::Record("a failure without a date"))?;
        Ok(PastFailure { attempt, at, error: job_error(row)? })
    });
    let history = history.collect::<Result<Vec<_>, Broken>>()?;
    let logs = (0..row.count(JobRecord::MAX_LOGS)?).map(|_| row.bytes()).collect::<Result<Vec<_>, Broken>>()?;
    Ok(Details { parked, cancel, progress, result, error, history, logs })
}

fn put_error(out: &mut Writer<'_>, error: &JobError) {
    out.bytes(error.code.as_bytes());
    out.bytes(error.message.as_bytes());
    out.byte(u8::from(error.retryable));
    out.maybe(error.detail.as_ref().map(String::as_bytes));
}

fn job_error(row: &mut Reader) -> Result<JobError, Broken> {
    let code = Cow::Owned(row.text()?);
    let message = row.text()?;
    let retryable = row.flag()?;
    let detail = row.maybe()?.map(|detail| text(&detail).map(str::to_owned)).transpose()?;
    Ok(JobError { code, message, retryable, detail })
}

fn text(bytes: &Bytes) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken::Record("a text is not UTF-8"))
}

#[cfg(test)]
mod tests;
