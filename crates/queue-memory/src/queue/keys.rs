//! Unique keys: who holds one, and until when.

use std::cmp::Reverse;

use queue_core::job::{JobId, Unique, UniqueKey};

use super::{Moment, Now, State};

/// A held key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    pub(super) id: JobId,
    /// `None`: until the holder is finished.
    until: Option<Moment>,
}

impl State {
    /// Who, other than `id`, holds the key now.
    pub(super) fn holder_of(&self, unique: &Unique, id: JobId, now: Now) -> Option<JobId> {
        let hold = self.keys.get(&unique.key)?;
        let stands = match hold.until {
            Some(until) => until > now.mono,
            // Whatever ends a job frees its key in the same step.
            None => true,
        };
        (stands && hold.id != id).then_some(hold.id)
    }

    pub(super) fn hold(&mut self, unique: &Unique, id: JobId, now: Now) {
        let until = unique.window.map(|window| now.after(window));
        let before = self.keys.insert(unique.key.clone(), Hold { id, until });
        match unique.window {
            Some(window) => self.note_window(&unique.key, id, window, now),
            None if before.is_some_and(|hold| hold.until.is_some()) => self.erase_window(&unique.key),
            None => {}
        }
        if let Some(until) = until {
            self.windows.push(Reverse((until, unique.key.clone())));
        }
    }

    /// Frees the key of a finished job, unless its window holds on.
    pub(super) fn free(&mut self, unique: &Unique, id: JobId) {
        let holds = self.keys.get(&unique.key).is_some_and(|hold| hold.id == id && hold.until.is_none());
        if holds {
            self.keys.remove(&unique.key);
        }
    }

    /// Forgets windows that are over.
    pub(super) fn close_windows(&mut self, now: Now) {
        while let Some(Reverse((until, _))) = self.windows.peek().filter(|window| window.0.0 <= now.mono) {
            let until = *until;
            let Some(Reverse((_, key))) = self.windows.pop() else { return };
            if self.keys.get(&key).is_some_and(|hold| hold.until == Some(until)) {
                self.keys.remove(&key);
                self.erase_window(&key);
            }
        }
    }

    /// A window that was begun in an earlier process.
    pub(super) fn hold_until(&mut self, key: UniqueKey, id: JobId, until: Moment) {
        self.keys.insert(key.clone(), Hold { id, until: Some(until) });
        self.windows.push(Reverse((until, key)));
    }
}
