//! What a queue holds, and the one place where a job changes state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use queue_core::{
    event::JobEventKind,
    job::{Envelope, JobId, JobRef, Timestamp, UniqueKey},
    lifecycle::{self, JobState, Transition, Trigger},
    provider::ParkKey,
    queue_spec::{QueueSpec, Tracking},
    stats::QueueStats,
    store::{JobRecord, QueueControl},
};

use super::{
    Now, Signals,
    changes::Changes,
    entry::Entry,
    keys::Hold,
    lanes::Place,
    line::Line,
    retain::Finished,
    slots::Slots,
    timers::{Alarm, Moment, Timer, Timers},
};
use crate::events::Hub;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) spec: QueueSpec,
    pub(crate) control: QueueControl,
    /// What is to be written down, where something is.
    pub(super) changes: Option<Box<Changes>>,
    pub(super) slots: Slots<Entry>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pub(super) line: Line,
    line_limit: usize,
    pub(super) timers: Timers,
    timers_limit: usize,
    pub(super) keys: HashMap<UniqueKey, Hold>,
    pub(super) windows: std::collections::BinaryHeap<std::cmp::Reverse<(Moment, UniqueKey)>>,
    /// The slots of parked jobs, by rank: the oldest is let go first.
    pub(super) parked: BTreeMap<ParkKey, BTreeMap<u64, u32>>,
    pub(super) finished: Finished,
    pub(super) dead: BTreeSet<(Timestamp, u32)>,
    pub(super) consumers: Slots<Holder>,
    /// Names of workers by number, so that a job holds four bytes of it. A name that comes back keeps its number.
    pub(super) workers: Vec<Arc<str>>,
    /// Consumers that sleep until there is something to claim.
    pub(crate) sleepers: usize,
    /// Consumers that wait until they may claim at all.
    pub(crate) barred: usize,
    /// Publishers that wait for room.
    pub(crate) queuers: usize,
    pub(super) counts: [u64; JobState::ALL.len()],
    pub(super) parked_count: u64,
    pub(super) submitted_total: u64,
    pub(super) completed_total: u64,
    pub(super) failed_total: u64,
    pub(super) ticket: u64,
    pub(super) born: u32,
    /// It was dropped: nothing comes in any more, and nobody finds it by its name.
    pub(crate) dissolved: bool,
    hub: Hub,
    signals: Signals,
}

/// A consumer as its queue sees it.
#[derive(Debug)]
pub(crate) struct Holder {
    /// Its worker's number.
    pub(crate) worker: u32,
    pub(crate) demand: usize,
    pub(crate) outstanding: usize,
    pub(crate) closed: bool,
    /// Its consumer is gone: the entry goes with its last delivery.
    pub(crate) abandoned: bool,
}

/// So many old places or timers are never worth a compaction.
pub(super) const SLACK: usize = 1_024;
/// How many timers go off under one lock: a few milliseconds of work.
const TIMERS_AT_ONCE: usize = 10_000;

impl State {
    pub(super) fn new(spec: QueueSpec, hub: Hub) -> Self {
        Self {
            line: Line::of(&spec),
            spec,
            control: QueueControl::default(),
            changes: None,
            slots: Slots::default(),
            ids: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            line_limit: SLACK,
            timers: Timers::default(),
            timers_limit: SLACK,
            keys: HashMap::new(),
            windows: std::collections::BinaryHeap::new(),
            parked: BTreeMap::new(),
            finished: Finished::default(),
            dead: BTreeSet::new(),
            consumers: Slots::default(),
            workers: Vec::new(),
            sleepers: 0,
            barred: 0,
            queuers: 0,
            counts: [0; JobState::ALL.len()],
            parked_count: 0,
            submitted_total: 0,
            completed_total: 0,
            failed_total: 0,
            ticket: 0,
            born: 0,
            dissolved: false,
            hub,
            signals: Signals::default(),
        }
    }

    pub(super) fn take_signals(&mut self) -> Signals {
        // Waking more than sleep would leave permits behind.
        self.signals.wake = self.signals.wake.min(self.sleepers);
        std::mem::take(&mut self.signals)
    }

    /// Every waiting consumer looks again: pause, demand or close changed.
    pub(crate) fn stir(&mut self) {
        self.signals.wake_all = true;
        self.signals.unbarred = true;
    }

