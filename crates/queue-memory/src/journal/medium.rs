//! Where the file is: a folder that is locked while it is open, or a disk of the caller's.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use queue_core::Result;
use redb::{Database, StorageBackend, backends::FileBackend};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Options,
    error::{Fault, caught},
};

/// The file's names in its folder.
const FILE: &str = "journal.redb";
/// While it is being made: a file that has the right name is whole.
const NEW: &str = "journal.redb.new";
/// Locked while the journal is open; holds the [`Mark`].
const LOCK: &str = "journal.lock";
const PROBE: &str = "journal.probe";

/// Of the library's header: where its flags are, and which of them mean what.
const FLAGS: u64 = 9;
const UNCLEAN: u8 = 2;
const TWO_PHASE: u8 = 4;

/// Where the file is.
#[derive(Debug, Clone)]
pub(super) enum Medium {
    Folder { dir: PathBuf, lock: Arc<File> },
    Backend { backend: Arc<dyn StorageBackend>, marked: Arc<AtomicU64> },
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) database: Database,
    /// Why the newest commit was given up, if it was.
    pub(super) rolled_back: Option<String>,
}

impl Medium {
    /// Makes the folder if need be, and locks it.
    pub(super) fn folder(dir: &Path) -> Result<Self> {
        let lock = || {
            std::fs::create_dir_all(dir)?;
            let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => {
                    // A process that was killed while it probed left what takes the rest of the disk.
                    match std::fs::remove_file(dir.join(PROBE)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                        _ => Ok(lock),
                    }
                }
                Err(TryLockError::WouldBlock) => Err(Fault::InUse),
                Err(TryLockError::Error(error)) => Err(error.into()),
            }
        };
        match lock() {
            Ok(lock) => Ok(Self::Folder { dir: dir.to_owned(), lock: Arc::new(lock) }),
            Err(fault) => Err(fault.into_error(&name(dir))),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Folder { dir, .. } => name(dir),
            Self::Backend { .. } => "memory".to_owned(),
        }
    }

    /// Opens the file and checks all of it: every page against its checksum. `make` is called with a database that is to
    /// become a new file.
    ///
    /// A damaged newest commit of a file that was not closed is given up for the one before it. The library refuses that
    /// after a commit in two phases, for which a stop is no excuse; after one in one phase it goes back by itself, as
    /// nobody was told yet that it is there. (Its compaction commits so, and changes no row.)
    pub(super) fn open(
        &self,
        options: &Options,
        make: impl FnOnce(&Database) -> Result<(), Fault>,
    ) -> Result<Opened, Fault> {
        self.make(options, make)?;
        match caught(|| self.open_once(options)) {
            Err(Fault::Damaged(what)) if self.go_back()? => {
                let opened = self.open_once(options)?;
                Ok(Opened { rolled_back: Some(what), ..opened })
            }
            opened => opened,
        }
    }

    fn open_once(&self, options: &Options) -> Result<Opened, Fault> {
        let mut builder = builder(options);
        builder.set_check_integrity_on_open(true);
        let database = match self {
            Self::Folder { dir, .. } => builder.open(dir.join(FILE))?,
            Self::Backend { backend, .. } => builder.create_with_backend(Handed(backend.clone()))?,
        };
        Ok(Opened { database, rolled_back: None })
    }

    /// Makes the file where there is none. In a folder it gets its name once it is whole.
    fn make(&self, options: &Options, make: impl FnOnce(&Database) -> Result<(), Fault>) -> Result<(), Fault> {
        match self {
            Self::Folder { dir, .. } if !dir.join(FILE).try_exists()? => {
                let new = dir.join(NEW);
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
                let database = builder(options).create_with_backend(FileBackend::new(file)?)?;
                make(&database)?;
                database.close()?;
                std::fs::rename(&new, dir.join(FILE))?;
                // The name must be as durable as what will be promised.
                Ok(File::open(dir)?.sync_all()?)
            }
            Self::Backend { backend, .. } if backend.len()? == 0 => {
                let database = builder(options).create_with_backend(Handed(backend.clone()))?;
                make(&database)?;
                Ok(database.close()?)
            }
            Self::Folder { dir, .. } if std::fs::metadata(dir.join(FILE))?.len() == 0 => {
                Err(Fault::damaged("the file is empty"))
            }
            _ => Ok(()),
        }
    }

    /// Lets the library go back a commit; false where the file was closed, for then nothing was being written.
    fn go_back(&self) -> Result<bool, Fault> {
        let mut flags = [0];
        let may = |flags: u8| flags & UNCLEAN != 0 && flags & TWO_PHASE != 0;
        match self {
            Self::Folder { dir, .. } => {
                let mut file = OpenOptions::new().read(true).write(true).open(dir.join(FILE))?;
                file.seek(SeekFrom::Start(FLAGS))?;
                if file.read(&mut flags)? == 0 || !may(flags[0]) {
                    return Ok(false);
                }
                file.seek(SeekFrom::Start(FLAGS))?;
                file.write_all(&[flags[0] & !TWO_PHASE])?;
                file.sync_all()?;
            }
            Self::Backend { backend, .. } => {
                if backend.len()? <= FLAGS {
                    return Ok(false);
                }
                backend.read(FLAGS, &mut flags)?;
                if !may(flags[0]) {
                    return Ok(false);
                }
                backend.write(FLAGS, &[flags[0] & !TWO_PHASE])?;
                backend.sync_data()?;
            }
        }
        Ok(true)
    }

    /// The length of the file, in bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Folder { dir, .. } => Ok(std::fs::metadata(dir.join(FILE))?.len()),
            Self::Backend { backend, .. } => backend.len(),
        }
    }

    /// Whether the disk has room for so many bytes: opening a large file again, only to hear that it is still full, would
    /// read all of it each time.
    pub(super) fn probe(&self, bytes: u64) -> io::Result<()> {
        let Self::Folder { dir, .. } = self else { return Ok(()) };
        let path = dir.join(PROBE);
        let probed = File::create(&path).and_then(|mut file| {
            io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
            file.sync_data()
        });
        // Where there is no room for a name either, there is nothing to remove.
        match (probed, std::fs::remove_file(&path)) {
            (Ok(()), removed) => removed,
            (refused, _) => refused,
        }
    }

    /// Notes the newest commit beside the file. It is not synced: it is there after the process was killed, and may be
    /// behind, but never ahead, after the machine lost its power.
    pub(super) fn mark(&self, sequence: u64) -> io::Result<()> {
        match self {
            Self::Folder { lock, .. } => {
                let mut file = &**lock;
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&Mark(sequence).to_bytes())?;
            }
            Self::Backend { marked, .. } => marked.store(sequence, Ordering::Relaxed),
        }
        Ok(())
    }

    /// The newest commit that was noted, if that can be read.
    pub(super) fn marked(&self) -> Option<u64> {
        let lock = match self {
            Self::Folder { lock, .. } => lock,
            Self::Backend { marked, .. } => return Some(marked.load(Ordering::Relaxed)),
        };
        let (mut file, mut bytes) = (&**lock, [0; Mark::LEN]);
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        Mark::from_bytes(&bytes).map(|mark| mark.0)
    }
}

fn name(dir: &Path) -> String {
    format!("`{}`", dir.display())
}

fn builder(options: &Options) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache);
    builder
}

/// The sequence of the newest commit, with a checksum.
struct Mark(u64);

impl Mark {
    const LEN: usize = 16;

    fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&xxh3_64(&self.0.to_le_bytes()).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (number, sum) = bytes.split_first_chunk::<8>()?;
        (xxh3_64(number).to_le_bytes() == *sum).then(|| Self(u64::from_le_bytes(*number)))
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
