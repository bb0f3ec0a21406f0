//! The records, and the one place where one of them changes state.

use std::{collections::BTreeSet, hash::BuildHasher, sync::Arc, time::Duration};

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use queue_core::{
    event::JobEventKind,
    job::{Envelope, JobId, JobRef, QueueName, Timestamp},
    lifecycle::{self, JobState, Transition, Trigger},
    store::Fence,
};

use super::{
    TrackingLimits,
    record::{Agenda, Copy, Tracked},
    records::{Records, Row},
    room::{Room, Rooms},
    tombstones::Tombstones,
};
use crate::{
    events::Hub,
    queue::{Alarm, Entry, Moment, Now, Timer, Timers},
};

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) slots: Records,
    /// By id alone, because that is what a fence names; two queues may hold the same id.
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pub(super) rooms: Rooms,
    /// Delays and times to live; what the sweep must see stands in the two sets below.
    timers: Timers,
    timers_limit: usize,
    pub(super) owed: BTreeSet<(Moment, u32)>,
    pub(super) leases: BTreeSet<(Moment, u32)>,
    pub(super) tombstones: Tombstones,
    pub(super) max_waiting: u64,
    ticket: u64,
    born: u32,
    hub: Hub,
}

const SLACK: usize = 1_024;

impl Ledger {
    /// No records. Every change of what comes is noted, for a journal to take, if `noted`.
    pub(super) fn new(limits: TrackingLimits, hub: Hub, noted: bool) -> Self {
        Self {
            slots: Records::new(noted),
            ids: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            rooms: Rooms::new(noted),
            timers: Timers::default(),
            timers_limit: SLACK,
            owed: BTreeSet::new(),
            leases: BTreeSet::new(),
            tombstones: Tombstones::new(limits.tombstone_age, limits.max_tombstones, noted),
            max_waiting: limits.max_waiting,
            ticket: 0,
            born: 0,
            hub,
        }
    }

