//! What is remembered of finished jobs, and for how long.

use std::{collections::VecDeque, ops::Bound};

use hashbrown::HashSet;
use queue_core::{
    job::{JobId, Timestamp},
    lifecycle::{JobState, Trigger},
    provider::{DeadFilter, Disposition, Receipt},
    queue_spec::Retention,
};

use super::{Now, State, entry::Settled};

/// Finished jobs but the dead, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    line: VecDeque<u32>,
    bytes: u64,
    /// Ids that were forgotten lately, so that "gone" is told from "never was".
    tombstones: VecDeque<JobId>,
    /// The number of the oldest of them: they are counted, and lie in the journal by their numbers.
    first_gone: u64,
    /// The same ids: every publish asks.
    buried: HashSet<JobId>,
    /// When the youngest of them was made, where their ids say so.
    newest: Option<Timestamp>,
    /// How jobs were settled that were forgotten lately, so that a repetition is still told from a lost lease. Searched
    /// from end to end, but only where a receipt is stale.
    settled: VecDeque<(JobId, Settled)>,
}

impl Finished {
    /// Whether it is new to the ring.
    fn bury(&mut self, id: JobId) -> bool {
        self.newest = self.newest.max(id.created_at());
        let new = self.buried.insert(id);
        if new {
            self.tombstones.push_back(id);
        }
        new
    }

    /// The numbers of the forgotten jobs that are remembered.
    pub(super) fn numbers_gone(&self) -> std::ops::Range<u64> {
        self.first_gone..self.first_gone + self.tombstones.len() as u64
    }

    /// A job that finished in an earlier process. They come in the order in which they did.
    pub(super) fn restore(&mut self, slot: u32, bytes: u64) {
        self.line.push_back(slot);
        self.bytes += bytes;
    }
}

/// More tell little: a caller asks for what it knows of.
const MOST_TOMBSTONES: u64 = 10_000;
/// Fewer do not save anything.
const LEAST_TOMBSTONES: u64 = 1_000;
/// Of a queue that remembers few finished jobs, so many times as many ids are: each publish asks, and each end adds one, so
/// they had better stay at hand.
const TOMBSTONES_PER_JOB: u64 = 10;
/// A settlement whose answer was lost is repeated soon.
const SETTLED: usize = 1_024;

