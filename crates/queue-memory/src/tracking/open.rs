//! A store in a folder.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use queue_core::{Env, Error, ErrorCode, Result, job::StoreId};

use super::{
    MemoryTracking, Shared, TrackingLimits,
    keeper::Keeper,
    restore::Rows,
    rows::{OWNER, OwnerRow},
};
use crate::{
    Disk,
    events::Hub,
    journal::{Batch, Journal, Mode, Options, Recovered, Row, Table, Urgency},
    queue::Now,
    store::Leaders,
};

/// Each opening counts its own fences, above all that were given out before.
const FENCES: u32 = 40;

impl MemoryTracking {
    /// Opens the store in a folder, which is made if need be: what was answered before is there again. Blocks a thread for
    /// blocking work while it reads all of it.
    ///
    /// # Errors
    /// `STORE_IN_USE` while it is open already, here or in another process; `CONFIG` for a folder with another journal in it,
    /// such as a memory provider's; `UNSUPPORTED` for one of a newer version; `UNDECODABLE` for a damaged one; `UNAVAILABLE`
    /// when the disk refuses.
    pub async fn open(dir: impl Into<PathBuf>, env: Env, limits: TrackingLimits) -> Result<Self> {
        let dir = dir.into();
        let name = format!("`{}`", dir.display());
        let opening = move || Self::recover(&name, env, limits, |rows| Journal::open(&dir, &Options::default(), rows));
        let lost = |error| Error::new(ErrorCode::Internal, "opening a journal panicked").caused_by(error);
        let (store, journal) = tokio::task::spawn_blocking(opening).await.map_err(lost)??;
        store.begin(&journal).await?;
        Ok(store)
    }

    /// Opens the store on a disk in memory. Nothing of it blocks or runs by itself.
    ///
    /// # Errors
    /// As [`MemoryTracking::open`].
    pub async fn open_on(disk: &Disk, env: Env, limits: TrackingLimits) -> Result<Self> {
        let (store, journal) = Self::recover("memory", env, limits, |rows| {
            Journal::in_backend(disk.backend(), Mode::Inline, &Options::default(), rows)
        })?;
        store.begin(&journal).await?;
        Ok(store)
    }

    /// Ends as `kill -9` would, for tests: what is not on disk is lost, and every call from now on is refused.
    pub fn crash(&self) {
        self.shared.keeper.abandon();
    }

    /// Reads all of a journal. The store may not be used before [`MemoryTracking::begin`].
    fn recover(
        name: &str,
        env: Env,
        limits: TrackingLimits,
        open: impl FnOnce(&mut dyn FnMut(Row<'_>) -> Result<()>) -> Result<(Journal, Recovered)>,
    ) -> Result<(Self, Journal)> {
        let mut rows = Rows::default();
        let (journal, found) = open(&mut |row| {
            rows.take(row.table, row.key, Bytes::copy_from_slice(row.value));
            Ok(())
        })?;
        let hub = Hub::new();
        let owner = rows.owner(name)?.unwrap_or_else(|| OwnerRow { id: StoreId::fresh(&env), opened: 0 });
        let opened = OwnerRow { opened: owner.opened + 1, ..owner };
        let mut batch = Batch::new();
        batch.put(Table::Notes, OWNER, &opened.encode());
        let _ = journal.append(&batch, Urgency::Now);
        let suspect = !found.clean;
        let ledger = rows.into_ledger(limits, hub.clone(), opened.opened << FENCES, suspect, Now::read(&env));
        let (leaders, keeper) = (Leaders::after(opened.opened << FENCES), Keeper::new(journal.clone()));
        let shared = Shared { env, id: opened.id, hub, leaders, ledger: Mutex::new(ledger), keeper };
        Ok((Self { shared: Arc::new(shared) }, journal))
    }

    /// Waits until the disk knows that it was opened: no fence may be given out before.
    async fn begin(&self, journal: &Journal) -> Result<()> {
        let ticket = journal.append(&Batch::new(), Urgency::Now);
        journal.committed(ticket).await
    }
}
