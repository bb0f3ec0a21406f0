//! A disk in memory that can be full, refuse, and lose its power: for simulations and tests.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use redb::StorageBackend;

/// What a disk writes at once, in bytes: a write that power cuts short ends at such a border.
const SECTOR: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct ModelDisk(Arc<Disk>);

#[derive(Debug, Default)]
struct Disk {
    platter: Mutex<Platter>,
    /// Told when the disk answers again.
    answers: Condvar,
}

#[derive(Debug, Default)]
struct Platter {
    /// What a reader sees.
    bytes: Vec<u8>,
    /// What survives a loss of power for certain.
    synced: Vec<u8>,
    /// What was done since, which may.
    pending: Vec<Change>,
    refuses: Option<ErrorKind>,
    stalled: bool,
    /// Everything done since recording began.
    #[cfg(test)]
    log: Option<Vec<Event>>,
}

/// What changes a file.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

/// What was done to a recorded disk.
#[cfg(test)]
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Changed(Change),
    Synced,
}

impl ModelDisk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that holds these bytes, synced.
    #[must_use]
    pub fn with(bytes: Vec<u8>) -> Self {
        let platter = Platter { synced: bytes.clone(), bytes, ..Platter::default() };
        Self(Arc::new(Disk { platter: Mutex::new(platter), answers: Condvar::new() }))
    }

    /// Every write and sync fails so from now on; none does with `None`.
    pub fn refuse(&self, kind: Option<ErrorKind>) {
        self.0.platter.lock().refuses = kind;
    }

    /// Every write and sync blocks from now on, as on a network that is away, until this is taken back. Not for a journal
    /// without a thread of its own.
    pub fn stall(&self, stalled: bool) {
        self.0.platter.lock().stalled = stalled;
        self.0.answers.notify_all();
    }

    /// What a reader sees: what is left when the process is killed, but not the machine.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.0.platter.lock().bytes.clone()
    }

    /// The disk after a loss of power: what was synced, and of what was written since, whatever sectors `draw` says.
    /// It draws uniform numbers; the same ones give the same disk.
    #[must_use]
    pub fn after_power_loss(&self, draw: impl FnMut() -> u64) -> Self {
        let platter = self.0.platter.lock();
        Self::with(survivors(platter.synced.clone(), &platter.pending, draw))
    }

    /// All that was written is on disk.
    #[cfg(test)]
    pub(crate) fn sync(&self) {
        self.0.platter.lock().sync();
    }

    /// Remembers from now on what is done.
    #[cfg(test)]
    pub(crate) fn record(&self) {
        self.0.platter.lock().log = Some(Vec::new());
    }

    #[cfg(test)]
    pub(crate) fn recorded(&self) -> Vec<Event> {
        self.0.platter.lock().log.clone().unwrap_or_default()
    }

    fn refused(&self) -> io::Result<()> {
        let mut platter = self.0.platter.lock();
        while platter.stalled {
            self.0.answers.wait(&mut platter);
        }
        platter.refuses.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn change(&self, change: Change) {
        let mut platter = self.0.platter.lock();
        change.apply(&mut platter.bytes);
        #[cfg(test)]
        if let Some(log) = &mut platter.log {
            log.push(Event::Changed(change.clone()));
        }
        platter.pending.push(change);
    }
}

impl Platter {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.synced);
        }
        #[cfg(test)]
        if let Some(log) = &mut self.log {
            log.push(Event::Synced);
        }
    }
}

impl Change {
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => write(bytes, *offset, data),
            Self::Resize(len) => bytes.resize(*len, 0),
        }
    }
}

/// Within the file: its length is changed by resizing alone.
fn write(bytes: &mut [u8], offset: usize, data: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..) {
        let len = place.len().min(data.len());
        place[..len].copy_from_slice(&data[..len]);
    }
}

/// What a file system may leave of changes that were not synced. It keeps the order of resizings, which it journals, and
/// writes nothing beyond an end that it has not moved; of the data, any sectors may have been written, in any order.
pub(crate) fn survivors(mut bytes: Vec<u8>, pending: &[Change], mut draw: impl FnMut() -> u64) -> Vec<u8> {
    let mut one_of = |n: usize| usize::try_from(draw() % n.max(1) as u64).unwrap_or(0);
    let resizings = pending.iter().filter(|change| matches!(change, Change::Resize(_))).count();
    let mut resized = one_of(resizings + 1);
    // All, none, most and few of the writes are as likely as half of them.
    let of_eight = one_of(9);
    for change in pending {
        match change {
            Change::Resize(_) if resized == 0 => {}
            Change::Resize(_) => {
                resized -= 1;
                change.apply(&mut bytes);
            }
            Change::Write { offset, data } => {
                // Mostly whole writes; one in four sector by sector.
                let torn = one_of(4) == 0;
                let whole = one_of(8) < of_eight;
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if if torn { one_of(8) < of_eight } else { whole } {
                        write(&mut bytes, offset + index * SECTOR, sector);
                    }
                }
            }
        }
    }
    bytes
}

impl StorageBackend for ModelDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.platter.lock().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.platter.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = start.checked_add(out.len()).and_then(|end| platter.bytes.get(start..end));
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.refused()?;
        self.change(Change::Resize(usize::try_from(len).map_err(io::Error::other)?));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.refused()?;
        self.0.platter.lock().sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.refused()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.change(Change::Write { offset, data: data.to_vec() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::clock::{Random as _, SeededRandom};

    #[test]
    fn power_keeps_what_was_synced_and_some_of_the_rest() {
        let disk = ModelDisk::new();
        disk.set_len(4_096).unwrap();
        disk.write(0, &[1; 1_024]).unwrap();
        disk.sync_data().unwrap();
        disk.write(512, &[2; 1_024]).unwrap();
        disk.set_len(8_192).unwrap();
        let random = SeededRandom::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2_000 {
            let after = disk.after_power_loss(|| random.next_u64()).contents();
            assert_eq!(after[..512], [1; 512], "what was synced is there");
            assert!(after[512..1_024] == [1; 512] || after[512..1_024] == [2; 512], "a sector is whole");
            seen.insert((after.len(), after[512], after[1_024]));
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn a_disk_that_refuses_changes_nothing() {
        let disk = ModelDisk::with(vec![1, 2, 3]);
        disk.refuse(Some(ErrorKind::StorageFull));
        assert_eq!(disk.write(0, b"x").unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(disk.sync_data().is_err() && disk.set_len(9).is_err());
        disk.refuse(None);
        disk.write(0, b"x").unwrap();
        assert_eq!(disk.contents(), [b'x', 2, 3]);
    }
}
