//! What outlives the process: rows in one file, changed in atomic batches by one writer.
//!
//! Memory is the truth while the process lives; the journal is its projection, in order. Whoever changes a job appends the
//! change under the lock that guards the job, without waiting, and awaits [`Journal::committed`] after releasing the lock
//! if it must not be lost. One thread writes: it takes all that was appended, commits it in one transaction and wakes
//! everyone whose change it holds, so that a hundred waiters share one commit.
//!
//! When a commit fails, nothing is lost and nothing is acknowledged: the changes stay in memory, the file is opened again
//! and they are tried again until it works. Meanwhile [`Journal::ready`] refuses, so that callers refuse before they change
//! anything in memory, and the buffer stays bounded.
//!
//! # In the folder
//! `journal.redb` holds a B-tree a [`Table`]. Each row ends with the sequence of the change that wrote it and a checksum
//! over table, key, value and sequence; each commit writes down how many rows there are, what they take and what their
//! checksums sum up to. Opening reads all of it, page checksums and rows, and compares; so a row that is altered, lost,
//! moved or brought back is noticed, whatever did it. `journal.lock` is locked while the journal is open and holds the
//! sequence of the newest commit, not synced: it tells of a file that is older than it was when the process ended.
//!
//! # Commits in two phases
//! The library writes a commit, syncs, makes it the newest and syncs again. With one phase it saves the second sync, and
//! takes a newest commit that does not verify for one that was never finished: damage to it would be a silent loss. With
//! two a stop is no excuse, so the damage shows; we go back to the commit before it and report that. Measured in batches of
//! 100 rows of 300 bytes: on ext4, 184 k rows/s with two phases against 244 k with one, so 0.13 ms a commit and a quarter
//! of the throughput; on the same disk when busy, where syncing is all that counts, 40 to 50 % (`two_phase_cost` of
//! the benchmark `journal`).
//!
//! The library's quick repair is not used: it saves the allocator's state with every commit to spare reading the file after
//! a stop, and we read it anyway.
//!
//! # Size
//! Free pages are used again; the file itself shrinks when the journal is opened or closed and it is over 4 MiB and four
//! times what its rows take. That costs as much as writing those rows. A B-tree that grows at its end is little more than
//! half full, so a million waiting jobs of 330 bytes take about 600 MB.

mod batch;
mod buffer;
mod disk;
mod error;
mod file;
mod medium;
mod reading;
mod record;
mod totals;
mod writer;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use queue_core::{
    Error, ErrorCode, Result,
    clock::{Clock as _, SystemClock},
};

pub(crate) use batch::{Batch, Table, key, parts};
use buffer::Shared;
pub use disk::ModelDisk;
use file::Store;
use medium::Medium;

/// How a journal behaves. The defaults serve everybody but tests.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// What the file's pages may take of memory, in bytes.
    pub(crate) cache: usize,
    /// What waits to be written may take so many bytes before [`Journal::ready`] refuses.
    pub(crate) buffer: usize,
    /// How long to wait after a failed commit before the next attempt; doubles up to `retry_max`.
    pub(crate) retry: Duration,
    pub(crate) retry_max: Duration,
    /// How long [`Journal::close`] goes on trying on a disk that refuses.
    pub(crate) patience: Duration,
    /// A disk that does not answer at all, not even that it refuses, is given up on after this.
    pub(crate) answer: Duration,
    /// Two-phase commits. Without, a flipped bit may silently undo the newest commit of an unclean stop.
    pub(crate) two_phase: bool,
    /// A file below this size, in bytes, is never compacted.
    pub(crate) compact_from: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache: 64 << 20,
            buffer: 64 << 20,
            retry: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            patience: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            two_phase: true,
            compact_from: 4 << 20,
        }
    }
}

/// Who commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A thread of the journal's own.
    Thread,
    /// Whoever calls [`Journal::committed`], [`Journal::pump`] or [`Journal::close`], within that call: no thread and no
    /// clock, so that a simulation replays exactly.
    Inline,
}

/// When a batch is to be committed. It may happen earlier, with somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// At once.
    Now,
    /// Before so much time has passed.
    Within(Duration),
}

/// What was appended, to be awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "a change is on disk only once its ticket is committed"]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// Of what came after the end: it is never on disk.
    pub(crate) const NEVER: Self = Self(u64::MAX);
}

/// A row as it was committed last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) table: Table,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The journal was closed in order, or is new: what was running had been given back.
    pub(crate) clean: bool,
    /// The newest commits were damaged and are gone; says what is known of them.
    pub(crate) rolled_back: Option<String>,
    /// How many rows there are.
    pub(crate) rows: u64,
}

