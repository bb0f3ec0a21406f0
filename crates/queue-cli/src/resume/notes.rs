//! What a run writes into its journal beside its jobs.
//!
//! | note | written | says |
//! |---|---|---|
//! | `begun` | once, before anything else | which input, and what cannot change between two lives of a run |
//! | `read` | with each batch of lines, behind its jobs | how far the input was read |
//! | `rows` | about once a second, when the rows so far are on disk | the same, and how far the outputs were written |
//!
//! Notes ride in the journal behind what happened before them. So what a note says was read is in the journal, and what it
//! says was written is on disk; the truth may be ahead of it, and then lines are read again and known by their ids.

use std::path::PathBuf;

use queue_core::QueueName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::identity::InputId;
use crate::results::Status;

/// The format of the notes below. Another one is refused.
const FORMAT: u32 = 1;

/// Between two lines of the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The number of the line in front of it, 0 at the beginning.
    pub line: u64,
    /// In bytes.
    pub offset: u64,
}

/// How a run began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// [`FORMAT`].
    format: u32,
    /// Its input.
    pub input: InputId,
    /// Where that was, for messages.
    pub path: PathBuf,
    /// `--lines`.
    pub lines: bool,
    /// `--max-line`.
    pub max_line: usize,
    /// The queue of its jobs.
    pub queue: QueueName,
    /// `--results`.
    pub results: Option<PathBuf>,
    /// `--dead`.
    pub dead: Option<PathBuf>,
}

/// How far the input was read: every job in front of it is in the journal, or was and has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// There.
    pub place: Place,
    /// In front of the last line.
    pub before: Place,
    /// [`check`](super::identity::check) of the last line: an input that was edited further up has another line there.
    pub check: u64,
    /// In front of it no line has a job in the journal.
    pub low: Place,
    /// Some line had a unique key.
    pub keys: bool,
    /// Some line was no job.
    pub invalid: bool,
}

/// How far an output was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// In bytes, all of them on disk.
    pub length: u64,
    /// [`check`](super::identity::check) of its end, so that no other file is continued in its place.
    pub check: u64,
}

/// How far rows were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Every line in front of it that is no job has its row.
    pub read: Read,
    /// How many lines ended how, in the order of [`Status::ALL`].
    pub counts: [u64; Status::ALL.len()],
    /// All attempts together.
    pub attempts: u64,
    /// `--results`.
    pub results: Option<Written>,
    /// `--dead`.
    pub dead: Option<Written>,
    /// Lines whose rows are in all of the above while their jobs may still be in the journal.
    pub listed: Vec<u64>,
    /// The run came to its end.
    pub finished: bool,
}

/// All the notes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notes {
    /// How it began.
    pub begun: Begun,
    /// The furthest that it read.
    pub read: Read,
    /// The last rows that are safe.
    pub rows: Rows,
}

/// Keys in the journal.
pub(crate) const BEGUN: &str = "run/begun";
pub(super) const READ: &str = "run/read";
pub(super) const ROWS: &str = "run/rows";

/// Why notes cannot be used, for people.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// By a later version.
    #[error("it was written by a newer version of this program; resume the run with that one")]
    Newer,
    /// By something else.
    #[error("its notes cannot be read: {0}")]
    Damaged(String),
}

impl Begun {
    /// A run that begins with this version.
    #[must_use]
    pub fn new(input: InputId, path: PathBuf, queue: QueueName) -> Self {
        Self { format: FORMAT, input, path, lines: false, max_line: 0, queue, results: None, dead: None }
    }
}

impl Notes {
    /// From what the journal holds. `None` where no run has begun, or it is to begin anew.
    ///
    /// # Errors
    /// They are of another version, or no such notes.
    pub fn parse(notes: &[(String, Vec<u8>)]) -> Result<Option<Self>, Unreadable> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let find = |key| notes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_slice());
        let Some(begun) = find(BEGUN).filter(|begun| !begun.is_empty()) else { return Ok(None) };
        if read::<Format>(BEGUN, begun)?.format > FORMAT {
            return Err(Unreadable::Newer);
        }
        let begun = read(BEGUN, begun)?;
        let rows: Rows = find(ROWS).map(|text| read(ROWS, text)).transpose()?.unwrap_or_default();
        let newest: Read = find(READ).map(|text| read(READ, text)).transpose()?.unwrap_or_default();
        let newest = if newest.place.offset > rows.read.place.offset { newest } else { rows.read };
        Ok(Some(Self { begun, read: newest, rows }))
    }
}

fn read<T: DeserializeOwned>(key: &str, text: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(text).map_err(|error| Unreadable::Damaged(format!("{key}: {error}")))
}

/// A note as it is kept.
pub(super) fn written(note: &impl Serialize) -> Vec<u8> {
    // Numbers, strings and lists of them: this cannot fail, and a reader would say so.
    serde_json::to_vec(note).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Begun {
        let input = InputId::of(&tempfile::tempfile().unwrap()).unwrap();
        Begun::new(input, PathBuf::from("jobs"), QueueName::new("run").unwrap())
    }

    fn at(line: u64) -> Read {
        Read { place: Place { line, offset: 10 * line }, ..Read::default() }
    }

    #[test]
    fn the_further_of_two_places_counts() {
        assert_eq!(Notes::parse(&[]).unwrap(), None);
        let notes = |read: u64, rows: u64| {
            let rows = Rows { read: at(rows), ..Rows::default() };
            let all = [(BEGUN, written(&begun())), (READ, written(&at(read))), (ROWS, written(&rows))];
            Notes::parse(&all.map(|(key, value)| (key.to_owned(), value))).unwrap().unwrap()
        };
        assert_eq!((notes(7, 3).read, notes(7, 3).rows.read), (at(7), at(3)));
        assert_eq!(notes(3, 7).read, at(7));
        assert_eq!(notes(3, 7).begun, begun());
    }

    #[test]
    fn what_is_newer_or_damaged_is_refused() {
        let parse = |text: &[u8]| Notes::parse(&[(BEGUN.to_owned(), text.to_vec())]).unwrap_err();
        assert_eq!(parse(br#"{"format": 2, "what": "ever"}"#), Unreadable::Newer);
        assert!(parse(br#"{"format": 1}"#).to_string().contains("run/begun: missing field"));
        assert!(parse(b"\0\0").to_string().contains("cannot be read"));
    }
}