    pub(super) fn find(&self, queue: &QueueName, id: JobId) -> Option<u32> {
        let is_it = |slot: &u32| self.slots.get(*slot).is_some_and(|record| record.is(queue, id));
        self.ids.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// The job whose claim gave out the fence, as long as its record remembers that.
    pub(super) fn find_claimed(&self, fence: Fence) -> Option<u32> {
        let gave = |slot: &&u32| {
            self.slots.get(**slot).is_some_and(|record| {
                let settled = record.job.settled.is_some_and(|settled| settled.ticket == fence.epoch);
                record.job.envelope.id == fence.id && (record.is_held_by(fence) || settled)
            })
        };
        self.ids.iter_hash(self.hasher.hash_one(fence.id)).find(gave).copied()
    }

    pub(super) fn room(&mut self, queue: &QueueName) -> &mut Room {
        self.rooms.get_mut(queue)
    }

    /// Who, other than the job itself, holds its unique key.
    pub(super) fn holder(&self, queue: &QueueName, envelope: &Envelope, now: Now) -> Option<JobRef> {
        let holder = self.rooms.get(queue)?.holder_of(envelope.unique.as_deref()?, envelope.id, now)?;
        Some(JobRef::new(queue.clone(), holder))
    }

    /// Begins a record. `None` where four billion are kept.
    pub(super) fn admit(&mut self, new: Newcomer<'_>, now: Now) -> Option<u32> {
        let Newcomer { job, envelope, provider, hold, copy } = new;
        let due = envelope.not_before.max(hold.map(|hold| now.wall + hold)).filter(|due| *due > now.wall);
        let (id, expires_at, unique) = (envelope.id, envelope.expires_at, envelope.unique.clone());
        let state = JobState::initial(due, now.wall);
        self.ticket += 1;
        self.born = self.born.wrapping_add(1);
        let claimed = envelope.generation;
        let place = job.place;
        let entry = Entry::new(envelope, state, self.ticket, self.born, now.wall);
        let (queue, carries) = (job.queue.clone(), Arc::clone(&provider));
        let record = Tracked {
            queue,
            place,
            provider,
            job: entry,
            copy,
            worker: None,
            claimed,
            due: None,
            announced: false,
            lease: Duration::ZERO,
            listed: None,
            in_line: None,
            outlived: false,
            suspect: false,
            row: Row { number: self.ticket, revised: false },
            kept: None,
            changed: false,
        };
        let slot = self.slots.insert(record)?;
        self.index(slot, id);
        self.tombstones.lift(job);
        let room = self.room(&job.queue);
        *room.count(state) += 1;
        room.submitted += 1;
        room.carried_by(&carries);
        if let Some(unique) = unique {
            room.hold(&unique, id, now);
        }
        if let Some(due) = due {
            self.wait_until(slot, due, now.moment_of(due));
        }
        if let Some(end) = expires_at {
            self.set_expiry(slot, end, now);
        }
        self.relist(slot);
        Some(slot)
    }

    fn index(&mut self, slot: u32, id: JobId) {
        let Self { ids, slots, hasher, .. } = self;
        ids.insert_unique(hasher.hash_one(id), slot, |slot| {
            slots.get(*slot).map_or(0, |record| hasher.hash_one(record.job.envelope.id))
        });
    }

    /// Tickets are above this one.
    #[cfg(feature = "journal")]
    pub(super) fn begin_at(&mut self, ticket: u64) {
        self.ticket = ticket;
    }

    #[cfg(feature = "journal")]
    pub(super) fn next_born(&mut self) -> u32 {
        self.born = self.born.wrapping_add(1);
        self.born
    }

    /// Puts a record back as it was, where everything that looks for it finds it. `None` where four billion are kept.
    #[cfg(feature = "journal")]
    pub(super) fn restore(&mut self, record: Tracked, now: Now) -> Option<u32> {
        let (state, due, turn_at) = (record.job.state, record.due, record.job.turn_at);
        let (job, envelope) = (record.reference(), record.job.envelope.clone());
        let parked = record.job.parked().cloned().map(|key| (key, record.job.ticket));
        let carries = Arc::clone(&record.provider);
        let slot = self.slots.restore(record)?;
        self.index(slot, job.id);
        let room = self.room(&job.queue);
        *room.count(state) += 1;
        room.carried_by(&carries);
        if let Some((key, ticket)) = parked {
            room.parked.entry(key).or_default().insert((ticket, slot));
        }
        if due.is_some() {
            self.set_turn(slot, turn_at);
        }
        if let Some(end) = envelope.expires_at.filter(|_| !state.is_terminal()) {
            self.set_expiry(slot, end, now);
        }
        self.relist(slot);
        Some(slot)
    }

    /// Makes `trigger` happen to a job, with every effect the lifecycle names. `None`, and nothing changed, where the
    /// lifecycle forbids it.
    pub(super) fn apply(&mut self, slot: u32, trigger: Trigger, now: Now) -> Option<Transition> {
        let transition = lifecycle::step(self.slots.get(slot)?.job.state, trigger).ok()?;
        let Transition { from, to, effects, .. } = transition;
        self.leave_line(slot);
        self.ticket += 1;
        let record = self.slots.get_mut(slot)?;
        let job = &mut record.job;
        job.ticket = self.ticket;
        job.state = to;
        job.changed_at = now.wall;
        if effects.next_attempt {
            job.attempt = job.attempt.saturating_add(1);
        }
        if effects.reset_attempts {
            job.attempt = 1;
            job.started_count = 0;
            job.orphaned = false;
            job.drop_cancel_request();
        }
        record.due = None;
        record.outlived = false;
        let (queue, expires_at) = (record.queue.clone(), record.job.envelope.expires_at);
        let room = self.room(&queue);
        *room.count(from) -= 1;
        *room.count(to) += 1;
        if let Some(end) = expires_at.filter(|_| to.is_waiting() && !from.is_waiting()) {
            self.set_expiry(slot, end, now);
        }
        if let Some(event) = effects.event {
            self.emit(slot, event, None, now);
        }
        if effects.finished {
            self.finish(slot);
        }
        self.relist(slot);
        Some(transition)
    }

    /// A parked job leaves its key's line with whatever happens to it.
    fn leave_line(&mut self, slot: u32) {
        if !self.slots.get(slot).is_some_and(Tracked::is_parked) {
            return;
        }
        let Some(record) = self.slots.get_mut(slot) else { return };
        let (ticket, queue) = (record.job.ticket, record.queue.clone());
        let Some(key) = record.job.details_mut().parked.take() else { return };
        let room = self.room(&queue);
        if let Some(line) = room.parked.get_mut(&key) {
            line.remove(&(ticket, slot));
            if line.is_empty() {
                room.parked.remove(&key);
            }
        }
    }

    /// Keeps the line of the ready true, which follows from the states.
    fn stand_in_line(&mut self, slot: u32) {
        let Some(record) = self.slots.get_mut_unnoted(slot) else { return };
        let (old, new) = (record.in_line, record.ready_since());
        if old == new {
            return;
        }
        record.in_line = new;
        let Some(room) = self.rooms.get_mut_unnoted(&record.queue) else { return };
        if let Some(since) = old {
            room.ready.remove(&(since, slot));
        }
        if let Some(since) = new {
            room.ready.insert((since, slot));
        }
    }

    /// Keeps the sweep's lists true. Whoever changes a copy, a lease or a state calls it.
    pub(super) fn relist(&mut self, slot: u32) {
        self.stand_in_line(slot);
        let Some(record) = self.slots.get_mut_unnoted(slot) else { return };
        let (old, new) = (record.listed, record.appointment());
        if old == new {
            return;
        }
        record.listed = new;
        if let Some((agenda, at)) = old {
            self.agenda(agenda).remove(&(at, slot));
        }
        if let Some((agenda, at)) = new {
            self.agenda(agenda).insert((at, slot));
        }
    }

    fn agenda(&mut self, agenda: Agenda) -> &mut BTreeSet<(Moment, u32)> {
        match agenda {
            Agenda::Owed => &mut self.owed,
            Agenda::Leases => &mut self.leases,
        }
    }

    /// A job that waits is due then.
    pub(super) fn wait_until(&mut self, slot: u32, due: Timestamp, at: Moment) {
        let Some(record) = self.slots.get_mut(slot) else { return };
        record.due = Some(due);
        record.job.turn_at = at;
        self.set_turn(slot, at);
    }

    fn set_turn(&mut self, slot: u32, at: Moment) {
        let Some(key) = self.slots.get(slot).map(|record| record.job.short_ticket()) else { return };
        self.set_timer(Timer { at, slot, key, alarm: Alarm::Turn });
    }

    /// Keeps the sweep off a staged copy until then: the transport may not be able to hold it so long.
    pub(super) fn hold_until(&mut self, slot: u32, at: Moment) {
        if let Some(Copy::Staged { until, .. }) = self.slots.get_mut(slot).map(|record| &mut record.copy) {
            *until = at.max(*until);
        }
        self.relist(slot);
    }

    fn set_expiry(&mut self, slot: u32, end: Timestamp, now: Now) {
        let Some(key) = self.slots.get(slot).map(|record| record.job.born) else { return };
        self.set_timer(Timer { at: now.moment_of(end), slot, key, alarm: Alarm::Expiry });
    }

    fn set_timer(&mut self, timer: Timer) {
        if self.timers.len() > self.timers_limit {
            let slots = &self.slots;
            self.timers.compact(|timer| slots.get(timer.slot).is_some_and(|record| is_live(&record.job, timer)));
            self.timers_limit = 2 * self.timers.len() + SLACK;
        }
        self.timers.push(timer);
    }

    /// Lets time do its work on jobs that wait. Leases and stages end only where the sweep or a claim looks at them.
    pub(super) fn advance(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            let Some(record) = self.slots.get(timer.slot).filter(|record| is_live(&record.job, timer)) else {
                continue;
            };
            let trigger = match (timer.alarm, record.job.state) {
                (Alarm::Turn, JobState::Scheduled | JobState::Retrying) => Trigger::Due,
                (Alarm::Expiry, state) if state.is_waiting() => Trigger::Expire,
                (Alarm::Expiry, JobState::Running) => {
                    // Should it come back, its time to live is looked at again; should its lease die, by the sweep.
                    self.outlive(timer.slot);
                    continue;
                }
                _ => continue,
            };
            self.apply(timer.slot, trigger, now);
        }
    }

