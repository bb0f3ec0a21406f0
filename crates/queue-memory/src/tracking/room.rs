//! What the store keeps for each queue.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::Arc,
};

use hashbrown::HashMap;
use queue_core::{
    job::{JobId, QueueName, Timestamp, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Disposition, ParkKey},
    store::QueueControl,
};

#[cfg(feature = "journal")]
use super::rows::QueueRow;
use crate::queue::{Moment, Now};

/// The rooms by queue, and which of them may differ from what the journal was given.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    rooms: HashMap<QueueName, Room>,
    /// Somebody takes what changed.
    noted: bool,
    changed: Vec<QueueName>,
    dropped: Vec<(QueueName, Vec<UniqueKey>)>,
}

impl Rooms {
    pub(super) fn new(noted: bool) -> Self {
        Self { noted, ..Self::default() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&QueueName, &Room)> {
        self.rooms.iter()
    }

    /// Forgets a queue, with its keys.
    pub(super) fn remove(&mut self, queue: &QueueName) {
        let Some(room) = self.rooms.remove(queue) else { return };
        if self.noted {
            let keys = room.keys.into_keys().chain(room.moved).collect();
            self.dropped.push((queue.clone(), keys));
        }
    }

    /// The queues that were forgotten since the last call, with the keys that rows may be of; and those that may have
    /// changed since they began anew.
    #[cfg(feature = "journal")]
    pub(super) fn take_changes(&mut self) -> (Vec<(QueueName, Vec<UniqueKey>)>, Vec<QueueName>) {
        for queue in &self.changed {
            if let Some(room) = self.rooms.get_mut(queue) {
                room.changed = false;
            }
        }
        (std::mem::take(&mut self.dropped), std::mem::take(&mut self.changed))
    }

    pub(super) fn get(&self, queue: &QueueName) -> Option<&Room> {
        self.rooms.get(queue)
    }

    /// A queue's room, to be changed: what the journal keeps of it is looked at.
    pub(super) fn get_mut(&mut self, queue: &QueueName) -> &mut Room {
        let room = self.rooms.entry_ref(queue).or_insert_with(|| Room { noted: self.noted, ..Room::default() });
        if self.noted && !room.changed {
            room.changed = true;
            self.changed.push(queue.clone());
        }
        room
    }

    /// A queue's room, to change in it only what follows from its records.
    pub(super) fn get_mut_unnoted(&mut self, queue: &QueueName) -> Option<&mut Room> {
        self.rooms.get_mut(queue)
    }
}

#[derive(Debug, Default)]
pub(super) struct Room {
    noted: bool,
    changed: bool,
    /// Keys that were taken or freed since the journal was told.
    moved: Vec<UniqueKey>,
    /// What the journal has.
    #[cfg(feature = "journal")]
    pub(super) kept: QueueRow,
    /// Whose transport carried its newest job. `None` where no record was there since the store was opened.
    pub(super) provider: Option<Arc<str>>,
    pub(super) control: QueueControl,
    /// How many records are in each state.
    states: [u64; JobState::ALL.len()],
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    /// First parked, first unparked: by ticket.
    pub(super) parked: BTreeMap<ParkKey, BTreeSet<(u64, u32)>>,
    keys: HashMap<UniqueKey, Hold>,
    windows: BinaryHeap<Reverse<(Moment, UniqueKey)>>,
    /// Finished jobs but the dead, the oldest first.
    pub(super) finished: VecDeque<u32>,
    pub(super) finished_bytes: u64,
    pub(super) dead: BTreeSet<(Timestamp, u32)>,
    /// Pending jobs that are not parked, by when they became so.
    pub(super) ready: BTreeSet<(Timestamp, u32)>,
}

/// A held unique key.
#[derive(Debug, Clone, Copy)]
struct Hold {
    id: JobId,
    /// `None`: until the holder is finished, which frees it.
    until: Option<Moment>,
}

impl Room {
    pub(super) fn count(&mut self, state: JobState) -> &mut u64 {
        &mut self.states[state as usize]
    }

    pub(super) fn number_of(&self, state: JobState) -> u64 {
        self.states[state as usize]
    }

    /// A job of the provider's is here.
    pub(super) fn carried_by(&mut self, provider: &Arc<str>) {
        if self.provider.as_deref() != Some(&**provider) {
            self.provider = Some(Arc::clone(provider));
        }
    }

    /// Jobs that wait, which are bounded.
    pub(super) fn waiting(&self) -> u64 {
        JobState::ALL.into_iter().filter(|state| state.is_waiting()).map(|state| self.number_of(state)).sum()
    }

