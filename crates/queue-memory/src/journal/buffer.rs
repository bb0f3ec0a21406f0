//! Between those who append and the one who writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use queue_core::{Error, ErrorCode, Result};
use tokio::sync::watch;

use super::{Options, Ticket, Urgency, batch::Batch};

/// How long a clock is held at once.
const HELD: Duration = Duration::from_millis(500);

/// What the handles and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    buffer: Mutex<Buffer>,
    /// Told when the writer has something to do or to wait shorter for.
    stirred: Condvar,
    /// Told when it has ended, and when more is on disk.
    over: Condvar,
    progress: watch::Sender<Progress>,
    /// See [`Shared::hold_the_clock`].
    held: AtomicBool,
}

#[derive(Debug)]
struct Buffer {
    batch: Batch,
    /// The sequence of the last change appended.
    last: u64,
    /// What the writer has taken and not committed, in bytes.
    taken: usize,
    now: bool,
    /// The shortest wait asked for since the writer took the last batch: only a shorter one is worth waking it for.
    within: Option<Duration>,
    end: Option<End>,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All is committed first.
    Orderly,
    /// What waits is dropped.
    Abandoned,
}

/// How far the file is.
#[derive(Debug, Clone)]
struct Progress {
    /// The sequence of the last change on disk.
    committed: u64,
    /// Why the disk refuses, while it does.
    trouble: Option<Error>,
    /// How it ended.
    ended: Option<Result<()>>,
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write what was taken, whose last change has this sequence.
    Write(u64),
    End(End),
}

impl Shared {
    pub(super) fn new(sequence: u64, options: Options) -> Self {
        let buffer = Buffer { batch: Batch::new(), last: sequence, taken: 0, now: false, within: None, end: None };
        let progress = Progress { committed: sequence, trouble: None, ended: None };
        let progress = watch::Sender::new(progress);
        Self {
            options,
            buffer: Mutex::new(buffer),
            stirred: Condvar::new(),
            over: Condvar::new(),
            progress,
            held: AtomicBool::new(false),
        }
    }

    pub(super) fn append(&self, batch: &Batch, urgency: Urgency) -> Ticket {
        let mut buffer = self.buffer.lock();
        if batch.is_empty() {
            return Ticket(buffer.last);
        }
        if buffer.end.is_some() {
            return Ticket::NEVER;
        }
        buffer.batch.extend(batch);
        buffer.last += batch.len() as u64;
        let stirs = match urgency {
            Urgency::Now => !std::mem::replace(&mut buffer.now, true),
            Urgency::Within(wait) => {
                let shorter = buffer.within.is_none_or(|within| wait < within);
                if shorter {
                    buffer.within = Some(wait);
                }
                shorter
            }
        };
        if stirs {
            self.stirred.notify_one();
        }
        Ticket(buffer.last)
    }

    /// Waits for work; puts it into `batch`, which is empty. `clock` is a monotonic clock.
    pub(super) fn next(&self, batch: &mut Batch, clock: impl Fn() -> Duration) -> Next {
        let mut buffer = self.buffer.lock();
        let (mut due, mut seen) = (None, None);
        loop {
            if buffer.end == Some(End::Abandoned) {
                return Next::End(End::Abandoned);
            }
            let now = clock();
            if buffer.within != seen {
                seen = buffer.within;
                let asked = now.saturating_add(seen.unwrap_or(Duration::MAX));
                due = Some(due.map_or(asked, |due: Duration| due.min(asked)));
            }
            let ending = buffer.end.is_some();
            if buffer.batch.is_empty() {
                if ending {
                    return Next::End(End::Orderly);
                }
                self.stirred.wait(&mut buffer);
            } else if ending || buffer.now || due.is_some_and(|due| due <= now) {
                return Next::Write(buffer.take(batch));
            } else {
                match due {
                    Some(due) => drop(self.stirred.wait_for(&mut buffer, due - now)),
                    None => self.stirred.wait(&mut buffer),
                }
            }
        }
    }

    /// Takes what there is, without waiting.
    pub(super) fn take(&self, batch: &mut Batch) -> Option<u64> {
        let mut buffer = self.buffer.lock();
        (!buffer.batch.is_empty()).then(|| buffer.take(batch))
    }

    /// Sleeps before another attempt; false when it is time to give up. `clock` is a monotonic clock.
    pub(super) fn pause(&self, wait: Duration, clock: impl Fn() -> Duration) -> bool {
        let mut buffer = self.buffer.lock();
        let until = clock().saturating_add(wait);
        loop {
            let now = clock();
            if buffer.end == Some(End::Abandoned) {
                return false;
            }
            if now >= until {
                return true;
            }
            self.stirred.wait_for(&mut buffer, until - now);
        }
    }

