//! Which input it is, so that no journal is ever used for another.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use queue_core::JobId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How much of the beginning tells one input from another, in bytes.
const HEAD: u64 = 64 << 10;

/// An input, by how it begins. So it may be moved, copied and appended to, but not be another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputId {
    /// So many bytes of it, at most 64 KiB: all there were when the run began.
    head: u64,
    /// Their SHA-256.
    digest: [u8; 32],
}

impl InputId {
    /// Of a file as it is now.
    ///
    /// # Errors
    /// The system's.
    pub fn of(file: &File) -> io::Result<Self> {
        let head = file.metadata()?.len().min(HEAD);
        Ok(Self { head, digest: digest(file, head)? })
    }

    /// Whether a file begins like the one this was made of.
    ///
    /// # Errors
    /// The system's.
    pub fn is(&self, file: &File) -> io::Result<bool> {
        if self.head > HEAD || file.metadata()?.len() < self.head {
            return Ok(false);
        }
        Ok(digest(file, self.head)? == self.digest)
    }

    /// The job of a line: the same whenever it is read, another where the line was edited or has moved.
    #[must_use]
    pub fn job(&self, line: u64, text: &[u8]) -> JobId {
        JobId::derive(&[&self.digest[..], text].concat(), line)
    }
}

fn digest(file: &File, length: u64) -> io::Result<[u8; 32]> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Sha256::digest(bytes).into())
}

/// Tells a text from others; it is kept in notes.
#[must_use]
pub fn check(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(text)[..8]);
    u64::from_le_bytes(first)
}

/// Reads a file from some offset on, whoever else reads it.
#[derive(Debug)]
pub struct From {
    file: Arc<File>,
    offset: u64,
}

impl From {
    /// From there.
    #[must_use]
    pub fn new(file: Arc<File>, offset: u64) -> Self {
        Self { file, offset }
    }
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_input_may_grow_but_not_change_its_beginning() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\ntwo\n").unwrap();
        let id = InputId::of(&file).unwrap();
        file.write_all(b"three\n").unwrap();
        assert!(id.is(&file).unwrap(), "appended to");
        file.set_len(7).unwrap();
        assert!(!id.is(&file).unwrap(), "cut");
        file.set_len(8).unwrap();
        assert!(!id.is(&file).unwrap(), "its last byte is another");
        file.write_all_at(b"\n", 7).unwrap();
        assert!(id.is(&file).unwrap());
        file.write_all_at(b"O", 0).unwrap();
        assert!(!id.is(&file).unwrap());
    }

    #[test]
    fn beyond_its_beginning_it_is_not_looked_at() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; HEAD as usize + 10]).unwrap();
        let id = InputId::of(&file).unwrap();
        file.write_all_at(b"y", HEAD).unwrap();
        assert!(id.is(&file).unwrap());
        file.write_all_at(b"y", HEAD - 1).unwrap();
        assert!(!id.is(&file).unwrap());
    }

    #[test]
    fn a_job_is_its_input_line_and_text() {
        let file = tempfile::tempfile().unwrap();
        let id = InputId::of(&file).unwrap();
        assert_eq!(id.job(1, b"a"), id.job(1, b"a"));
        assert_ne!(id.job(1, b"a"), id.job(2, b"a"));
        assert_ne!(id.job(1, b"a"), id.job(1, b"b"));
        file.write_all_at(b"x", 0).unwrap();
        assert_ne!(InputId::of(&file).unwrap().job(1, b"a"), id.job(1, b"a"));
        // Pinned: a journal of an older version must be resumed with the same ids.
        assert_eq!(id.job(1, b"a").to_string(), "a95f5441-f1b9-8df2-b599-41eacf12cbbb");
    }

    #[test]
    fn a_file_is_read_from_anywhere() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut text = String::new();
        From::new(Arc::new(file), 4).read_to_string(&mut text).unwrap();
        assert_eq!(text, "456789");
    }
}
