//! The one who writes.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use queue_core::{
    Error, ErrorCode, Result,
    clock::{Clock as _, SystemClock},
};

use super::{
    batch::Batch,
    buffer::{End, Next, Shared},
    file::Store,
};

/// The buffer that is kept between two commits, in bytes.
const KEPT: usize = 4 << 20;

/// The file and what was taken to be written to it.
pub(super) struct Writer {
    store: Option<Store>,
    shared: Arc<Shared>,
    batch: Batch,
    /// The sequence of the batch's last change.
    last: u64,
}

impl Writer {
    pub(super) fn new(store: Store, shared: Arc<Shared>) -> Self {
        Self { store: Some(store), shared, batch: Batch::new(), last: 0 }
    }

    pub(super) fn spawn(mut self) -> Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        let thread = Builder::new().name("queue-journal".to_owned()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
                // Nobody is to wait for what does not come.
                shared.abandon();
                shared.ended(Err(Error::new(ErrorCode::Internal, "the journal's thread panicked").by("memory")));
            }
        });
        thread.map_err(|error| {
            Error::new(ErrorCode::Unavailable, "cannot start the journal's thread").caused_by(error).by("memory")
        })
    }

    /// Real time, whatever the callers' runtime makes of it: no runtime is entered on this thread.
    fn run(&mut self) {
        let clock = SystemClock::new();
        let clock = || clock.monotonic();
        loop {
            match self.shared.next(&mut self.batch, clock) {
                Next::End(_) => break,
                Next::Write(last) => {
                    self.last = last;
                    if !self.persist(clock) {
                        break;
                    }
                }
            }
        }
        self.finish();
    }

    /// Writes the batch, trying until it works; false when it is time to give up.
    fn persist(&mut self, clock: impl Fn() -> Duration) -> bool {
        let mut wait = self.shared.options.retry;
        let mut patience = None;
        while !self.attempt() {
            if self.shared.end().is_some() {
                let until = *patience.get_or_insert(clock().saturating_add(self.shared.options.patience));
                if clock() >= until {
                    return false;
                }
            }
            if !self.shared.pause(wait, &clock) {
                return false;
            }
            wait = (wait * 2).min(self.shared.options.retry_max);
        }
        true
    }

    /// One attempt to write the batch.
    fn attempt(&mut self) -> bool {
        let Some(store) = &mut self.store else { return false };
        match store.commit(&self.batch, self.last) {
            Ok(()) => {
                self.batch.clear();
                self.batch.shrink_to(KEPT);
                self.shared.advance(self.last);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the journal cannot be written; it is tried again");
                self.shared.trouble(error);
                false
            }
        }
    }

    /// Inline: commits what there is, or tries to, once.
    pub(super) fn turn(&mut self) {
        if !self.batch.is_empty() && !self.attempt() {
            return;
        }
        if let Some(last) = self.shared.take(&mut self.batch) {
            self.last = last;
            self.attempt();
        }
    }

    /// Ends as was asked for.
    pub(super) fn finish(&mut self) {
        let orderly = self.shared.end() != Some(End::Abandoned);
        if orderly && self.store.is_some() {
            self.turn();
        }
        let Some(store) = self.store.take() else { return };
        let left = self.batch.len();
        let closed = match orderly && left == 0 {
            true => store.close(),
            false => {
                store.abandon();
                Ok(())
            }
        };
        let how = match closed {
            Ok(()) if orderly && left > 0 => Err(lost(left)),
            other => other,
        };
        if let Err(error) = &how {
            // Dropped without being closed, nobody else hears of it.
            tracing::warn!(%error, "the journal was not closed in order");
        }
        self.shared.ended(how);
    }
}

fn lost(changes: usize) -> Error {
    let message = format!("the disk went on refusing: {changes} changes are not in the journal");
    Error::new(ErrorCode::Unavailable, message).by("memory")
}
