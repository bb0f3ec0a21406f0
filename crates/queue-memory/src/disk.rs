//! A disk in memory, for tests and simulations of what is kept on one.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use redb::StorageBackend;

/// A disk in memory: what is kept on it outlives whoever opened it, and it can be made to refuse. Nothing on it runs by itself:
/// what is opened on it commits within the calls that wait for a commit, so that a simulation replays exactly.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Surface>);

#[derive(Debug, Default)]
struct Surface {
    bytes: Mutex<Vec<u8>>,
    full: AtomicBool,
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on it refuses every write as a full disk does, or takes them again.
    pub fn fill(&self, full: bool) {
        self.0.full.store(full, Ordering::Relaxed);
    }

    /// Another disk with what is on this one now, as a power failure would leave it.
    #[must_use]
    pub fn image(&self) -> Self {
        Self(Arc::new(Surface { bytes: Mutex::new(self.0.bytes.lock().clone()), full: AtomicBool::new(false) }))
    }

    /// How much is on it, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.bytes.lock().len()
    }

    /// As the journal opens it.
    pub(crate) fn backend(&self) -> Arc<dyn StorageBackend> {
        Arc::<Surface>::clone(&self.0)
    }
}

impl Surface {
    fn writable(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

fn place(offset: u64, len: usize, all: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    match start.checked_add(len) {
        Some(end) if end <= all => Ok(start..end),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl StorageBackend for Surface {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.lock();
        out.copy_from_slice(&bytes[place(offset, out.len(), bytes.len())?]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        self.bytes.lock().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writable()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writable()?;
        let mut bytes = self.bytes.lock();
        let place = place(offset, data.len(), bytes.len())?;
        bytes[place].copy_from_slice(data);
        Ok(())
    }
}
