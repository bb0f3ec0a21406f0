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
        let at_once = Mark((!journal.is_committed(*begun)).then_some(*begun));
        if told == Told::AtOnce && journal.ready().is_err() {
            // It stays noted, and goes with the next batch that is taken.
            return at_once;
        }
        let mut batch = Batch::new();
        ledger.write(&mut batch, now);
        if told == Told::AtOnce {
            let _ = journal.append(&batch, Urgency::Within(RIDE));
            return at_once;
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
            (Some(Kept { journal, .. }), Some(ticket)) => journal.kept(ticket).await,
            _ => Ok(()),
        }
    }

    /// Waits until it is on disk that the store was opened.
    pub(super) async fn begun(&self) -> Result<()> {
        match &self.0 {
            Some(Kept { journal, begun }) => journal.kept(*begun).await,
            None => Ok(()),
        }
    }

    /// Appends what waits in the ledger for a disk that refused: the journal's own end takes it along.
    pub(super) fn flush(&self, ledger: &mut Ledger, now: Now) {
        if let Some(Kept { journal, .. }) = &self.0 {
            let mut batch = Batch::new();
            ledger.write(&mut batch, now);
            let _ = journal.append(&batch, Urgency::Now);
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

#[cfg(test)]
mod tests {
    use queue_core::Env;

    use super::*;
    use crate::{JournalOptions, ModelDisk, events::Hub, tracking::TrackingLimits};

    /// Between the look whether the disk takes anything and the claim it began to refuse, before it had the opening: the next
    /// process would give out the same fences.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_told_at_once_before_the_opening_is_on_disk() {
        let (disk, env) = (ModelDisk::new(), Env::seeded(queue_core::Timestamp::from_millis(1), 1));
        let (journal, _) = JournalOptions::on_disk(&disk, true).open(|_| Ok(())).unwrap();
        let mut opening = Batch::new();
        opening.put(Table::Records, b"opened", b"");
        let begun = journal.append(&opening, Urgency::Now);
        disk.refuse(Some(std::io::ErrorKind::StorageFull));
        journal.pump();
        let keeper = Keeper::new(journal, begun);
        let mut ledger = Ledger::new(TrackingLimits::default(), Hub::new(), false);
        let told =
            async |ledger: &mut Ledger| keeper.committed(keeper.append(ledger, Told::AtOnce, Now::read(&env))).await;
        assert!(told(&mut ledger).await.is_err());
        disk.refuse(None);
        assert!(told(&mut ledger).await.is_ok());
    }
}
