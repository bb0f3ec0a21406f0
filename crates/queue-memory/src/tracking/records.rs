//! The records in their slots, and which of them the journal has not seen as they are.

use super::record::Tracked;
use crate::queue::Slots;

#[derive(Debug, Default)]
pub(super) struct Records {
    slots: Slots<Tracked>,
    /// Somebody takes what changed.
    noted: bool,
    /// Slots that changed since it was taken. One that was emptied, or filled anew, may stand here in vain.
    changed: Vec<u32>,
    /// What was removed since then, of what had been taken before.
    gone: Vec<Row>,
}

/// Where a record lies in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) number: u64,
    /// Besides the row that it began with it has one of what became of it.
    pub(super) revised: bool,
}

impl Records {
    /// Records of which every change is noted, if `noted`.
    pub(super) fn new(noted: bool) -> Self {
        Self { noted, ..Self::default() }
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Tracked> {
        self.slots.get(slot)
    }

    /// The record, to be changed: it will be written.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Tracked> {
        let record = self.slots.get_mut(slot)?;
        if self.noted && !record.changed {
            record.changed = true;
            self.changed.push(slot);
        }
        Some(record)
    }

    /// The record, to change in it only what no journal keeps: where it is listed, and when its lease ends.
    pub(super) fn get_mut_unnoted(&mut self, slot: u32) -> Option<&mut Tracked> {
        self.slots.get_mut(slot)
    }

    /// `None` at four billion records.
    pub(super) fn insert(&mut self, record: Tracked) -> Option<u32> {
        let slot = self.slots.insert(record)?;
        self.get_mut(slot)?;
        Some(slot)
    }

    /// Puts back a record that the journal has as it is.
    #[cfg(feature = "journal")]
    pub(super) fn restore(&mut self, record: Tracked) -> Option<u32> {
        self.slots.insert(record)
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let Some(record) = self.slots.get(slot) else { return };
        if self.noted && record.kept.is_some() {
            self.gone.push(record.row);
        }
        self.slots.remove(slot);
    }

    /// From `start` on, in order.
    pub(super) fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, &Tracked)> {
        self.slots.iter_from(start)
    }

    /// Shows every record that changed since the last call, and gives the rows of those that are gone.
    #[cfg(feature = "journal")]
    pub(super) fn take_changes(&mut self, mut changed: impl FnMut(&mut Tracked)) -> Vec<Row> {
        for slot in self.changed.drain(..) {
            if let Some(record) = self.slots.get_mut(slot).filter(|record| record.changed) {
                record.changed = false;
                changed(record);
            }
        }
        std::mem::take(&mut self.gone)
    }
}
