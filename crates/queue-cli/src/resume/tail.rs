//! The end of a results file that an earlier life may have left half-written.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use queue_core::JobId;
use serde::Deserialize;

use super::{
    identity::{self, From},
    notes::Written,
};
use crate::results::Status;

/// So much of the end of what is safe is looked at, in bytes.
const END: u64 = 4 << 10;

/// Why an output cannot be continued, for people.
#[derive(Debug, thiserror::Error)]
pub enum NotContinued {
    /// It is gone.
    #[error("{0:?} is not there, and this run has written to it: put it back, or begin anew with --fresh")]
    Missing(PathBuf),
    /// It is another file, or was cut or edited.
    #[error(
        "{0:?} is not as this run has left it: give the file that it wrote, or begin anew with --fresh and another name"
    )]
    Another(PathBuf),
    /// It cannot be read.
    #[error("cannot read {0:?}: {1}")]
    Read(PathBuf, io::Error),
}

/// A whole row behind what is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailRow {
    /// What it says.
    pub head: RowHead,
    /// As it was written, without its line break.
    pub bytes: Vec<u8>,
}

/// What matters of a row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RowHead {
    /// The job, where the line was one.
    pub id: Option<JobId>,
    /// The line.
    pub line: u64,
    /// How it ended.
    pub status: Status,
    /// How often it was started.
    pub attempts: u32,
    /// Milliseconds.
    pub wait_ms: u64,
    /// Milliseconds.
    pub run_ms: u64,
}

/// How far a file is written: call it when all of that is on disk.
///
/// # Errors
/// The system's.
pub fn written(file: &File) -> io::Result<Written> {
    let length = file.metadata()?.len();
    end_of(file, length)
}

fn end_of(file: &File, length: u64) -> io::Result<Written> {
    let begin = length.saturating_sub(END);
    let mut end = vec![0; usize::try_from(length - begin).unwrap_or_default()];
    file.read_exact_at(&mut end, begin)?;
    Ok(Written { length, check: identity::check(&end) })
}

/// Whether a file is the one that was written. What is behind that is not looked at.
///
/// # Errors
/// It is not.
pub fn check(path: &Path, safe: &Written) -> Result<(), NotContinued> {
    open(path, safe).map(drop)
}

fn open(path: &Path, safe: &Written) -> Result<Option<File>, NotContinued> {
    let failed = |error| NotContinued::Read(path.to_owned(), error);
    let file = match File::open(path) {
        Ok(file) => file,
        // The run had just begun.
        Err(error) if error.kind() == io::ErrorKind::NotFound && safe.length == 0 => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NotContinued::Missing(path.to_owned())),
        Err(error) => return Err(failed(error)),
    };
    let length = file.metadata().map_err(failed)?.len();
    let same = safe.length == 0 || (length >= safe.length && end_of(&file, safe.length).map_err(failed)? == *safe);
    if same { Ok(Some(file)) } else { Err(NotContinued::Another(path.to_owned())) }
}

/// The rows behind what is safe, up to the first that is torn. Whatever follows was never finished.
///
/// # Errors
/// The file is not the one that was written.
pub fn read(path: &Path, safe: &Written) -> Result<Vec<TailRow>, NotContinued> {
    let Some(file) = open(path, safe)? else { return Ok(Vec::new()) };
    let failed = |error| NotContinued::Read(path.to_owned(), error);
    let mut tail = Vec::new();
    From::new(file.into(), safe.length).read_to_end(&mut tail).map_err(failed)?;
    let mut rows = Vec::new();
    for line in tail.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        match serde_json::from_slice(line) {
            Ok(head) => rows.push(TailRow { head, bytes: line.to_vec() }),
            // No row of ours was ever safe in it: it is somebody's file.
            Err(_) if rows.is_empty() && safe.length == 0 => return Err(NotContinued::Another(path.to_owned())),
            Err(_) => break,
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ROW: &str = r#"{"id":null,"line":1,"status":"invalid","attempts":0,"error":{},"wait_ms":0,"run_ms":0}"#;

    #[test]
    fn the_tail_begins_where_it_is_safe() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        let nothing = Written::default();
        assert_eq!(read(&path, &nothing).unwrap(), []);
        fs::write(&path, format!("{ROW}\n{ROW}\n{}", &ROW[..20])).unwrap();
        assert_eq!(read(&path, &nothing).unwrap().len(), 2);
        let safe = end_of(&File::open(&path).unwrap(), ROW.len() as u64 + 1).unwrap();
        let rows = read(&path, &safe).unwrap();
        assert_eq!((rows.len(), rows[0].head.line, rows[0].bytes.as_slice()), (1, 1, ROW.as_bytes()));
        fs::write(&path, format!("{ROW}\n{ROW}\n\0\0\0\n{ROW}\n")).unwrap();
        assert_eq!(read(&path, &safe).unwrap().len(), 1, "what a lost power left");
    }

    #[test]
    fn another_file_is_not_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        fs::write(&path, format!("{ROW}\n")).unwrap();
        let safe = written(&File::open(&path).unwrap()).unwrap();
        read(&path, &safe).unwrap();
        let refused = || read(&path, &safe).unwrap_err().to_string();
        fs::write(&path, "").unwrap();
        assert!(refused().contains("as this run has left it"));
        fs::write(&path, format!("{}\n", ROW.replace('1', "2"))).unwrap();
        assert!(refused().contains("as this run has left it"));
        fs::remove_file(&path).unwrap();
        assert!(refused().contains("put it back"));
        fs::write(&path, "precious\n").unwrap();
        let nothing = Written::default();
        assert!(read(&path, &nothing).is_err(), "somebody else's");
    }
}
