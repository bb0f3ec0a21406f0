//! Between the records and the journal: what a call changed is one batch, appended before anybody else can see it.

use std::time::Duration;

use queue_core::Result;

use super::{Told, ledger::Ledger};
use crate::{
    journal::{Batch, Journal, Table, Ticket, Urgency},
    queue::Now,
};

/// How long a change may wait for company that nobody waits for.
const RIDE: Duration = Duration::from_secs(1);

/// Keeps a store on disk, if there is one.
#[derive(Debug, Default)]
pub(super) struct Keeper(Option<Kept>);

#[derive(Debug)]
struct Kept {
    journal: Journal,
    /// That it was opened: no fence is given out before that is on disk, or it might be given out again.
    begun: Ticket,
}

/// What an answer waits for; nothing in memory.
#[derive(Debug)]
#[must_use]
pub(super) struct Mark(Option<Ticket>);

impl Keeper {
    pub(super) fn new(journal: Journal, begun: Ticket) -> Self {
        Self(Some(Kept { journal, begun }))
    }

    /// Whether new work may be taken: asked before anything changes in memory.
    pub(super) fn ready(&self) -> Result<()> {
        let Some(Kept { journal, .. }) = &self.0 else { return Ok(()) };
        journal.ready().or_else(|_| {
            // Where nobody commits but those who wait, nobody else would find that the disk takes it again.
            journal.pump();
            journal.ready()
        })
    }

    /// Appends what changed. Called under the ledger's lock, so that the order of the batches is that of the changes.
    ///
    /// An answer also waits for the changes of others that it rests on: a job that is known, a key that is held.
    pub(super) fn append(&self, ledger: &mut Ledger, told: Told, now: Now) -> Mark {
        let Some(Kept { journal, begun }) = &self.0 else { return Mark(None) };
        if told == Told::AtOnce && journal.ready().is_err() {
            // It stays noted, and goes with the next batch that is taken.
            return Mark(None);
        }
        let mut batch = Batch::new();
        ledger.write(&mut batch, now);
        if told == Told::AtOnce {
            let _ = journal.append(&batch, Urgency::Within(RIDE));
            return Mark((!journal.is_committed(*begun)).then_some(*begun));
        }
        let mut ticket = journal.append(&batch, Urgency::Now);
        if batch.is_empty() && !journal.is_committed(ticket) {
            // What it rests on has time; this answer has not.
            batch.delete(Table::Stages, b"");
            ticket = journal.append(&batch, Urgency::Now);
        }
        Mark(Some(ticket))
    }

    /// Waits until it is on disk.
    pub(super) async fn committed(&self, mark: Mark) -> Result<()> {
        match (&self.0, mark.0) {
            (Some(Kept { journal, .. }), Some(ticket)) => journal.committed(ticket).await,
            _ => Ok(()),
        }
    }

    /// Waits until it is on disk that the store was opened.
    pub(super) async fn begun(&self) -> Result<()> {
        match &self.0 {
            Some(Kept { journal, begun }) => journal.committed(*begun).await,
            None => Ok(()),
        }
    }

    /// Ends as a crash would: what is not on disk is lost.
    pub(super) fn abandon(&self) {
        if let Some(Kept { journal, .. }) = &self.0 {
            journal.abandon();
        }
    }

    pub(super) async fn close(&self) -> Result<()> {
        match &self.0 {
            Some(Kept { journal, .. }) => journal.close().await,
            None => Ok(()),
        }
    }
}
