//! What the store keeps for each queue.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
};

use hashbrown::HashMap;
use queue_core::{
    job::{JobId, Timestamp, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Disposition, ParkKey},
    store::QueueControl,
};

use crate::queue::{Moment, Now};

#[derive(Debug, Default)]
pub(super) struct Room {
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
        if let Some(until) = until {
            self.windows.push(Reverse((until, unique.key.clone())));
        }
    }

    /// The holder is finished: its key is free, unless a window holds on.
    pub(super) fn free(&mut self, unique: &Unique, id: JobId) {
        if self.keys.get(&unique.key).is_some_and(|hold| hold.id == id && hold.until.is_none()) {
            self.keys.remove(&unique.key);
        }
    }

    /// The holder was never accepted: its key is free, window or not.
    pub(super) fn withdraw(&mut self, unique: &Unique, id: JobId) {
        if self.keys.get(&unique.key).is_some_and(|hold| hold.id == id) {
            self.keys.remove(&unique.key);
        }
    }

    fn close_windows(&mut self, now: Now) {
        while self.windows.peek().is_some_and(|window| window.0.0 <= now.mono) {
            let Some(Reverse((until, key))) = self.windows.pop() else { return };
            if self.keys.get(&key).is_some_and(|hold| hold.until == Some(until)) {
                self.keys.remove(&key);
            }
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
