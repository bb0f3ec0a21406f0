//! The file: one B-tree a table, and what says whether all of it is there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use queue_core::{Error, ErrorCode, Result};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition};

use super::{
    Options, Recovered, Row,
    batch::{Batch, Table},
    error::{Fault, caught},
    record,
};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: Definition = TableDefinition::new("meta");
/// Of the meta table: what file this is, and the newest commit.
const FORMAT: &[u8] = b"format";
const COMMIT: &[u8] = b"commit";
const MAGIC: &[u8] = b"queue journal ";
const VERSION: u32 = 1;

fn definition(table: Table) -> Definition {
    TableDefinition::new(match table {
        Table::Queues => "queues",
        Table::Jobs => "jobs",
        Table::States => "states",
        Table::Keys => "keys",
        Table::Records => "records",
        Table::Stages => "stages",
        Table::Notes => "notes",
    })
}

/// Where the file is.
#[derive(Debug, Clone)]
pub(super) enum Medium {
    Folder(PathBuf),
    Backend(Arc<dyn StorageBackend>),
}

impl Medium {
    pub(super) fn folder(dir: &Path) -> Result<Self> {
        let medium = Self::Folder(dir.to_owned());
        std::fs::create_dir_all(dir).map_err(|error| Fault::Io(error).into_error(&medium.name()))?;
        Ok(medium)
    }

    fn name(&self) -> String {
        match self {
            Self::Folder(dir) => format!("`{}`", dir.display()),
            Self::Backend(_) => "memory".to_owned(),
        }
    }

    fn open(&self, options: &Options) -> Result<Database, Fault> {
        let mut builder = Database::builder();
        builder.set_cache_size(options.cache).set_check_integrity_on_open(true);
        Ok(match self {
            Self::Folder(dir) => builder.create(dir.join("journal.redb"))?,
            Self::Backend(backend) => builder.create_with_backend(Handed(backend.clone()))?,
        })
    }
}

/// A disk of the caller's, which stays the caller's.
#[derive(Debug)]
struct Handed(Arc<dyn StorageBackend>);

impl StorageBackend for Handed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// What the newest commit says of the whole file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    /// Of the last change.
    sequence: u64,
    rows: u64,
    /// The sum of the rows' checksums: no row is missing, none is older than it should be.
    sum: u64,
    /// The journal was closed with this commit.
    closed: bool,
}

impl Totals {
    const LEN: usize = 25;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (slot, number) in bytes.chunks_exact_mut(8).zip([self.sequence, self.rows, self.sum]) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes[Self::LEN - 1] = u8::from(self.closed);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (closed, numbers) = bytes.split_last()?;
        let mut numbers =
            numbers.chunks_exact(8).filter_map(|number| Some(u64::from_le_bytes(number.try_into().ok()?)));
        let [sequence, rows, sum] = [numbers.next()?, numbers.next()?, numbers.next()?];
        Some(Self { sequence, rows, sum, closed: *closed == 1 })
    }

    fn gain(&mut self, sum: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(sum);
    }

    fn lose(&mut self, sum: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(sum);
    }
}

/// The open file.
pub(super) struct Store {
    medium: Medium,
    options: Options,
    /// None after a failure: it is opened again before the next attempt.
    database: Option<Database>,
    totals: Totals,
    scratch: Vec<u8>,
}

