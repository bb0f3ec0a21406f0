//! Finished jobs, and for how long they are remembered.

use queue_core::{lifecycle::JobState, queue_spec::Retention};

use super::{ledger::Ledger, tombstones::Kind};
use crate::queue::Now;

impl Ledger {
    /// A job is over: its key is free, and retention begins. Copies that still travel are dropped at their claim.
    pub(super) fn finish(&mut self, slot: u32) {
        let Some(record) = self.slots.get(slot) else { return };
        let (queue, id, unique) = (record.queue.clone(), record.job.envelope.id, record.job.envelope.unique.clone());
        if let Some(unique) = unique {
            self.room(&queue).free(&unique, id);
        }
        self.retain(slot);
    }

    /// Retention begins, behind all that finished before.
    pub(super) fn retain(&mut self, slot: u32) {
        let Some(record) = self.slots.get(slot) else { return };
        let (queue, bytes) = (record.queue.clone(), record.job.bytes());
        let (state, died) = (record.job.state, record.job.changed_at);
        let room = self.room(&queue);
        if state == JobState::Dead {
            room.dead.insert((died, slot));
        } else {
            room.finished.push_back(slot);
            room.finished_bytes += bytes;
        }
    }

    /// Forgets at most `limit` finished jobs beyond the retention; their ids keep a tombstone.
    pub(super) fn evict(
        &mut self,
        queue: &queue_core::QueueName,
        retention: &Retention,
        limit: usize,
        now: Now,
    ) -> usize {
        self.tombstones.prune(now);
        let mut evicted = 0;
        while evicted < limit
            && let Some(slot) = self.next_over(queue, retention, now)
        {
            let Some((job, _)) = self.forget(slot) else { break };
            self.tombstones.lay(job, Kind::Evicted, now);
            evicted += 1;
        }
        evicted
    }

    /// Takes the next job to be forgotten out of its queue's line.
    fn next_over(&mut self, queue: &queue_core::QueueName, retention: &Retention, now: Now) -> Option<u32> {
        let Self { rooms, slots, .. } = self;
        let room = rooms.get_mut_unnoted(queue)?;
        if let Some(slot) = room.finished.front().copied()
            && let Some(job) = slots.get(slot).map(|record| &record.job)
        {
            let over = room.finished.len() as u64 > retention.count
                || room.finished_bytes > retention.bytes
                || now.wall >= job.changed_at + retention.age;
            if over {
                room.finished_bytes -= job.bytes();
                return room.finished.pop_front();
            }
        }
        let (died, slot) = *room.dead.first()?;
        if now.wall < died + retention.dead {
            return None;
        }
        room.dead.pop_first();
        Some(slot)
    }
}