impl State {
    /// A job is over: its key is free, and retention begins.
    pub(super) fn finish(&mut self, slot: u32, now: Now) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let (id, bytes, state) = (entry.envelope.id, entry.bytes(), entry.state);
        if let Some(unique) = entry.envelope.unique.clone() {
            self.free(&unique, id);
        }
        if state == JobState::Dead {
            self.dead.insert((now.wall, slot));
        } else if !self.is_tracked() {
            // The event of its end was the last that is heard of it.
            self.forget(slot);
            return;
        } else {
            self.finished.line.push_back(slot);
            self.finished.bytes += bytes;
        }
        let retention = self.spec.retention;
        // One in, at most a few out: the cost stays with the job that causes it.
        self.evict(&retention, 2, now);
    }

    /// Forgets finished jobs beyond the retention.
    fn evict(&mut self, retention: &Retention, limit: usize, now: Now) -> usize {
        let mut evicted = 0;
        while evicted < limit {
            let Some(&slot) = self.finished.line.front() else { break };
            let Some(entry) = self.slots.get(slot) else { break };
            let over = self.finished.line.len() as u64 > retention.count
                || self.finished.bytes > retention.bytes
                || now.wall >= entry.changed_at + retention.age;
            if !over {
                break;
            }
            self.finished.bytes -= entry.bytes();
            self.finished.line.pop_front();
            self.bury_for_good(slot);
            evicted += 1;
        }
        evicted
    }

    /// Everything that retention allows to be forgotten now, at most `limit` jobs.
    pub(crate) fn sweep(&mut self, retention: &Retention, limit: usize, now: Now) -> usize {
        self.advance(now);
        self.close_windows(now);
        let mut evicted = self.evict(retention, limit, now);
        while evicted < limit
            && let Some(&(died, slot)) = self.dead.first()
            && now.wall >= died + retention.dead
        {
            self.dead.pop_first();
            self.bury_for_good(slot);
            evicted += 1;
        }
        evicted
    }

    /// Those of these jobs that are finished, dead or not.
    pub(crate) fn forget_finished(&mut self, jobs: &std::collections::HashSet<JobId>) -> usize {
        let named = |slot: u32| self.slots.get(slot).is_some_and(|entry| jobs.contains(&entry.envelope.id));
        let dead: Vec<(Timestamp, u32)> = self.dead.iter().copied().filter(|(_, slot)| named(*slot)).collect();
        let mut forgotten: Vec<u32> = self.finished.line.iter().copied().filter(|slot| named(*slot)).collect();
        if !forgotten.is_empty() {
            let going: HashSet<u32> = forgotten.iter().copied().collect();
            self.finished.line.retain(|slot| !going.contains(slot));
            let bytes = |slot: &u32| self.slots.get(*slot).map_or(0, super::entry::Entry::bytes);
            self.finished.bytes -= forgotten.iter().map(bytes).sum::<u64>();
        }
        for entry in dead {
            self.dead.remove(&entry);
            forgotten.push(entry.1);
        }
        forgotten.iter().for_each(|slot| self.bury_for_good(*slot));
        forgotten.len()
    }

    fn bury_for_good(&mut self, slot: u32) {
        let Some(id) = self.slots.get(slot).map(|entry| entry.envelope.id) else { return };
        let settled = self.slots.get(slot).and_then(|entry| entry.settled);
        self.forget(slot);
        let most = self.spec.retention.count.saturating_mul(TOMBSTONES_PER_JOB);
        let most = most.clamp(LEAST_TOMBSTONES, MOST_TOMBSTONES) as usize;
        while self.finished.tombstones.len() >= most
            && let Some(oldest) = self.finished.tombstones.pop_front()
        {
            self.finished.buried.remove(&oldest);
            self.erase_gone(self.finished.first_gone);
            self.finished.first_gone += 1;
        }
        let number = self.finished.first_gone + self.finished.tombstones.len() as u64;
        if self.finished.bury(id) {
            self.note_gone(number, id, settled);
        }
    }

    /// A job that was forgotten in an earlier process. They come in the order in which they were.
    pub(super) fn restore_gone(&mut self, number: u64, id: JobId, settled: Option<Settled>) {
        if self.finished.tombstones.is_empty() {
            self.finished.first_gone = number;
        }
        self.finished.bury(id);
        if let Some(settled) = settled {
            self.note_settlement(id, settled);
        }
    }

    /// Notes how the job was settled that is about to be forgotten.
    pub(super) fn note_settlement(&mut self, id: JobId, settled: Settled) {
        if self.finished.settled.len() == SETTLED {
            self.finished.settled.pop_front();
        }
        self.finished.settled.push_back((id, settled));
    }

    /// Whether this settlement is the one noted of a forgotten job; `None` where the receipt's claim was not settled.
    pub(super) fn was_noted(&self, receipt: Receipt, disposition: &Disposition) -> Option<bool> {
        let is_meant = |(id, settled): &&(JobId, Settled)| settled.ticket == receipt.epoch && *id == receipt.id;
        self.finished.settled.iter().rev().find(is_meant).map(|(_, settled)| settled.is(disposition))
    }

    /// Whether it was here and retention took it.
    pub(crate) fn is_gone(&self, id: JobId) -> bool {
        // A fresh id made after every forgotten one spares the look-up.
        let newer = id.created_at().is_some_and(|made| Some(made) > self.finished.newest);
        !newer && self.finished.buried.contains(&id)
    }

    /// When retention has something to do next.
    pub(crate) fn next_sweep(&self) -> Option<Timestamp> {
        let finished = self.finished.line.front().and_then(|slot| self.slots.get(*slot));
        let finished = finished.map(|entry| entry.changed_at + self.spec.retention.age);
        let dead = self.dead.first().map(|(died, _)| *died + self.spec.retention.dead);
        finished.into_iter().chain(dead).min()
    }

    /// Dead jobs that match, the oldest first, behind the given one.
    pub(crate) fn dead_slots<'a>(
        &'a self,
        filter: &'a DeadFilter,
        behind: Option<(Timestamp, u32)>,
    ) -> impl Iterator<Item = u32> + 'a {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        self.dead.range((from, Bound::Unbounded)).filter_map(|(died, slot)| {
            let entry = self.slots.get(*slot)?;
            let error = entry.details()?.error.as_ref()?;
            filter.matches(&error.code, Some(&entry.envelope.kind), *died).then_some(*slot)
        })
    }

    pub(super) fn find_dead(&self, id: JobId) -> Option<u32> {
        let is_meant = |slot: &u32| self.slots.get(*slot).is_some_and(|entry| entry.envelope.id == id);
        if self.is_tracked() {
            let slot = self.find(id)?;
            return (self.slots.get(slot)?.state == JobState::Dead).then_some(slot);
        }
        self.dead.iter().map(|(_, slot)| *slot).find(is_meant)
    }

    pub(crate) fn drop_dead(&mut self, filter: &DeadFilter) -> u64 {
        let slots: Vec<u32> = self.dead_slots(filter, None).collect();
        for slot in &slots {
            if let Some(died) = self.slots.get(*slot).map(|entry| entry.changed_at) {
                self.dead.remove(&(died, *slot));
            }
            self.bury_for_good(*slot);
        }
        slots.len() as u64
    }

    /// Removes what waits; running and finished jobs stay.
    pub(crate) fn purge(&mut self, now: Now) -> u64 {
        let waiting: Vec<u32> =
            self.slots.iter_from(0).filter(|(_, entry)| entry.state.is_waiting()).map(|(slot, _)| slot).collect();
        for slot in &waiting {
            // Cancelled, so that those who watch hear of it. The records stay as long as retention lets them.
            self.apply(*slot, Trigger::Cancel, now);
        }
        waiting.len() as u64
    }
}
