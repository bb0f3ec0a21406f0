//! A store that outlives the process.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use queue_core::{Env, Result, job::StoreId};

use super::{
    MemoryTracking, Shared, TrackingLimits,
    keeper::Keeper,
    restore::Rows,
    rows::{OWNER, OwnerRow},
};
use crate::{
    JournalOptions, Recovery,
    events::Hub,
    journal::{Batch, Table, Urgency},
    queue::Now,
    store::Leaders,
};

/// Each opening counts its own fences, above all that were given out before.
const FENCES: u32 = 40;

impl MemoryTracking {
    /// Opens a store that outlives the process: what was answered before is there again.
    ///
    /// Blocks while it reads the journal: a few seconds for a million records.
    ///
    /// # Errors
    /// `STORE_IN_USE` while it is open already, here or in another process; `CONFIG` for a folder with another journal in it,
    /// such as a memory provider's; `UNSUPPORTED` for one of a newer version; `UNDECODABLE` for a damaged one; `UNAVAILABLE`
    /// when the disk refuses. Each says what to do.
    pub fn open(journal: &JournalOptions, env: Env, limits: TrackingLimits) -> Result<Self> {
        let mut rows = Rows::default();
        let (journal, found) = journal.open(|row| {
            rows.take(row.table, row.key, Bytes::copy_from_slice(row.value));
            Ok(())
        })?;
        let owner = rows.owner()?.unwrap_or_else(|| OwnerRow { id: StoreId::fresh(&env), opened: 0 });
        // A rollback may have undone the count of the last opening.
        let more = if found.rolled_back.is_some() { 2 } else { 1 };
        let owner = OwnerRow { opened: owner.opened + more, ..owner };
        let mut batch = Batch::new();
        batch.put_with(Table::Records, OWNER, |out| owner.write(out));
        // Whatever is waited for comes after it, and a fence waits for it.
        let begun = journal.append(&batch, Urgency::Now);
        journal.pump();
        let recovery = Recovery { clean: found.clean, rolled_back: found.rolled_back, jobs: rows.jobs() };
        let recovery = Some(recovery);
        let (hub, first) = (Hub::new(), owner.opened << FENCES);
        let ledger = rows.into_ledger(limits, hub.clone(), first, !found.clean, Now::read(&env));
        let (id, leaders, keeper) = (owner.id, Leaders::after(first), Keeper::new(journal, begun));
        let ledger = Mutex::new(ledger);
        Ok(Self { shared: Arc::new(Shared { env, id, hub, leaders, ledger, keeper, recovery }) })
    }

    /// What the journal held when it was opened; `None` without a journal.
    #[must_use]
    pub fn recovery(&self) -> Option<&Recovery> {
        self.shared.recovery.as_ref()
    }

    /// Ends as a crash would: what is not on disk is lost, and every call from now on is refused. For tests.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.shared.keeper.abandon();
    }
}
