//! Queues that outlive the process: opening them from their journal.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use hashbrown::HashMap;
use queue_core::{
    Env, Error, ErrorCode, Result,
    job::{QueueName, StoreId, UniqueKey},
};

use crate::{
    Amnesia, MemoryProvider, ModelDisk,
    events::Hub,
    journal::{self, Batch, Journal, Table, Urgency, parts},
    notes::Named,
    provider::Shared,
    queue::{Changes, Now, Queue, Restoring, Side},
    rows::{Broken, GoneRow, JobRow, QueueRow, StateRow, WindowRow},
    store::Leaders,
    topics::Subscriptions,
};

/// Each opening counts its own epochs of leadership, above all that were given out before.
const EPOCHS: u32 = 40;

/// Where a provider's journal is, and how it behaves.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    place: Place,
    options: journal::Options,
    forgets: Option<Amnesia>,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Disk(ModelDisk, journal::Mode),
}

/// What was found in a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// It was closed in order, or is new. Otherwise the process before ended without warning: each job that is claimed for
    /// the first time since is on disk as such before it is handed out, because it may have been the cause.
    pub clean: bool,
    /// The newest changes were damaged and are gone; says what is known of them.
    pub rolled_back: Option<String>,
    /// Jobs that are remembered, finished ones included.
    pub jobs: u64,
}

impl JournalOptions {
    /// A journal in a folder of its own, which is made if need be.
    pub fn folder(dir: impl AsRef<Path>) -> Self {
        Self { place: Place::Folder(dir.as_ref().to_owned()), options: journal::Options::default(), forgets: None }
    }

    /// What may wait for the disk, in bytes, before new work is refused: 64 MiB unless said otherwise.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.options.buffer = bytes;
        self
    }

    /// A journal on a modelled disk, for tests. `inline`: it has no thread, and whoever waits for a commit makes it.
    #[doc(hidden)]
    #[must_use]
    pub fn on_disk(disk: &ModelDisk, inline: bool) -> Self {
        let mode = if inline { journal::Mode::Inline } else { journal::Mode::Thread };
        Self { place: Place::Disk(disk.clone(), mode), options: journal::Options::default(), forgets: None }
    }

    /// Opens badly, for tests of whoever must notice.
    #[doc(hidden)]
    #[must_use]
    pub fn forgetting(mut self, what: Option<Amnesia>) -> Self {
        self.forgets = what;
        self
    }

    pub(crate) fn open(
        &self,
        rows: impl FnMut(journal::Row<'_>) -> Result<()>,
    ) -> Result<(Journal, journal::Recovered)> {
        match &self.place {
            Place::Folder(dir) => Journal::open(dir, &self.options, rows),
            Place::Disk(disk, mode) => Journal::in_backend(Arc::new(disk.clone()), *mode, &self.options, rows),
        }
    }
}

impl MemoryProvider {
    /// Queues that outlive the process: as they were when the last one ended, in order or not. What was running then is
    /// pending again, in its place, its leases gone.
    ///
    /// Blocks while it reads the journal: a few seconds for a million waiting jobs.
    ///
    /// # Errors
    /// `STORE_IN_USE` while somebody has it open; `UNSUPPORTED` for a journal of a newer version; `CONFIG` for a folder with
    /// something else; `UNDECODABLE` for a damaged one; `UNAVAILABLE` when the disk fails. Each says what to do.
    pub fn open(journal: &JournalOptions, env: Env) -> Result<Self> {
        let mut found = Found { forgets: journal.forgets, ..Found::new(Hub::new(), Now::read(&env)) };
        let (journal, recovered) = journal.open(|row| found.row(row))?;
        Ok(Self::with_shared(found.end(&journal, recovered, env)))
    }

    /// What the journal held when it was opened; `None` without a journal.
    #[must_use]
    pub fn recovery(&self) -> Option<&Recovery> {
        self.shared.recovery.as_ref()
    }

    /// Tries to write what waits for the disk, where the journal has no thread for that. For tests.
    #[doc(hidden)]
    pub fn pump(&self) {
        if let Some(journal) = &self.shared.journal {
            journal.pump();
        }
    }

    /// Ends as a crash would: what is not on disk is lost, and the journal is not marked as closed. For tests.
    #[doc(hidden)]
    pub fn abandon(&self) {
        if let Some(journal) = &self.shared.journal {
            journal.abandon();
        }
    }
}