    fn outlive(&mut self, slot: u32) {
        if let Some(record) = self.slots.get_mut_unnoted(slot) {
            record.outlived = true;
        }
        self.relist(slot);
    }

    /// Tells of a submission once it is certain that the job stands.
    pub(super) fn announce(&mut self, slot: u32, now: Now) {
        if self.slots.get(slot).is_none_or(|record| record.announced) {
            return;
        }
        if let Some(record) = self.slots.get_mut(slot) {
            record.announced = true;
        }
        self.emit(slot, JobEventKind::Submitted, None, now);
    }

    pub(super) fn emit(&self, slot: u32, what: JobEventKind, progress: Option<Bytes>, now: Now) {
        if let Some(record) = self.slots.get(slot).filter(|_| self.hub.is_heard(what)) {
            self.hub.send(now.wall, &record.queue, &record.job, what, progress);
        }
    }

    /// Removes a record that is in no room's line any more.
    pub(super) fn forget(&mut self, slot: u32) -> Option<(JobRef, Envelope)> {
        self.leave_line(slot);
        let hash = self.hasher.hash_one(self.slots.get(slot)?.job.envelope.id);
        if let Ok(found) = self.ids.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        let record = self.slots.get(slot)?;
        let (job, envelope, listed) = (record.reference(), record.job.envelope.clone(), record.listed);
        let (state, in_line) = (record.job.state, record.in_line);
        self.slots.remove(slot);
        if let Some((agenda, at)) = listed {
            self.agenda(agenda).remove(&(at, slot));
        }
        let room = self.room(&job.queue);
        *room.count(state) -= 1;
        if let Some(since) = in_line {
            room.ready.remove(&(since, slot));
        }
        Some((job, envelope))
    }
}

/// What a new record begins with.
#[derive(Debug)]
pub(super) struct Newcomer<'a> {
    pub(super) job: &'a JobRef,
    pub(super) envelope: Envelope,
    pub(super) provider: Arc<str>,
    pub(super) hold: Option<Duration>,
    pub(super) copy: Copy,
}

fn is_live(job: &Entry, timer: Timer) -> bool {
    match timer.alarm {
        // A short ticket may come again in a later process.
        Alarm::Turn => job.short_ticket() == timer.key && job.turn_at == timer.at,
        Alarm::Expiry => job.born == timer.key && !job.state.is_terminal(),
    }
}
