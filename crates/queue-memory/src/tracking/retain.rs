//! Finished jobs, and for how long they are remembered.

use queue_core::{lifecycle::JobState, queue_spec::Retention};

use super::{ledger::Ledger, tombstones::Kind};
use crate::queue::Now;

impl Ledger {
    /// A job is over: its key is free, and retention begins. Copies that still travel are dropped at their claim.
    pub(super) fn finish(&mut self, slot: u32, now: Now) {
        let Some(record) = self.slots.get(slot) else { return };
        let (queue, state, bytes) = (record.queue.clone(), record.job.state, record.job.bytes());
        let (id, unique) = (record.job.envelope.id, record.job.envelope.unique.clone());
        let room = self.room(&queue);
        if let Some(unique) = unique {
            room.free(&unique, id);
        }
        if state == JobState::Dead {
            room.dead.insert((now.wall, slot));
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
