//! What people ask of a queue: numbers, dead letters, an empty queue.

use std::{cmp::Reverse, ops::Bound, time::Duration};

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, Result,
    job::{JobRef, QueueName, Timestamp},
    lifecycle::{JobState, Trigger},
    provider::{Cursor, DeadBody, DeadFilter, DeadJob, Page, ParkKey},
    stats::QueueStats,
    store::RedriveOutcome,
};

use super::{
    ledger::Ledger,
    record::{Copy, Origin, Tracked},
    room::Room,
    tombstones::Kind,
};
use crate::queue::Now;

impl Ledger {
    /// The most first, then by name.
    pub(super) fn parked(&self, queue: &QueueName, limit: usize) -> Vec<(ParkKey, u64)> {
        let lines = self.rooms.get(queue).into_iter().flat_map(|room| &room.parked);
        let mut keys: Vec<(ParkKey, u64)> = lines.map(|(key, line)| (key.clone(), line.len() as u64)).collect();
        keys.sort_by_key(|(_, jobs)| Reverse(*jobs));
        keys.truncate(limit);
        keys
    }

    /// The cursor is the last name that was shown.
    pub(super) fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Page<QueueName> {
        let meant = |queue: &QueueName, room: &Room| {
            let is_its = room.provider.as_deref().is_none_or(|carries| carries == provider);
            let behind = cursor.is_none_or(|cursor| queue.as_str() > &*cursor.0);
            is_its && behind && queue.as_str().starts_with(prefix)
        };
        let rooms = self.rooms.iter().filter(|(queue, room)| meant(queue, room));
        let mut items: Vec<QueueName> = rooms.map(|(queue, _)| queue.clone()).collect();
        items.sort_unstable();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| Cursor(last.as_str().into()));
        Page { items, next }
    }

    pub(super) fn stats(&self, queue: &QueueName) -> QueueStats {
        let mut stats = QueueStats::empty(queue.clone());
        let Some(room) = self.rooms.get(queue) else { return stats };
        stats.paused = room.control.paused;
        stats.pending = room.number_of(JobState::Pending);
        stats.parked = room.parked_jobs();
        stats.scheduled = room.number_of(JobState::Scheduled);
        stats.retrying = room.number_of(JobState::Retrying);
        stats.running = room.number_of(JobState::Running);
        stats.dead = room.number_of(JobState::Dead);
        stats.finished = room.finished.len() as u64;
        stats.submitted_total = room.submitted;
        stats.completed_total = room.completed;
        stats.failed_total = room.failed;
        stats.oldest_pending = room.ready.first().map(|(since, _)| *since);
        stats
    }

    pub(super) fn position(&self, job: &JobRef) -> Option<u64> {
        let is_ready = |record: &Tracked| record.job.state == JobState::Pending && !record.is_parked();
        let own = self.find(&job.queue, job.id).and_then(|slot| self.slots.get(slot)).filter(|own| is_ready(own))?;
        let place =
            |record: &Tracked| (Reverse(record.job.envelope.priority), record.job.submitted_at, record.job.born);
        let own = place(own);
        let ahead = |record: &&Tracked| record.queue == job.queue && is_ready(record) && place(record) < own;
        Some(self.slots.iter_from(0).map(|(_, record)| record).filter(ahead).count() as u64)
    }

    /// The oldest first; the cursor is the place of the last one that was shown.
    pub(super) fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let behind = cursor.map(read_cursor).transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Page { items: Vec::new(), next: None };
        let Some(room) = self.rooms.get(queue) else { return Ok(page) };
        let mut last = None;
        for (died, slot) in room.dead.range((behind, Bound::Unbounded)) {
            let Some(dead) = self.slots.get(*slot).and_then(|record| dead_job(record, *died)) else { continue };
            let DeadBody::Envelope(envelope) = &dead.body else { continue };
            if !filter.matches(&dead.error.code, Some(&envelope.kind), *died) {
                continue;
            }
            if page.items.len() == limit {
                page.next = last;
                break;
            }
            page.items.push(dead);
            last = Some(Cursor(format!("{}.{slot}", died.as_millis()).into()));
        }
        Ok(page)
    }

    fn find_dead(&self, job: &JobRef) -> Option<(Timestamp, u32)> {
        let slot = self.find(&job.queue, job.id)?;
        let record = self.slots.get(slot).filter(|record| record.job.state == JobState::Dead)?;
        Some((record.job.changed_at, slot))
    }

    pub(super) fn redrive(
        &mut self,
        job: &JobRef,
        payload: Option<&Bytes>,
        lease: Duration,
        now: Now,
    ) -> RedriveOutcome {
        let Some((died, slot)) = self.find_dead(job) else { return RedriveOutcome::NotDead };
        let Some(envelope) = self.slots.get(slot).map(|record| record.job.envelope.clone()) else {
            return RedriveOutcome::NotDead;
        };
        if let Some(existing) = self.holder(&job.queue, &envelope, now) {
            return RedriveOutcome::Duplicate { existing };
        }
        let next = envelope.edit(|copy| {
            copy.not_before = None;
            copy.expires_at = copy.expires_at.filter(|end| *end > now.wall);
            if let Some(payload) = payload {
                copy.payload = payload.clone();
            }
        });
        if let Some(record) = self.slots.get_mut(slot) {
            record.job.envelope = next;
        }
        self.room(&job.queue).dead.remove(&(died, slot));
        self.apply(slot, Trigger::Redrive, now);
        if let Some(unique) = envelope.unique.as_deref() {
            self.room(&job.queue).hold(unique, job.id, now);
        }
        let Some(record) = self.slots.get_mut(slot) else { return RedriveOutcome::NotDead };
        record.renew_copy();
        record.copy = Copy::Staged { until: now.after(lease), lease, origin: Origin::Promised };
        let staged = record.staged();
        self.relist(slot);
        RedriveOutcome::Staged(staged)
    }

    pub(super) fn forget_dead(&mut self, job: &JobRef, now: Now) -> bool {
        let Some((died, slot)) = self.find_dead(job) else { return false };
        self.room(&job.queue).dead.remove(&(died, slot));
        self.forget(slot);
        self.tombstones.lay(job.clone(), Kind::Evicted, now);
        true
    }

    /// Cancelled, so that those who watch hear of it, and so that copies are dropped at their claim.
    pub(super) fn purge(&mut self, queue: &QueueName, now: Now) -> u64 {
        let waits = |record: &Tracked| record.queue == *queue && record.job.state.is_waiting();
        let waiting: Vec<u32> =
            self.slots.iter_from(0).filter(|(_, record)| waits(record)).map(|(slot, _)| slot).collect();
        for slot in &waiting {
            self.apply(*slot, Trigger::Cancel, now);
        }
        waiting.len() as u64
    }

    pub(super) fn drop_queue(&mut self, queue: &QueueName) {
        let inside = self.slots.iter_from(0).filter(|(_, record)| record.queue == *queue);
        let slots: Vec<u32> = inside.map(|(slot, _)| slot).collect();
        for slot in slots {
            self.forget(slot);
        }
        self.rooms.remove(queue);
    }
}

fn dead_job(record: &Tracked, died_at: Timestamp) -> Option<DeadJob> {
    let job = &record.job;
    let body = DeadBody::Envelope(job.envelope.clone());
    let error = job.details()?.error.clone()?;
    Some(DeadJob { id: job.envelope.id, body, error, attempt: job.attempt, died_at })
}

fn read_cursor(cursor: &Cursor) -> Result<(Timestamp, u32)> {
    let place = cursor
        .0
        .split_once('.')
        .and_then(|(millis, slot)| Some((Timestamp::from_millis(millis.parse().ok()?), slot.parse().ok()?)));
    place.ok_or_else(|| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead"))
}