    /// Counts what was settled.
    pub(super) fn note(&mut self, disposition: &Disposition) {
        match disposition {
            Disposition::Complete { .. } => self.completed += 1,
            Disposition::Retry { .. } | Disposition::DeadLetter { .. } => self.failed += 1,
            _ => {}
        }
    }

    pub(super) fn parked_jobs(&self) -> u64 {
        self.parked.values().map(|line| line.len() as u64).sum()
    }

    /// What is kept of it beside the keys.
    #[cfg(feature = "journal")]
    pub(super) fn row(&self) -> QueueRow {
        QueueRow {
            version: self.control.version,
            paused: self.control.paused,
            retention: self.control.retention,
            submitted: self.submitted,
            completed: self.completed,
            failed: self.failed,
        }
    }

    /// Keys that were taken or freed since the last call.
    #[cfg(feature = "journal")]
    pub(super) fn take_moved(&mut self) -> Vec<UniqueKey> {
        std::mem::take(&mut self.moved)
    }

    /// Who holds the key, and until when if that is known.
    #[cfg(feature = "journal")]
    pub(super) fn hold_of(&self, key: &UniqueKey) -> Option<(JobId, Option<Moment>)> {
        self.keys.get(key).map(|hold| (hold.id, hold.until))
    }

    /// As it was kept.
    #[cfg(feature = "journal")]
    pub(super) fn restore(&mut self, row: QueueRow) {
        self.kept = row;
        self.control = QueueControl { version: row.version, paused: row.paused, retention: row.retention };
        (self.submitted, self.completed, self.failed) = (row.submitted, row.completed, row.failed);
    }

    #[cfg(all(test, feature = "journal"))]
    pub(super) fn holds(&self) -> impl Iterator<Item = (&UniqueKey, JobId, Option<Moment>)> {
        self.keys.iter().map(|(key, hold)| (key, hold.id, hold.until))
    }

    /// As it was held.
    #[cfg(feature = "journal")]
    pub(super) fn restore_hold(&mut self, key: UniqueKey, id: JobId, until: Option<Moment>) {
        if let Some(until) = until {
            self.windows.push(Reverse((until, key.clone())));
        }
        self.keys.insert(key, Hold { id, until });
    }

    /// Who, other than `id`, holds the key now.
    pub(super) fn holder_of(&self, unique: &Unique, id: JobId, now: Now) -> Option<JobId> {
        let hold = self.keys.get(&unique.key)?;
        let stands = hold.until.is_none_or(|until| until > now.mono);
        (stands && hold.id != id).then_some(hold.id)
    }

    /// Takes the key, unless another job holds it.
    pub(super) fn hold(&mut self, unique: &Unique, id: JobId, now: Now) {
        self.close_windows(now);
        if self.holder_of(unique, id, now).is_some() {
            return;
        }
        let until = unique.window.map(|window| now.after(window));
        self.keys.insert(unique.key.clone(), Hold { id, until });
        self.moved(&unique.key);
        if let Some(until) = until {
            self.windows.push(Reverse((until, unique.key.clone())));
        }
    }

    /// The holder is finished: its key is free, unless a window holds on.
    pub(super) fn free(&mut self, unique: &Unique, id: JobId) {
        if self.keys.get(&unique.key).is_some_and(|hold| hold.id == id && hold.until.is_none()) {
            self.keys.remove(&unique.key);
            self.moved(&unique.key);
        }
    }

    /// The holder was never accepted: its key is free, window or not.
    pub(super) fn withdraw(&mut self, unique: &Unique, id: JobId) {
        if self.keys.get(&unique.key).is_some_and(|hold| hold.id == id) {
            self.keys.remove(&unique.key);
            self.moved(&unique.key);
        }
    }

    fn close_windows(&mut self, now: Now) {
        while self.windows.peek().is_some_and(|window| window.0.0 <= now.mono) {
            let Some(Reverse((until, key))) = self.windows.pop() else { return };
            if self.keys.get(&key).is_some_and(|hold| hold.until == Some(until)) {
                self.keys.remove(&key);
                self.moved(&key);
            }
        }
    }

    fn moved(&mut self, key: &UniqueKey) {
        if self.noted {
            self.moved.push(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn windows_that_are_over_take_no_room() {
        let mut room = Room::default();
        for at in 0..100u64 {
            let window = Some(Duration::from_nanos(2));
            let unique = Unique { key: UniqueKey::new(format!("key {at}")).unwrap(), window };
            room.hold(&unique, JobId::derive(b"x", at), Now { wall: Timestamp::from_millis(1), mono: at });
        }
        assert_eq!((room.keys.len(), room.windows.len()), (2, 2));
    }
}
