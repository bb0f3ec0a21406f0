//! The ledger as the journal's rows tell it.

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, Result,
    job::{QueueName, Timestamp, UniqueKey},
    lifecycle::JobState,
};

use super::{
    TrackingLimits,
    ledger::Ledger,
    record::{Copy, Tracked},
    records,
    rows::{BirthRow, HoldRow, OWNER, OwnerRow, Place, QueueRow, RecordRow, StoneRow, number, watermark},
};
use crate::{
    events::Hub,
    journal::Table,
    queue::{Entry, Moment, Now, nanos},
    rows::Broken,
};

/// Rows as they come, in the order of the tables and by key.
#[derive(Debug, Default)]
pub(super) struct Rows {
    owner: Option<OwnerRow>,
    queues: Vec<(QueueName, QueueRow)>,
    records: Vec<(u64, BirthRow, bool)>,
    holds: Vec<(QueueName, UniqueKey, HoldRow)>,
    stones: Vec<(u64, StoneRow)>,
    watermarks: Vec<(QueueName, Timestamp)>,
    /// Why one of them could not be read.
    broken: Option<Broken>,
    any: bool,
}

impl Rows {
    pub(super) fn take(&mut self, table: Table, key: &[u8], value: Bytes) {
        self.any = true;
        if let Err(broken) = self.read(table, key, value) {
            // It may be that none of them is a tracking store's, which is known at the end.
            self.broken.get_or_insert(broken);
        }
    }

    fn read(&mut self, table: Table, key: &[u8], value: Bytes) -> Result<(), Broken> {
        match table {
            Table::Records if key == OWNER => self.owner = Some(OwnerRow::decode(value)?),
            Table::Records => self.records.push((number(key)?, BirthRow::decode(value)?, false)),
            Table::Stages => self.beside(Place::read(key)?, value)?,
            _ => return Err(Broken::Record("a table that a tracking store has not")),
        }
        Ok(())
    }

    fn beside(&mut self, place: Place, value: Bytes) -> Result<(), Broken> {
        match place {
            Place::State(number) => {
                let at = self.records.binary_search_by_key(&number, |(number, ..)| *number);
                let found = at.ok().and_then(|at| self.records.get_mut(at));
                let (_, birth, revised) = found.ok_or(Broken::Record("a state of no job"))?;
                (birth.record, *revised) = (RecordRow::decode(value)?, true);
            }
            Place::Queue(queue) => self.queues.push((queue, QueueRow::decode(value)?)),
            Place::Unique(queue, key) => self.holds.push((queue, key, HoldRow::decode(value)?)),
            Place::Stone(serial) => self.stones.push((serial, StoneRow::decode(value)?)),
            Place::Watermark(queue) => self.watermarks.push((queue, watermark(value)?)),
        }
        Ok(())
    }

    /// How many records there are.
    pub(super) fn jobs(&self) -> u64 {
        self.records.len() as u64
    }

    /// Whose rows they are; `None` where there are none.
    pub(super) fn owner(&self) -> Result<Option<OwnerRow>> {
        let refuse = |code, message: String| Err(Error::new(code, message).at("open").by("memory"));
        match (self.owner, self.broken) {
            (None, _) if self.any => {
                let message =
                    "the journal is of something else, such as a memory provider: give each a folder of its own";
                refuse(ErrorCode::Config, message.to_owned())
            }
            (_, Some(broken @ Broken::Newer(_))) => refuse(
                ErrorCode::Unsupported,
                format!("the journal holds {broken}: open it with the program that wrote it, or a newer one"),
            ),
            (_, Some(broken @ Broken::Record(_))) => refuse(
                ErrorCode::Undecodable,
                format!(
                    "the journal holds {broken}: restore the folder from a copy, or move it away to start with an empty one"
                ),
            ),
            (owner, None) => Ok(owner),
        }
    }

    /// The records with all that follows from them. What was leased keeps its fence for one full lease from now. Tickets go
    /// on after `ticket`. A `suspect` may have been claimed without the journal's knowing.
    pub(super) fn into_ledger(self, limits: TrackingLimits, hub: Hub, ticket: u64, suspect: bool, now: Now) -> Ledger {
        let mut ledger = Ledger::new(limits, hub, true);
        ledger.begin_at(ticket);
        for (queue, row) in self.queues {
            ledger.room(&queue).restore(row);
        }
        for (queue, key, HoldRow { id, until }) in self.holds {
            ledger.room(&queue).restore_hold(key, id, until.map(|until| now.moment_of(until)));
        }
        for (serial, StoneRow { job, kind, laid }) in self.stones {
            ledger.tombstones.restore(serial, job, kind, past(laid, now));
        }
        for (queue, mark) in self.watermarks {
            ledger.tombstones.restore_watermark(queue, mark);
        }
        let mut finished: Vec<(u64, u32)> = Vec::new();
        for (number, birth, revised) in self.records {
            let row = records::Row { number, revised };
            let born = ledger.next_born();
            let record = tracked(birth, row, born, suspect, now);
            let (over, ended) = (record.job.state.is_terminal(), record.job.ticket);
            let Some(slot) = ledger.restore(record, now) else { break };
            if over {
                finished.push((ended, slot));
            }
        }
        finished.sort_unstable();
        for (_, slot) in finished {
            ledger.retain(slot);
        }
        ledger
    }
}

/// When it was, on the monotonic line.
fn past(time: Timestamp, now: Now) -> Moment {
    now.mono.saturating_sub(nanos(time.until(now.wall)))
}

fn tracked(birth: BirthRow, row: records::Row, born: u32, suspect: bool, now: Now) -> Tracked {
    let BirthRow { queue, provider, submitted_at, record, envelope } = birth;
    let RecordRow { place, announced, staged, claimed, due, lease, state } = record;
    let worker = state.worker.clone();
    let mut job = Entry::restored(envelope, submitted_at, state, born, now);
    if job.state == JobState::Running {
        // Its worker may live on if only the store was closed; how long the store was away is not its fault.
        job.turn_at = now.after(lease);
    }
    let copy = match staged {
        Some((until, lease, origin)) => {
            // Should the wall clock have been set back meanwhile, the sweep does not wait for it to come round again.
            let latest = due.map_or(0, |due| now.moment_of(due)).max(now.after(lease));
            Copy::Staged { until: now.moment_of(until).min(latest), lease, origin }
        }
        None => Copy::Sent,
    };
    let suspect = suspect && job.state.is_waiting();
    let kept = Some(job.envelope.clone());
    let listed = None;
    Tracked {
        queue,
        place,
        provider,
        job,
        copy,
        worker,
        claimed,
        due,
        announced,
        lease,
        listed,
        in_line: None,
        outlived: false,
        suspect,
        row,
        kept,
        changed: false,
    }
}
