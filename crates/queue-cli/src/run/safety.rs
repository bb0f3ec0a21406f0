//! What a conductor does for the next life of its run.

use super::conductor::Conductor;
use crate::{
    feed::{Fed, FeedError},
    resume::life::Safe,
};

impl Conductor {
    /// Lines that were read, in front of everything else.
    pub(super) fn note_lines(&mut self, fed: &[Result<Fed, FeedError>]) {
        if let Some(life) = &mut self.life {
            life.take_in(fed.iter().flatten());
        }
    }

    /// All that was taken in is in the journal, or has its row.
    pub(super) fn note_submitted(&mut self) {
        if let Some(life) = &mut self.life {
            life.submitted();
            self.make_safe_if_due();
        }
    }

    pub(super) fn make_safe_if_due(&mut self) {
        if self.life.as_ref().is_some_and(|life| life.wants_safety()) {
            self.make_safe(false);
        }
    }

    /// Brings the rows to the disk, and notes that they are there.
    pub(super) fn make_safe(&mut self, finished: bool) {
        let Some(life) = self.life.as_mut().filter(|life| life.may_be_safe()) else { return };
        if self.full && !self.drained {
            return;
        }
        match tokio::task::block_in_place(|| Safe::of(&mut self.ledger)) {
            Ok(safe) => life.be_safe(&safe, finished),
            Err(error) => {
                life.be_unsure();
                self.fail(error);
            }
        }
    }

    /// Says that journal or rows cannot be written, and when they can again.
    pub(super) fn watch_the_disk(&mut self) {
        let Some(life) = &self.life else { return };
        match (life.trouble().or_else(|| self.ledger.is_full()), self.troubled) {
            (Some(trouble), false) => self.progress.say(&format!("waiting: {trouble}")),
            (None, true) => self.progress.say("going on: there is room on the disk again"),
            _ => return,
        }
        self.troubled = !self.troubled;
    }

    /// A run that could go on when there is room does not end for want of it.
    pub(super) fn rows_are_out(&mut self) -> bool {
        if self.life.is_some() && !self.failed {
            let flushed = self.ledger.flush();
            self.heed(flushed);
        }
        !self.full || self.failed
    }

    /// Tries again to write the rows that wait.
    pub(super) fn look_for_room(&mut self) {
        if self.full {
            let flushed = self.ledger.flush();
            self.heed(flushed);
        }
        self.full = self.ledger.is_full().is_some();
    }

    /// What is still open stays in the journal, for the next life. Says how many lines there are, if any may be.
    pub(super) fn leave_in_the_journal(&mut self, finished: bool) -> Option<usize> {
        self.life.as_ref()?;
        let left = self.open.take_all();
        let lines = left.len();
        left.into_iter().for_each(|open| open.leave());
        self.make_safe(finished && lines == 0);
        Some(lines)
    }
}