/// What is found while the rows come.
struct Found {
    hub: Hub,
    now: Now,
    queues: HashMap<u32, Restoring>,
    /// Rows of one queue come together.
    current: Option<(u32, Restoring)>,
    subscriptions: Subscriptions,
    notes: BTreeMap<String, Bytes>,
    store: Option<StoreId>,
    /// How often it was opened before.
    opened: u64,
    jobs: u64,
    forgets: Option<Amnesia>,
}

impl Found {
    fn new(hub: Hub, now: Now) -> Self {
        Self {
            hub,
            now,
            queues: HashMap::new(),
            current: None,
            subscriptions: Subscriptions::default(),
            notes: BTreeMap::new(),
            store: None,
            opened: 0,
            jobs: 0,
            forgets: None,
        }
    }

    fn row(&mut self, row: journal::Row<'_>) -> Result<()> {
        let taken = match row.table {
            Table::Queues => self.queue_row(row.key, row.value),
            Table::Jobs => self.job(row.key, row.value),
            Table::States => self.state(row.key, row.value),
            Table::Keys => self.side(row.key, row.value),
            Table::Notes => self.named(row.key, row.value),
            Table::Records | Table::Stages => {
                let message =
                    "the journal holds the records of another broker's jobs: give this one a folder of its own";
                return Err(Error::new(ErrorCode::Config, message).at("connect").by("memory"));
            }
        };
        taken.map_err(refuse)
    }

    fn queue_row(&mut self, key: &[u8], value: &[u8]) -> Result<(), Broken> {
        let number = key.try_into().map(u32::from_be_bytes).map_err(|_| Broken::Record("a queue's number"))?;
        let row = QueueRow::decode(Bytes::copy_from_slice(value))?;
        let row = match self.forgets {
            Some(what) => what.of_queue(row),
            None => row,
        };
        self.queues.insert(number, Restoring::begin(row, self.hub.clone(), self.now)?);
        Ok(())
    }

    fn queue(&mut self, number: u32) -> Result<&mut Restoring, Broken> {
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            self.queues.extend(self.current.take());
            let next = self.queues.remove(&number).ok_or(Broken::Record("a job without its queue"))?;
            self.current = Some((number, next));
        }
        match &mut self.current {
            Some((_, queue)) => Ok(queue),
            None => Err(Broken::Record("a job without its queue")),
        }
    }

    fn job(&mut self, key: &[u8], value: &[u8]) -> Result<(), Broken> {
        let (queue, number) = parts(key).ok_or(Broken::Record("a job's number"))?;
        self.jobs += 1;
        let row = JobRow::decode(Bytes::copy_from_slice(value))?;
        self.queue(queue)?.job(number, row)
    }

    fn state(&mut self, key: &[u8], value: &[u8]) -> Result<(), Broken> {
        let (queue, number) = parts(key).ok_or(Broken::Record("a job's number"))?;
        let row = StateRow::decode(Bytes::copy_from_slice(value))?;
        let left = match self.forgets {
            Some(what) => what.of_state(row),
            None => Some(row),
        };
        let Some(row) = left else { return Ok(()) };
        self.queue(queue)?.state(number, row)
    }

    fn side(&mut self, key: &[u8], value: &[u8]) -> Result<(), Broken> {
        let (queue, side) = Side::read(key).ok_or(Broken::Record("a key"))?;
        let value = Bytes::copy_from_slice(value);
        let forgets = self.forgets;
        let queue = self.queue(queue)?;
        match side {
            Side::Gone(number) => queue.gone(number, GoneRow::decode(value)?),
            Side::Window(_) if forgets == Some(Amnesia::Windows) => {}
            Side::Window(key) => {
                let key = UniqueKey::new(key).map_err(|_| Broken::Record("a unique key"))?;
                queue.window(key, &WindowRow::decode(value)?);
            }
        }
        Ok(())
    }

    fn named(&mut self, key: &[u8], value: &[u8]) -> Result<(), Broken> {
        match Named::read(key)? {
            Named::Note(name) => {
                self.notes.insert(name, Bytes::copy_from_slice(value));
            }
            Named::Subscription(topic, queue) => self.subscriptions.restore(&topic, &queue),
            Named::Store => {
                let (id, opened) = value.split_first_chunk().ok_or(Broken::Record("the store's id"))?;
                let id = std::num::NonZeroU64::new(u64::from_le_bytes(*id));
                let opened =
                    opened.try_into().map(u64::from_le_bytes).ok().filter(|opened| *opened < u64::MAX >> EPOCHS);
                self.store = Some(StoreId(id.ok_or(Broken::Record("the store's id"))?));
                self.opened = opened.ok_or(Broken::Record("how often the store was opened"))?;
            }
        }
        Ok(())
    }

    fn end(mut self, journal: &Journal, recovered: journal::Recovered, env: Env) -> Shared {
        self.queues.extend(self.current.take());
        let mut shared = Shared::new(env, self.hub);
        shared.store = self.store.unwrap_or(shared.store);
        // A rollback may have undone the count of the last opening.
        let opened = if self.forgets == Some(Amnesia::Openings) { 0 } else { self.opened };
        let opened = opened + if recovered.rolled_back.is_some() { 2 } else { 1 };
        let mut batch = Batch::new();
        let row = [shared.store.0.get().to_le_bytes(), opened.to_le_bytes()].concat();
        batch.put(Table::Notes, &Named::Store.key(), &row);
        // Whatever is waited for comes after it.
        shared.begun = Some(journal.append(&batch, Urgency::Now));
        shared.leaders = Leaders::after(opened << EPOCHS);
        let next = self.queues.keys().max().map_or(0, |number| u64::from(*number) + 1);
        let mut queues: HashMap<QueueName, Arc<Queue>> = HashMap::new();
        for (number, restoring) in self.queues {
            let changes = Changes::new(journal.clone(), shared.env.clone(), number);
            let queue = Queue::with_state(restoring.end(recovered.clean, changes), u64::from(number));
            queues.insert(queue.name.clone(), Arc::new(queue));
        }
        // What the end of its leases changed is written down.
        queues.values().for_each(|queue| queue.with(|_| ()));
        shared.restore(queues, next, self.subscriptions, self.notes);
        shared.recovery =
            Some(Recovery { clean: recovered.clean, rolled_back: recovered.rolled_back, jobs: self.jobs });
        shared.journal = Some(journal.clone());
        shared
    }
}

