//! Errors of the file in the words of this workspace.

use std::{any::Any, fmt::Display, io, panic::AssertUnwindSafe};

use queue_core::{Error, ErrorCode, Result};

/// What went wrong with a file, before it is known what that means.
#[derive(Debug)]
pub(super) enum Fault {
    /// Somebody has it open.
    InUse,
    /// The disk refused.
    Io(io::Error),
    /// What it holds is not what was written.
    Damaged(String),
    /// An error that is complete.
    Refused(Error),
}

impl Fault {
    pub(super) fn damaged(what: impl Display) -> Self {
        Self::Damaged(what.to_string())
    }

    /// The error for people, who know the file by `name`.
    pub(super) fn into_error(self, name: &str) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::InUse => Error::new(
                ErrorCode::StoreInUse,
                format!("the journal in {name} is open already, in this process or another: one has it at a time"),
            ),
            Self::Io(error) => unavailable(name, error),
            Self::Damaged(what) => Error::new(
                ErrorCode::Undecodable,
                format!(
                    "the journal in {name} is damaged ({what}): restore it from a copy, or move the folder away to start \
                     with an empty one"
                ),
            ),
        }
        .by("memory")
    }
}

fn unavailable(name: &str, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("the disk under the journal in {name} is full: make room, and it goes on by itself")
        }
        _ => format!("the disk under the journal in {name} refuses: {error}"),
    };
    Error::new(ErrorCode::Unavailable, message).caused_by(error)
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse,
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo => Self::Io(io::Error::other("an earlier write failed")),
            other => Self::damaged(other),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A file that is not the library's, or ends early.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::damaged(error),
            _ => Self::Io(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

macro_rules! by_way_of_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

by_way_of_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError, CompactionError);

/// Runs what reads or writes the file. The library panics on some files that are damaged; to us it is damage.
pub(super) fn caught<T>(run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Fault::Damaged(words(&*panic))))
}

/// Runs what somebody else does with a row. Its panic is a defect of theirs and no damage.
pub(super) fn theirs<T>(run: impl FnOnce() -> Result<T>) -> Result<T, Fault> {
    std::panic::catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| {
            let message = format!("reading a row of the journal panicked: {}", words(&*panic));
            Err(Error::new(ErrorCode::Internal, message))
        })
        .map_err(Fault::Refused)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}
