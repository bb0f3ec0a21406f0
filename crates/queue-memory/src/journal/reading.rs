//! What is in the file, or why it is not to be trusted.

use queue_core::{Error, ErrorCode, Result};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{
    Row,
    batch::Table,
    error::{Fault, theirs},
    record::{self, Sealed},
    totals::Totals,
};

pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// What file this is, and the newest commit.
pub(super) const META: Definition = TableDefinition::new("meta");
pub(super) const FORMAT: &[u8] = b"format";
pub(super) const COMMIT: &[u8] = b"commit";

const MAGIC: &[u8] = b"queue journal ";
const VERSION: u32 = 1;

/// What [`FORMAT`] holds.
pub(super) fn format() -> Vec<u8> {
    [MAGIC, &VERSION.to_le_bytes()].concat()
}

pub(super) fn definition(table: Table) -> Definition {
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

/// What the newest commit says. The file is known by `name`.
pub(super) fn totals(database: &Database, name: &str) -> Result<Totals, Fault> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Err(foreign(name)),
        Err(error) => return Err(error.into()),
    };
    let format = meta.get(FORMAT)?.ok_or_else(|| foreign(name))?;
    let version = format.value().strip_prefix(MAGIC).ok_or_else(|| foreign(name))?;
    if version != VERSION.to_le_bytes() {
        return Err(newer(name));
    }
    let commit = meta.get(COMMIT)?.ok_or_else(|| Fault::damaged("the newest commit's record is missing"))?;
    let sealed = record::unseal(Table::Notes, COMMIT, commit.value());
    let totals = sealed.and_then(|sealed| Totals::from_bytes(sealed.value));
    totals.ok_or_else(|| Fault::damaged("the newest commit's record does not match its checksum"))
}

/// Gives every row to `rows`; fails where one is not what was written, is missing or too many.
pub(super) fn rows(
    database: &Database,
    expected: Totals,
    rows: &mut dyn FnMut(Row<'_>) -> Result<()>,
) -> Result<(), Fault> {
    let transaction = database.begin_read()?;
    let mut found = expected.uncounted();
    for table in Table::ALL {
        let entries = match transaction.open_table(definition(table)) {
            Ok(entries) => entries,
            Err(redb::TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in entries.iter()? {
            let (key, bytes) = entry?;
            let (key, bytes) = (key.value(), bytes.value());
            let Sealed { value, sequence, sum } = record::unseal(table, key, bytes)
                .ok_or_else(|| Fault::damaged(format_args!("a row of {table:?} does not match its checksum")))?;
            if sequence > expected.sequence {
                return Err(Fault::damaged(format_args!("a row of {table:?} is newer than the newest commit")));
            }
            found.gain(key.len() + bytes.len(), sum);
            theirs(|| rows(Row { table, key, value }))?;
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