    pub(crate) fn wake_one(&mut self) {
        self.signals.wake += 1;
    }

    pub(crate) fn count(&self, state: JobState) -> u64 {
        self.counts[state as usize]
    }

    /// What `max_len` bounds.
    pub(crate) fn waiting(&self) -> u64 {
        JobState::ALL.into_iter().filter(|state| state.is_waiting()).map(|state| self.count(state)).sum()
    }

    pub(crate) fn find(&self, id: JobId) -> Option<u32> {
        if !self.is_tracked() {
            return None;
        }
        let hash = self.hash(id);
        self.ids.find(hash, |slot| self.slots.get(*slot).is_some_and(|entry| entry.envelope.id == id)).copied()
    }

    pub(crate) fn entry(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot)
    }

    /// An untracked queue keeps no index: nobody can look its jobs up, and the same id twice is two jobs.
    pub(crate) fn is_tracked(&self) -> bool {
        self.spec.tracking == Tracking::Full
    }

    pub(super) fn name_worker(&mut self, name: Arc<str>) -> u32 {
        let number = self.workers.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.workers.push(name);
            self.workers.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    pub(super) fn index(&mut self, slot: u32, id: JobId) {
        let hash = self.hash(id);
        let Self { ids, slots, hasher, .. } = self;
        ids.insert_unique(hash, slot, |slot| {
            use std::hash::BuildHasher;
            slots.get(*slot).map_or(0, |entry| hasher.hash_one(entry.envelope.id))
        });
    }

    fn hash(&self, id: JobId) -> u64 {
        use std::hash::BuildHasher;
        self.hasher.hash_one(id)
    }

    /// Takes a new job in. `None` where four billion are remembered.
    pub(super) fn insert(&mut self, envelope: Envelope, partition: u8, now: Now) -> Option<u32> {
        let state = JobState::initial(envelope.not_before, now.wall);
        let (id, priority) = (envelope.id, envelope.priority);
        let (not_before, expires_at) = (envelope.not_before, envelope.expires_at);
        self.ticket += 1;
        self.born = self.born.wrapping_add(1);
        let mut entry = Entry::new(envelope, state, self.ticket, self.born, now.wall);
        entry.partition = partition;
        let slot = self.slots.insert(entry)?;
        self.note_job(slot);
        if self.is_tracked() {
            self.index(slot, id);
        }
        self.counts[state as usize] += 1;
        self.submitted_total += 1;
        if state == JobState::Pending {
            self.line_up(slot, priority, lifecycle::Line::Tail, now);
        } else if let Some(due) = not_before {
            self.turn(slot, now.moment_of(due));
        }
        if let Some(end) = expires_at {
            let key = self.born;
            self.set_timer(Timer { at: now.moment_of(end), slot, key, alarm: Alarm::Expiry });
        }
        self.emit(slot, JobEventKind::Submitted, now);
        Some(slot)
    }

    /// Makes `trigger` happen to a job, with every effect the lifecycle names. `None`, and nothing changed, where the
    /// lifecycle forbids it.
    pub(crate) fn apply(&mut self, slot: u32, trigger: Trigger, now: Now) -> Option<Transition> {
        let entry = self.slots.get_mut(slot)?;
        let transition = lifecycle::step(entry.state, trigger).ok()?;
        let effects = transition.effects;
        self.ticket += 1;
        entry.ticket = self.ticket;
        entry.state = transition.to;
        entry.changed_at = now.wall;
        if effects.next_attempt {
            entry.attempt = entry.attempt.saturating_add(1);
            self.failed_total += 1;
        }
        if effects.reset_attempts {
            entry.attempt = 1;
            entry.started_count = 0;
            entry.orphaned = false;
            entry.drop_cancel_request();
        }
        let (holder, partition, rank) = (entry.holder, entry.partition, entry.rank);
        let unparked = entry.take_parked(transition.from);
        self.note(slot);
        if let Some(key) = unparked {
            self.leave_key(&key, rank);
        }
        self.recount(transition, holder);
        if let Line::Parted(partitions) = &mut self.line {
            if transition.to == JobState::Running {
                partitions.started(partition, self.slots.get(slot)?.envelope.priority);
            }
            if transition.from == JobState::Running && partitions.ended(partition) {
                self.signals.wake += 1;
            }
        }
        if let Some(end) = effects.ready {
            let priority = self.slots.get(slot)?.envelope.priority;
            self.line_up(slot, priority, end, now);
        }
        if let Some(event) = effects.event {
            self.emit(slot, event, now);
        }
        if effects.finished {
            self.finish(slot, now);
        }
        Some(transition)
    }

    fn recount(&mut self, transition: Transition, holder: u32) {
        let Transition { from, trigger, to, .. } = transition;
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
        self.completed_total += u64::from(to == JobState::Completed);
        self.failed_total += u64::from(trigger == Trigger::Bury);
        self.signals.room |= from.is_waiting() && !to.is_waiting() && self.queuers > 0;
        if from == JobState::Running {
            self.let_go(holder);
        }
    }

    fn let_go(&mut self, holder: u32) {
        let Some(consumer) = self.consumers.get_mut(holder) else { return };
        consumer.outstanding -= 1;
        if consumer.abandoned && consumer.outstanding == 0 {
            self.consumers.remove(holder);
        } else if consumer.closed {
            self.signals.settled = true;
        } else if consumer.outstanding + 1 == consumer.demand {
            self.signals.unbarred = self.barred > 0;
        }
    }

    #[inline]
    fn line_up(&mut self, slot: u32, priority: queue_core::Priority, end: lifecycle::Line, now: Now) {
        if self.line.len() > self.line_limit {
            self.compact_line();
        }
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if end == lifecycle::Line::Tail {
            entry.rank = entry.ticket;
        }
        let place = Place { slot, ticket: entry.short_ticket() };
        let ready = self.line.push(entry.partition, priority, end, entry.rank, place, now.mono);
        self.signals.wake += usize::from(ready);
    }

    #[cold]
    fn compact_line(&mut self) {
        let slots = &self.slots;
        self.line.compact(|place| slots.get(place.slot).is_some_and(|entry| entry.stands_at(place)));
        self.line_limit = 2 * self.line.len() + SLACK;
    }

    /// Ends the job's present state at that moment.
    pub(super) fn turn(&mut self, slot: u32, at: Moment) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.turn_at = at;
        let key = entry.short_ticket();
        self.set_timer(Timer { at, slot, key, alarm: Alarm::Turn });
    }

    pub(super) fn set_timer(&mut self, timer: Timer) {
        if self.timers.len() > self.timers_limit {
            let slots = &self.slots;
            self.timers.compact(|timer| slots.get(timer.slot).is_some_and(|entry| is_live(entry, timer)));
            self.timers_limit = 2 * self.timers.len() + SLACK;
        }
        // Somebody must sleep no longer than until the earliest.
        if self.timers.peek().is_none_or(|earliest| timer.at < earliest.at) {
            self.signals.wake += 1;
        }
        self.timers.push(timer);
    }

    /// Lets time do its work: leases, delays, parks and times to live that ended by `now`. Says whether more is due: who
    /// needs it all lets others at the lock and comes again.
    pub(crate) fn advance(&mut self, now: Now) -> bool {
        for _ in 0..TIMERS_AT_ONCE {
            let Some(timer) = self.timers.pop_due(now.mono) else { return false };
            let Some(entry) = self.slots.get_mut(timer.slot).filter(|entry| is_live(entry, timer)) else { continue };
            let trigger = match (timer.alarm, entry.state) {
                (Alarm::Turn, _) if entry.turn_at > now.mono => {
                    // The lease was extended since.
                    self.timers.push(Timer { at: entry.turn_at, ..timer });
                    continue;
                }
                (Alarm::Turn, JobState::Running) => {
                    entry.orphaned = true;
                    if entry.cancel_requested().is_some() { Trigger::Cancel } else { Trigger::LeaseLost }
                }
                (Alarm::Turn, JobState::Pending) => Trigger::Unpark,
                (Alarm::Turn, _) => Trigger::Due,
                // It runs; should it come back, the claim looks again.
                (Alarm::Expiry, JobState::Running) => continue,
                (Alarm::Expiry, _) => Trigger::Expire,
            };
            self.apply(timer.slot, trigger, now);
        }
        self.next_moment().is_some_and(|at| at <= now.mono)
    }

    /// When time has work to do next.
    pub(crate) fn next_moment(&self) -> Option<Moment> {
        self.timers.peek().map(|timer| timer.at)
    }

    /// Forgets a job that is in no lane, ring or set any more.
    pub(super) fn forget(&mut self, slot: u32) {
        if self.is_tracked() {
            let Some(entry) = self.slots.get(slot) else { return };
            let hash = self.hash(entry.envelope.id);
            if let Ok(found) = self.ids.find_entry(hash, |other| *other == slot) {
                found.remove();
            }
        }
        self.erase(slot);
        let Some(entry) = self.slots.get(slot) else { return };
        let (id, state, settled) = (entry.envelope.id, entry.state, entry.settled);
        self.counts[state as usize] -= 1;
        self.slots.remove(slot);
        if let Some(settled) = settled {
            self.note_settlement(id, settled);
        }
    }

    pub(super) fn emit(&self, slot: u32, what: JobEventKind, now: Now) {
        if !self.hub.is_heard(what) {
            return;
        }
        if let Some(entry) = self.slots.get(slot) {
            let progress = entry.details().filter(|_| what == JobEventKind::Progress);
            let progress = progress.and_then(|details| details.progress.clone());
            self.hub.send(now.wall, &self.spec.name, entry, what, progress);
        }
    }

    pub(crate) fn record(&self, entry: &Entry, now: Now) -> JobRecord {
        let worker = entry.started_at.and_then(|_| self.workers.get(entry.worker as usize)).cloned();
        entry.record(&self.spec.name, worker, now)
    }

    /// Records from a slot on, in slot order; empty states stand for all.
    pub(crate) fn records<'a>(
        &'a self,
        start: u32,
        states: &'a [JobState],
        now: Now,
    ) -> impl Iterator<Item = (u32, JobRecord)> + 'a {
        let wanted = |entry: &Entry| states.is_empty() || states.contains(&entry.state);
        let entries = self.slots.iter_from(start).filter(move |(_, entry)| wanted(entry));
        entries.map(move |(slot, entry)| (slot, self.record(entry, now)))
    }

    /// When somebody must look at the queue again though nobody asks it anything.
    pub(crate) fn next_duty(&self, now: Now) -> Duration {
        let timer = self.next_moment().map(|at| Duration::from_nanos(at.saturating_sub(now.mono)));
        let sweep = self.next_sweep().map(|at| now.wall.until(at));
        timer.into_iter().chain(sweep).min().unwrap_or(Duration::from_secs(60))
    }

    /// The queue is dropped: its consumers are told so, and publishers that wait for room look its name up again.
    pub(crate) fn dissolve(&mut self) {
        self.dissolved = true;
        self.erase_all();
        self.signals.room = true;
        self.stir();
    }

    pub(crate) fn reference(&self, id: JobId) -> JobRef {
        JobRef::new(self.spec.name.clone(), id)
    }

    pub(crate) fn stats(&self) -> QueueStats {
        let mut stats = QueueStats::empty(self.spec.name.clone());
        stats.paused = self.control.paused;
        stats.pending = self.count(JobState::Pending);
        stats.parked = self.parked_count;
        stats.scheduled = self.count(JobState::Scheduled);
        stats.retrying = self.count(JobState::Retrying);
        stats.running = self.count(JobState::Running);
        stats.dead = self.count(JobState::Dead);
        stats.finished =
            self.count(JobState::Completed) + self.count(JobState::Cancelled) + self.count(JobState::Expired);
        stats.submitted_total = self.submitted_total;
        stats.completed_total = self.completed_total;
        stats.failed_total = self.failed_total;
        let stands = |place: Place| self.slots.get(place.slot).is_some_and(|entry| entry.stands_at(place));
        let heads = self.line.heads(stands).filter_map(|place| self.slots.get(place.slot));
        stats.oldest_pending = heads.map(|entry| entry.changed_at).min();
        stats
    }
}

fn is_live(entry: &Entry, timer: Timer) -> bool {
    match timer.alarm {
        Alarm::Turn => entry.short_ticket() == timer.key,
        // A redrive may have lifted it.
        Alarm::Expiry => entry.born == timer.key && !entry.state.is_terminal() && entry.envelope.expires_at.is_some(),
    }
}

#[cfg(test)]
mod tests;