fn refuse(broken: Broken) -> Error {
    let (code, what) = match broken {
        Broken::Newer(_) => (ErrorCode::Unsupported, "open it with the program that wrote it, or a newer one"),
        Broken::Record(_) => {
            (ErrorCode::Undecodable, "restore the folder from a copy, or move it away to start with an empty one")
        }
    };
    Error::new(code, format!("the journal holds {broken}: {what}")).at("connect").by("memory")
}

#[cfg(test)]
mod tests {
    use queue_core::{Timestamp, provider::QueueProvider as _};

    use super::*;

    fn open() -> MemoryProvider {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1);
        MemoryProvider::open(&JournalOptions::on_disk(&ModelDisk::new(), true), env).unwrap()
    }

    /// Whoever drops it after a first call that was cut short is told so once it is gone for good.
    #[tokio::test(start_paused = true)]
    async fn dropping_a_queue_again_waits_for_the_first_drop() {
        let provider = open();
        let name = QueueName::from_static("q");
        provider.declare(&queue_core::QueueSpec::new(name.clone())).await.unwrap();
        let dissolve = |queue: &Queue| {
            let ((), ticket) = queue.with_kept(crate::queue::State::dissolve);
            (true, ticket)
        };
        let first = provider.shared.remove(&name, dissolve).unwrap().unwrap();
        let journal = provider.shared.journal.as_ref().unwrap();
        assert!(!journal.is_committed(first), "nobody waited for it");
        provider.drop_queue(&name, false).await.unwrap();
        assert!(journal.is_committed(first));
    }

    #[test]
    fn numbers_that_nobody_gives_out_are_refused() {
        let row = |tickets| {
            let mut bytes = Vec::new();
            let spec = queue_core::QueueSpec::new(QueueName::from_static("q"));
            QueueRow::write(&spec, &Default::default(), tickets, &mut bytes);
            bytes
        };
        let env = Env::seeded(Timestamp::from_millis(1), 1);
        let mut found = Found::new(Hub::new(), Now::read(&env));
        found.queue_row(&0u32.to_be_bytes(), &row(1 << 24)).unwrap();
        assert!(found.queue_row(&1u32.to_be_bytes(), &row(u64::MAX)).is_err());
        let mut bytes = Vec::new();
        let at = Timestamp::from_millis(1);
        let kind = queue_core::job::JobKind::from_static("k");
        let job = queue_core::Envelope::builder(queue_core::JobId::derive(b"x", 1), kind, &b""[..], at).seal();
        JobRow::write(at, 0, &job, &mut bytes);
        for (number, good) in [(0, false), (1, true), (u64::MAX, false)] {
            assert_eq!(found.job(&journal::key(0, number), &bytes).is_ok(), good, "{number}");
        }
    }
}