/// The journal; clones are handles to the same. The last one's drop closes it, blocking until all is written.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// With [`Mode::Inline`].
    inline: Option<Mutex<writer::Writer>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Journal {
    /// Opens the journal in a folder, which is made if need be, and gives every row to `rows`: table by table in the order
    /// of [`Table`], by key within a table. An error of `rows` ends the opening with that error.
    ///
    /// Blocks while it reads the whole file: to be called where blocking is allowed.
    ///
    /// # Errors
    /// `STORE_IN_USE` while another process, or this one, has it open; `UNSUPPORTED` for a file of a newer version;
    /// `CONFIG` for a file that is no journal; `UNDECODABLE` for a damaged one; `UNAVAILABLE` when the disk fails.
    pub(crate) fn open(
        dir: &Path,
        options: &Options,
        rows: impl FnMut(Row<'_>) -> Result<()>,
    ) -> Result<(Self, Recovered)> {
        Self::start(Medium::folder(dir)?, Mode::Thread, options, rows)
    }

    /// As [`Journal::open`], on a disk of the caller's. Nothing tells which its newest commit was.
    pub(crate) fn in_backend(
        backend: Arc<dyn redb::StorageBackend>,
        mode: Mode,
        options: &Options,
        rows: impl FnMut(Row<'_>) -> Result<()>,
    ) -> Result<(Self, Recovered)> {
        Self::start(Medium::Backend { backend, marked: Arc::default() }, mode, options, rows)
    }

    fn start(
        medium: Medium,
        mode: Mode,
        options: &Options,
        mut rows: impl FnMut(Row<'_>) -> Result<()>,
    ) -> Result<(Self, Recovered)> {
        let (store, recovered) = Store::open(medium, options, &mut rows)?;
        let shared = Arc::new(Shared::new(store.sequence(), options.clone()));
        let writer = writer::Writer::new(store, shared.clone());
        let (inline, thread) = match mode {
            Mode::Inline => (Some(Mutex::new(writer)), None),
            Mode::Thread => (None, Some(writer.spawn()?)),
        };
        Ok((Self(Arc::new(Handle { shared, inline, thread: Mutex::new(thread) })), recovered))
    }

    /// Takes a batch, to be committed in the order of the calls. Neither blocks nor fails: called under a queue's lock.
    pub(crate) fn append(&self, batch: &Batch, urgency: Urgency) -> Ticket {
        self.0.shared.append(batch, urgency)
    }

    /// Waits until a batch, and all before it, are on disk.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the disk refuses: the batch is kept and tried again, so it may be on disk later. `CLOSED` when the
    /// journal was closed without it.
    pub(crate) async fn committed(&self, ticket: Ticket) -> Result<()> {
        if self.0.inline.is_some() {
            self.pump();
        }
        self.0.shared.committed(ticket).await
    }

    /// As [`Journal::committed`], for whoever has no deadline of its own.
    ///
    /// # Errors
    /// The same, and `TIMEOUT` when the disk has not answered for 30 s.
    pub(crate) async fn kept(&self, ticket: Ticket) -> Result<()> {
        let (shared, committed) = (&self.0.shared, self.committed(ticket));
        if self.0.inline.is_some() {
            return tokio::time::timeout(shared.options.answer, committed).await.unwrap_or_else(|_| Err(silent()));
        }
        // In real time, as the thread's: the clock of a test runs ahead of it.
        let clock = SystemClock::new();
        let until = clock.monotonic().saturating_add(shared.options.answer);
        let mut committed = std::pin::pin!(committed);
        loop {
            tokio::select! {
                biased;
                kept = &mut committed => return kept,
                () = tokio::time::sleep(LOOK.min(shared.options.answer)) => {}
            }
            if clock.monotonic() >= until {
                return Err(silent());
            }
            shared.hold_the_clock(ticket);
        }
    }

    /// Whether a batch is on disk.
    pub(crate) fn is_committed(&self, ticket: Ticket) -> bool {
        self.0.shared.is_committed(ticket)
    }

    /// With [`Mode::Inline`]: commits all that was appended, or tries to, once. With a thread it does nothing.
    pub(crate) fn pump(&self) {
        if let Some(writer) = &self.0.inline {
            writer.lock().turn();
        }
    }

    /// Whether new work may be taken.
    ///
    /// # Errors
    /// `UNAVAILABLE` while the disk refuses or too much waits to be written; `CLOSED` once closed.
    pub(crate) fn ready(&self) -> Result<()> {
        self.0.shared.ready()
    }

    /// Commits all that was appended, marks the file as closed in order and ends the thread. What is appended afterwards is
    /// never committed. Closing again does nothing.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the disk went on refusing: what had not been committed is not there. `TIMEOUT` when it has not
    /// answered for 30 s: the thread is left to it, and ends the journal in order should the disk come back.
    pub(crate) async fn close(&self) -> Result<()> {
        self.0.shared.close();
        if let Some(writer) = &self.0.inline {
            writer.lock().finish();
        }
        if self.0.inline.is_none() {
            // In real time, as the thread's: the clock of a test may run ahead of it.
            let shared = self.0.shared.clone();
            let waits = tokio::task::spawn_blocking(move || shared.wait_for_the_end(shared.options.answer));
            if !waits.await.unwrap_or(true) {
                // Joining it would block for as long as the disk does, here and in the last handle's drop.
                drop(self.0.thread.lock().take());
                return Err(silent());
            }
        }
        let closed = self.0.shared.closed().await;
        self.0.join();
        closed
    }

    /// Ends without committing what waits and without marking the file: as a crash would, for tests.
    pub(crate) fn abandon(&self) {
        self.0.shared.abandon();
        if let Some(writer) = &self.0.inline {
            writer.lock().finish();
        }
        self.0.join();
    }
}

/// How often whoever waits for the disk looks at the time.
const LOOK: Duration = Duration::from_millis(100);

fn silent() -> Error {
    Error::new(ErrorCode::Timeout, "the journal's disk does not answer").by("memory")
}

impl Handle {
    fn join(&self) {
        if let Some(thread) = self.thread.lock().take() {
            // It catches its panics; nothing is left to be told.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(writer) = &self.inline {
            writer.lock().finish();
        }
        self.join();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
