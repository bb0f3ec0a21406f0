//! A disk in memory that outlives its journal, and may be full.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Mutex<Vec<u8>>,
    quota: AtomicU64,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { bytes: Mutex::default(), quota: AtomicU64::new(u64::MAX) }))
    }

    /// As it is now, on another disk: what a crash at this moment leaves.
    pub(crate) fn copy(&self) -> Self {
        let bytes = Mutex::new(self.0.bytes.lock().clone());
        Self(Arc::new(Inner { bytes, quota: AtomicU64::new(u64::MAX) }))
    }

    /// From now on it takes no more than so many bytes beyond what it holds; `None`: as many as come.
    pub(crate) fn limit(&self, more: Option<u64>) {
        let quota = more.map_or(u64::MAX, |more| self.0.bytes.lock().len() as u64 + more);
        self.0.quota.store(quota, Ordering::Relaxed);
    }

    fn fits(&self, len: u64) -> io::Result<()> {
        let fits = len <= self.0.quota.load(Ordering::Relaxed);
        if fits { Ok(()) } else { Err(io::Error::new(io::ErrorKind::StorageFull, "no space left")) }
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).unwrap();
        let found = bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fits(len)?;
        self.0.bytes.lock().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // A full disk refuses what was written into holes, at the latest here.
        let len = self.0.bytes.lock().len() as u64;
        self.fits(len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fits(offset + data.len() as u64)?;
        let mut bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).unwrap();
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}
