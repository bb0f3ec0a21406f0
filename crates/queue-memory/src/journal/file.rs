//! The open file: one B-tree a table, written in transactions.

use queue_core::{Error, ErrorCode, Result};
use redb::Database;

use super::{
    Options, Recovered, Row,
    batch::{Batch, Op},
    error::{Fault, caught},
    medium::{Medium, Opened},
    reading::{self, COMMIT, FORMAT, META, definition},
    record,
    totals::Totals,
};

/// The file is compacted when it is so many times what its rows take. What that costs goes by the rows alone.
const COMPACT_TIMES: u64 = 4;
/// What a retry asks the disk for beside twice the batch, in bytes: the library grows its file in steps.
const ROOM: u64 = 256 << 10;

/// The open file.
pub(super) struct Store {
    medium: Medium,
    options: Options,
    /// None after a failure: it is opened again before the next attempt.
    database: Option<Database>,
    totals: Totals,
}

impl Store {
    pub(super) fn open(
        medium: Medium,
        options: &Options,
        rows: &mut dyn FnMut(Row<'_>) -> Result<()>,
    ) -> Result<(Self, Recovered)> {
        let name = medium.name();
        let mut store = Self { medium, options: options.clone(), database: None, totals: Totals::default() };
        let recovered = caught(|| store.recover(rows)).map_err(|fault| {
            store.discard();
            fault.into_error(&name)
        })?;
        if let Some(what) = &recovered.rolled_back {
            tracing::warn!(journal = name, what, "the journal lost its newest commits");
        }
        Ok((store, recovered))
    }

    /// Of the last change on disk.
    pub(super) fn sequence(&self) -> u64 {
        self.totals.sequence
    }

    fn recover(&mut self, rows: &mut dyn FnMut(Row<'_>) -> Result<()>) -> Result<Recovered, Fault> {
        let Opened { database, rolled_back } = self.open_file()?;
        self.totals = reading::totals(&database, &self.medium.name())?;
        reading::rows(&database, self.totals, rows)?;
        self.database = Some(database);
        let missing = self.medium.marked().unwrap_or(0).saturating_sub(self.totals.sequence);
        let rolled_back = match (rolled_back, missing) {
            (None, 0) => None,
            (None, missing) => Some(format!("{missing} changes are not there that were")),
            (Some(what), 0) => Some(format!("{what}; how much is lost is not known")),
            (Some(what), missing) => Some(format!("{what}; {missing} changes are lost")),
        };
        let clean = self.totals.closed && rolled_back.is_none();
        let recovered = Recovered { clean, rolled_back, rows: self.totals.rows };
        self.compact()?;
        // From here on the file is not closed in order, even when nothing changes before the crash.
        self.write(&Batch::new(), self.totals.sequence, false)?;
        Ok(recovered)
    }

    fn open_file(&self) -> Result<Opened, Fault> {
        self.medium.open(&self.options, |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(META)?.insert(FORMAT, reading::format().as_slice())?;
            let empty = Totals { closed: true, ..Totals::default() };
            commit(transaction, empty)
        })
    }

    /// Commits a batch whose last change has this sequence. After an error it may be there or not; committing it again,
    /// with the same sequence, sets that right.
    pub(super) fn commit(&mut self, batch: &Batch, last: u64) -> Result<()> {
        let name = self.medium.name();
        let committed = caught(|| {
            self.reopen(batch.size() as u64)?;
            self.write(batch, last, false)
        });
        committed.map_err(|fault| {
            self.discard();
            // What is in memory is whole, so this is for the disk to get over, or for people to see.
            let fault = match fault {
                Fault::Damaged(what) => Fault::Io(std::io::Error::other(what)),
                other => other,
            };
            fault.into_error(&name)
        })
    }

    /// After a failure.
    fn reopen(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.database.is_some() {
            return Ok(());
        }
        self.medium.probe(bytes * 2 + ROOM)?;
        let opened = self.open_file()?;
        let totals = reading::totals(&opened.database, &self.medium.name())?;
        // Nothing but a disk that lies does this, and what is gone is in nobody's buffer any more.
        if totals.sequence < self.totals.sequence {
            let message = format!(
                "the journal in {} lost what the disk had confirmed: replace the disk and restart",
                self.medium.name()
            );
            return Err(Fault::Refused(Error::new(ErrorCode::Unavailable, message)));
        }
        (self.totals, self.database) = (totals, Some(opened.database));
        Ok(())
    }

    /// Drops the database, which may panic as anything in it may after a failure.
    fn discard(&mut self) {
        let database = self.database.take();
        let _ = caught(move || {
            drop(database);
            Ok(())
        });
    }

    fn write(&mut self, batch: &Batch, last: u64, closed: bool) -> Result<(), Fault> {
        let Some(database) = &self.database else { return Err(Fault::damaged("it is not open")) };
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(self.options.two_phase);
        let mut totals = Totals { closed, sequence: last, ..self.totals };
        let changes = sorted(batch, last);
        let mut row = Vec::new();
        for changes in changes.chunk_by(|one, other| one.1.table == other.1.table) {
            let Some((_, Op { table, .. })) = changes.first() else { continue };
            let mut rows = transaction.open_table(definition(*table))?;
            for (sequence, Op { table, key, value }) in changes {
                let before = match value {
                    Some(value) => {
                        row.clear();
                        let sum = record::seal(*table, key, value, *sequence, &mut row);
                        totals.gain(key.len() + row.len(), sum);
                        rows.insert(*key, row.as_slice())?
                    }
                    None => rows.remove(*key)?,
                };
                if let Some(before) = before {
                    let before = before.value();
                    totals.lose(key.len() + before.len(), record::sum_of(before));
                }
            }
        }
        commit(transaction, totals)?;
        self.totals = totals;
        // A help for the next opening, no more.
        let _ = self.medium.mark(last);
        Ok(())
    }

    /// Gives the disk back what a file that is mostly free holds.
    fn compact(&mut self) -> Result<(), Fault> {
        let len = self.medium.len()?;
        if let Some(database) = &mut self.database
            && len > self.options.compact_from.max(self.totals.bytes.saturating_mul(COMPACT_TIMES))
        {
            database.compact()?;
        }
        Ok(())
    }

    /// Marks the file as closed in order, and closes it.
    pub(super) fn close(mut self) -> Result<()> {
        let name = self.medium.name();
        let closed = caught(|| {
            self.reopen(0)?;
            self.compact()?;
            self.write(&Batch::new(), self.totals.sequence, true)?;
            if let Some(database) = self.database.take() {
                database.close()?;
            }
            Ok(())
        });
        self.discard();
        closed.map_err(|fault| fault.into_error(&name))
    }

    /// Closes the file as it is.
    pub(super) fn abandon(mut self) {
        self.discard();
    }
}

/// The last change of each row, with its sequence, by table and key: the trees are walked once, in order, and what came
/// and went between two commits is written once.
fn sorted(batch: &Batch, last: u64) -> Vec<(u64, Op<'_>)> {
    let first = last - batch.len() as u64 + 1;
    let mut changes = Vec::with_capacity(batch.len());
    changes.extend((first..).zip(batch.ops()));
    changes.sort_by(|(_, one), (_, other)| (one.table, one.key).cmp(&(other.table, other.key)));
    changes.dedup_by(|later, kept| {
        let same = (later.1.table, later.1.key) == (kept.1.table, kept.1.key);
        if same {
            *kept = *later;
        }
        same
    });
    changes
}

fn commit(transaction: redb::WriteTransaction, totals: Totals) -> Result<(), Fault> {
    let mut row = Vec::new();
    record::seal(super::batch::Table::Notes, COMMIT, &totals.to_bytes(), totals.sequence, &mut row);
    transaction.open_table(META)?.insert(COMMIT, row.as_slice())?;
    Ok(transaction.commit()?)
}
