//! What the store keeps for each queue.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
};

use hashbrown::HashMap;
use queue_core::{
    job::{JobId, QueueName, Timestamp, Unique, UniqueKey},
    store::QueueControl,
};

use crate::queue::{Moment, Now};

/// The rooms by queue, and which of them may differ from what the journal was given.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    rooms: HashMap<QueueName, Room>,
    /// Somebody takes what changed.
    noted: bool,
    changed: Vec<QueueName>,
}

impl Rooms {
    pub(super) fn new(noted: bool) -> Self {
        Self { noted, ..Self::default() }
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
    /// The version of the switches that the journal has.
    kept: u64,
    pub(super) control: QueueControl,
    /// Jobs that wait, which are bounded.
    pub(super) waiting: u64,
    keys: HashMap<UniqueKey, Hold>,
    windows: BinaryHeap<Reverse<(Moment, UniqueKey)>>,
    /// Finished jobs but the dead, the oldest first.
    pub(super) finished: VecDeque<u32>,
    pub(super) finished_bytes: u64,
    pub(super) dead: BTreeSet<(Timestamp, u32)>,
}

/// A held unique key.
#[derive(Debug, Clone, Copy)]
struct Hold {
    id: JobId,
    /// `None`: until the holder is finished, which frees it.
    until: Option<Moment>,
}

impl Room {
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
        self.note(&unique.key);
        if let Some(until) = until {
            self.windows.push(Reverse((until, unique.key.clone())));
        }
    }

    /// The holder is finished: its key is free, unless a window holds on.
    pub(super) fn free(&mut self, unique: &Unique, id: JobId) {
        if self.keys.get(&unique.key).is_some_and(|hold| hold.id == id && hold.until.is_none()) {
            self.keys.remove(&unique.key);
            self.note(&unique.key);
        }
    }

    /// The holder was never accepted: its key is free, window or not.
    pub(super) fn withdraw(&mut self, unique: &Unique, id: JobId) {
        if self.keys.get(&unique.key).is_some_and(|hold| hold.id == id) {
            self.keys.remove(&unique.key);
            self.note(&unique.key);
        }
    }

    fn close_windows(&mut self, now: Now) {
        while self.windows.peek().is_some_and(|window| window.0.0 <= now.mono) {
            let Some(Reverse((until, key))) = self.windows.pop() else { return };
            if self.keys.get(&key).is_some_and(|hold| hold.until == Some(until)) {
                self.keys.remove(&key);
                self.note(&key);
            }
        }
    }

    fn note(&mut self, key: &UniqueKey) {
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
