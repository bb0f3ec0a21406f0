//! Files of rows: never overwritten unasked, never mixed up with the input, and their failure is heard.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A file of rows. Rows reach the disk at [`Output::flush`], when the buffer is full and at [`Output::finish`].
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: File,
    /// What was not written yet.
    buffer: Vec<u8>,
    rows: u64,
    /// A full disk is waited for.
    patient: bool,
    full: Option<io::Error>,
}

/// So many bytes are written at once.
const BUFFER: usize = 64 << 10;

/// Why rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file is there.
    #[error("{path:?} exists; give --force to overwrite it, or another name")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Two of the input, the results and the dead file are one.
    #[error("{path:?} is also {what}; give another name")]
    Same {
        /// The file.
        path: PathBuf,
        /// What else it is.
        what: &'static str,
    },
    /// The file cannot be made.
    #[error("cannot open {path:?} for writing: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written cannot be looked at.
    #[error("cannot look at what was written: {0}")]
    Look(io::Error),
    /// The disk is full, or worse.
    #[error("cannot write to {path:?} after {rows} rows: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// How many rows were written before; the last of them may be missing.
        rows: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// A file that must not be overwritten, and what to call it.
#[derive(Debug, Clone, Copy)]
pub struct InUse {
    device: u64,
    inode: u64,
    what: &'static str,
}

impl InUse {
    /// By its metadata.
    #[must_use]
    pub fn new(metadata: &Metadata, what: &'static str) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), what }
    }
}

impl Output {
    /// Whether [`Output::create`] would refuse, without touching anything.
    ///
    /// # Errors
    /// As [`Output::create`].
    pub fn check(path: &Path, force: bool, in_use: &[InUse]) -> Result<(), OutputError> {
        // Only files can be overwritten: a terminal, a pipe or /dev/null is there to be written to.
        let Some(metadata) = fs::metadata(path).ok().filter(Metadata::is_file) else { return Ok(()) };
        let same = |used: &&InUse| used.device == metadata.dev() && used.inode == metadata.ino();
        match in_use.iter().find(same) {
            Some(used) => Err(OutputError::Same { path: path.to_owned(), what: used.what }),
            None if force => Ok(()),
            None => Err(OutputError::Exists { path: path.to_owned() }),
        }
    }

    /// Makes the file. One that exists is emptied with `force` and refused without.
    ///
    /// # Errors
    /// It exists, is in use, or cannot be made.
    pub fn create(path: &Path, force: bool, in_use: &[InUse]) -> Result<Self, OutputError> {
        Self::check(path, force, in_use)?;
        let failed = |source| OutputError::Open { path: path.to_owned(), source };
        let special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let mut options = OpenOptions::new();
        options.write(true);
        match (special, force) {
            (true, _) => {}
            (false, true) => drop(options.read(true).create(true).truncate(true)),
            // Refuses a file that somebody made since the check, too.
            (false, false) => drop(options.read(true).create_new(true)),
        }
        let file = options.open(path).map_err(failed)?;
        Ok(Self::of(path, file))
    }

    /// Goes on with a file behind so many bytes; what follows them is cut off. One that is missing is made.
    ///
    /// # Errors
    /// It is in use, or cannot be opened.
    pub fn resume(path: &Path, length: u64, in_use: &[InUse]) -> Result<Self, OutputError> {
        Self::check(path, true, in_use)?;
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let cut = opened.and_then(|mut file| {
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        });
        let file = cut.map_err(|source| OutputError::Open { path: path.to_owned(), source })?;
        Ok(Self::of(path, file))
    }

    fn of(path: &Path, file: File) -> Self {
        let buffer = Vec::with_capacity(BUFFER);
        Self { path: path.to_owned(), file, buffer, rows: 0, patient: false, full: None }
    }

    /// From now on a full disk is no failure: rows wait in memory, and the next flush tries again. Whoever writes is to look
    /// at [`Output::is_full`], and to wait as well.
    pub fn be_patient(&mut self) {
        self.patient = true;
    }

    /// Why rows wait in memory, for people.
    #[must_use]
    pub fn is_full(&self) -> Option<String> {
        self.full.as_ref()?;
        Some(format!("the disk under {:?} is full: make room, and it goes on by itself", self.path))
    }