impl Store {
    pub(super) fn open(
        medium: Medium,
        options: &Options,
        rows: &mut dyn FnMut(Row<'_>) -> Result<()>,
    ) -> Result<(Self, Recovered)> {
        let name = medium.name();
        let mut store =
            Self { medium, options: options.clone(), database: None, totals: Totals::default(), scratch: Vec::new() };
        let recovered = caught(|| store.recover(rows)).map_err(|fault| fault.into_error(&name))?;
        Ok((store, recovered))
    }

    pub(super) fn sequence(&self) -> u64 {
        self.totals.sequence
    }

    fn recover(&mut self, rows: &mut dyn FnMut(Row<'_>) -> Result<()>) -> Result<Recovered, Fault> {
        let database = self.medium.open(&self.options)?;
        let found = read_totals(&database, &self.medium.name())?;
        if let Some(totals) = found {
            read_rows(&database, totals, rows)?;
        }
        self.totals = found.unwrap_or_default();
        self.database = Some(database);
        let recovered =
            Recovered { clean: found.is_none_or(|totals| totals.closed), rolled_back: None, rows: self.totals.rows };
        // From here on the file is not closed in order, even when nothing changes before the crash.
        self.write(&Batch::new(), self.totals.sequence, false)?;
        Ok(recovered)
    }

    /// Commits a batch whose last change has this sequence.
    pub(super) fn commit(&mut self, batch: &Batch, last: u64) -> Result<()> {
        let name = self.medium.name();
        let committed = caught(|| {
            self.reopen()?;
            self.write(batch, last, false)
        });
        committed.map_err(|fault| {
            self.discard();
            fault.into_error(&name)
        })
    }

    /// After a failure: whether the failed commit is there is not known, and writing it again changes nothing.
    fn reopen(&mut self) -> Result<(), Fault> {
        if self.database.is_none() {
            let database = self.medium.open(&self.options)?;
            self.totals = read_totals(&database, &self.medium.name())?.unwrap_or_default();
            self.database = Some(database);
        }
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
        let mut sequence = last - batch.len() as u64;
        let mut ops = batch.ops().peekable();
        while let Some(table) = ops.peek().map(|op| op.table) {
            let mut rows = transaction.open_table(definition(table))?;
            while let Some(op) = ops.next_if(|op| op.table == table) {
                sequence += 1;
                let before = match op.value {
                    Some(value) => {
                        self.scratch.clear();
                        totals.gain(record::seal(table, op.key, value, sequence, &mut self.scratch));
                        rows.insert(op.key, self.scratch.as_slice())?
                    }
                    None => rows.remove(op.key)?,
                };
                if let Some(before) = before {
                    totals.lose(record::sum_of(before.value()));
                }
            }
        }
        {
            let mut meta = transaction.open_table(META)?;
            if totals.sequence == 0 {
                meta.insert(FORMAT, [MAGIC, &VERSION.to_le_bytes()].concat().as_slice())?;
            }
            self.scratch.clear();
            record::seal(Table::Notes, COMMIT, &totals.to_bytes(), last, &mut self.scratch);
            meta.insert(COMMIT, self.scratch.as_slice())?;
        }
        transaction.commit()?;
        self.totals = totals;
        Ok(())
    }

    /// Marks the file as closed in order, and closes it.
    pub(super) fn close(mut self) -> Result<()> {
        let name = self.medium.name();
        let closed = caught(|| {
            self.reopen()?;
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

/// None where nothing was ever committed.
fn read_totals(database: &Database, name: &str) -> Result<Option<Totals>, Fault> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => return Ok(None),
        Err(redb::TableError::TableDoesNotExist(_)) => return Err(foreign(name)),
        Err(error) => return Err(error.into()),
    };
    let Some(format) = meta.get(FORMAT)? else { return Err(foreign(name)) };
    let version = format.value().strip_prefix(MAGIC).ok_or_else(|| foreign(name))?;
    if version != VERSION.to_le_bytes() {
        return Err(newer(name));
    }
    let commit = meta.get(COMMIT)?.ok_or_else(|| Fault::damaged("the newest commit is missing"))?;
    let sealed = record::unseal(Table::Notes, COMMIT, commit.value());
    let totals = sealed.and_then(|sealed| Totals::from_bytes(sealed.value));
    totals.map(Some).ok_or_else(|| Fault::damaged("the newest commit's record does not match its checksum"))
}

fn read_rows(database: &Database, expected: Totals, rows: &mut dyn FnMut(Row<'_>) -> Result<()>) -> Result<(), Fault> {
    let transaction = database.begin_read()?;
    let mut found = Totals { rows: 0, sum: 0, ..expected };
    for table in Table::ALL {
        let entries = match transaction.open_table(definition(table)) {
            Ok(entries) => entries,
            Err(redb::TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in entries.iter()? {
            let (key, bytes) = entry?;
            let sealed = record::unseal(table, key.value(), bytes.value())
                .ok_or_else(|| Fault::damaged(format_args!("a row of {table:?} does not match its checksum")))?;
            if sealed.sequence > expected.sequence {
                return Err(Fault::damaged(format_args!("a row of {table:?} is newer than the newest commit")));
            }
            found.gain(sealed.sum);
            rows(Row { table, key: key.value(), value: sealed.value })?;
        }
    }
    match found == expected {
        true => Ok(()),
        false => Err(Fault::damaged(format_args!("{} rows where {} should be", found.rows, expected.rows))),
    }
}

fn foreign(name: &str) -> Fault {
    let message = format!("the file in {name} is no journal of this program: name another folder");
    Fault::Refused(Error::new(ErrorCode::Config, message))
}

fn newer(name: &str) -> Fault {
    let message = format!(
        "the journal in {name} was written by a newer version than this one, which reads version {VERSION}: run that one"
    );
    Fault::Refused(Error::new(ErrorCode::Unsupported, message))
}