    pub(super) fn end(&self) -> Option<End> {
        self.buffer.lock().end
    }

    /// All up to `sequence` is on disk.
    pub(super) fn advance(&self, sequence: u64) {
        self.buffer.lock().taken = 0;
        self.progress.send_modify(|progress| {
            progress.committed = sequence;
            progress.trouble = None;
        });
        self.tell();
    }

    pub(super) fn trouble(&self, error: Error) {
        self.progress.send_modify(|progress| progress.trouble = Some(error));
        self.tell();
    }

    fn tell(&self) {
        // Whoever has looked and does not wait yet holds this lock.
        drop(self.buffer.lock());
        self.over.notify_all();
    }

    /// A paused runtime's clock stands still while one of its blocking tasks runs: so that time does not run out there while
    /// the disk is at work, one waits for it. At most one at a time, whoever asks.
    pub(super) fn hold_the_clock(self: &Arc<Self>, ticket: Ticket) {
        if self.held.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(self);
        // It ends by itself, soon, and nobody needs to know when.
        drop(tokio::task::spawn_blocking(move || {
            let mut buffer = shared.buffer.lock();
            let open = |_: &mut Buffer| !shared.progress.borrow().settles(ticket);
            let _ = shared.over.wait_while_for(&mut buffer, open, HELD);
            shared.held.store(false, Ordering::Release);
        }));
    }

    pub(super) fn ended(&self, how: Result<()>) {
        self.progress.send_if_modified(|progress| {
            let first = progress.ended.is_none();
            if first {
                progress.ended = Some(how);
            }
            first
        });
        self.tell();
    }

    /// Blocks until it has ended, for so long at most; whether it has.
    pub(super) fn wait_for_the_end(&self, at_most: Duration) -> bool {
        let mut buffer = self.buffer.lock();
        let goes_on = |_: &mut Buffer| self.progress.borrow().ended.is_none();
        !self.over.wait_while_for(&mut buffer, goes_on, at_most).timed_out()
    }

    pub(super) fn close(&self) {
        self.finish(End::Orderly);
    }

    pub(super) fn abandon(&self) {
        self.finish(End::Abandoned);
    }

    fn finish(&self, end: End) {
        self.buffer.lock().end.get_or_insert(end);
        self.stirred.notify_one();
    }

    pub(super) fn ready(&self) -> Result<()> {
        let buffer = self.buffer.lock();
        if buffer.end.is_some() {
            return Err(closed());
        }
        let waiting = buffer.batch.size() + buffer.taken;
        drop(buffer);
        if let Some(error) = &self.progress.borrow().trouble {
            return Err(error.clone());
        }
        if waiting < self.options.buffer {
            return Ok(());
        }
        let message = format!("{waiting} bytes wait for the journal's disk, which is as much as may: it is too slow");
        Err(Error::new(ErrorCode::Unavailable, message).by("memory"))
    }

    pub(super) fn is_committed(&self, ticket: Ticket) -> bool {
        self.progress.borrow().committed >= ticket.0
    }

    pub(super) async fn committed(&self, ticket: Ticket) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let Ok(progress) = progress.wait_for(|progress| progress.settles(ticket)).await else { return Err(closed()) };
        match &*progress {
            Progress { committed, .. } if *committed >= ticket.0 => Ok(()),
            Progress { ended: Some(Err(error)), .. } | Progress { trouble: Some(error), .. } => Err(error.clone()),
            _ => Err(closed()),
        }
    }

    pub(super) async fn closed(&self) -> Result<()> {
        let mut progress = self.progress.subscribe();
        match progress.wait_for(|progress| progress.ended.is_some()).await {
            Ok(progress) => progress.ended.clone().unwrap_or(Ok(())),
            Err(_) => Err(closed()),
        }
    }
}

impl Progress {
    /// Whether more is known of it than that it waits.
    fn settles(&self, ticket: Ticket) -> bool {
        self.committed >= ticket.0 || self.trouble.is_some() || self.ended.is_some()
    }
}

impl Buffer {
    fn take(&mut self, batch: &mut Batch) -> u64 {
        std::mem::swap(&mut self.batch, batch);
        self.taken = batch.size();
        (self.now, self.within) = (false, None);
        self.last
    }
}

fn closed() -> Error {
    Error::new(ErrorCode::Closed, "the journal is closed").by("memory")
}