    /// Every row so far is on disk when this returns; the file, to look at.
    ///
    /// # Errors
    /// The disk's, also where it is full.
    pub fn sync(&mut self) -> Result<&File, OutputError> {
        let synced = self.push().and_then(|()| self.file.sync_data());
        self.said(synced)?;
        Ok(&self.file)
    }

    /// So that no other output takes it.
    ///
    /// # Errors
    /// The system's.
    pub fn in_use(&self, what: &'static str) -> Result<InUse, OutputError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| InUse::new(&metadata, what))
            .map_err(|source| OutputError::Open { path: self.path.clone(), source })
    }

    /// Adds a row and its line break.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, row: &[u8]) -> Result<(), OutputError> {
        self.buffer.extend_from_slice(row);
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER && self.full.is_none() {
            self.flush()?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Adds a row that was just made.
    ///
    /// # Errors
    /// The disk's, or the row could not be made.
    pub fn write_json(&mut self, row: serde_json::Result<Vec<u8>>) -> Result<(), OutputError> {
        match row {
            Ok(row) => self.write(&row),
            Err(error) => self.said(Err(error.into())),
        }
    }

    /// Lets readers see every row so far; call it now and then.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        let flushed = match self.push() {
            Err(error) if self.patient && is_full(&error) => {
                self.full = Some(error);
                Ok(())
            }
            flushed => flushed,
        };
        self.said(flushed)
    }

    /// Writes what waits. What was not written waits on.
    fn push(&mut self) -> io::Result<()> {
        let mut written = 0;
        let done = loop {
            if written == self.buffer.len() {
                break Ok(());
            }
            match self.file.write(&self.buffer[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.buffer.drain(..written);
        self.buffer.shrink_to(BUFFER);
        if done.is_ok() {
            self.full = None;
        }
        done
    }

    /// Writes what is left and says how many rows there are.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(mut self) -> Result<u64, OutputError> {
        self.flush()?;
        Ok(self.rows)
    }

    fn said(&self, done: io::Result<()>) -> Result<(), OutputError> {
        done.map_err(|source| OutputError::Write { path: self.path.clone(), rows: self.rows, source })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_not_overwritten_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        let mut output = Output::create(&path, false, &[]).unwrap();
        output.write(b"{}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"", "buffered");
        output.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
        output.write(b"[]").unwrap();
        assert_eq!(output.finish().unwrap(), 2);

        let error = Output::create(&path, false, &[]).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"{}\n[]\n");
        Output::create(&path, true, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn force_does_not_empty_a_file_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let (input, link) = (directory.path().join("input"), directory.path().join("link"));
        fs::write(&input, "jobs").unwrap();
        fs::hard_link(&input, &link).unwrap();
        let used = [InUse::new(&fs::metadata(&input).unwrap(), "the input")];
        let error = Output::create(&link, true, &used).unwrap_err();
        assert!(error.to_string().contains("also the input"), "{error}");
        assert_eq!(fs::read(&input).unwrap(), b"jobs");

        let first = Output::create(&directory.path().join("out"), true, &used).unwrap();
        let used = [first.in_use("the results").unwrap()];
        assert!(Output::create(&directory.path().join("out"), true, &used).is_err());
    }

    #[test]
    fn a_device_is_written_to_and_a_full_one_is_heard() {
        Output::create(Path::new("/dev/null"), false, &[]).unwrap().write(b"{}").unwrap();
        if !Path::new("/dev/full").exists() {
            return;
        }
        let mut output = Output::create(Path::new("/dev/full"), false, &[]).unwrap();
        output.write(b"{}").unwrap();
        let error = output.flush().unwrap_err();
        assert!(error.to_string().contains("after 1 rows") && error.to_string().contains("No space"), "{error}");
        let mut output = Output::create(Path::new("/dev/full"), false, &[]).unwrap();
        output.be_patient();
        for _ in 0..BUFFER {
            output.write(b"{}").unwrap();
        }
        output.flush().unwrap();
        assert!(output.is_full().unwrap().contains("make room") && output.sync().is_err());
        assert_eq!(output.buffer.len(), 3 * BUFFER, "nothing is lost");
        let missing = Output::create(Path::new("/no/such/directory/file"), false, &[]).unwrap_err();
        assert!(matches!(missing, OutputError::Open { .. }), "{missing}");
    }
}
