//! What must be written down of a queue that outlives the process.
//!
//! Whoever changes a job notes its slot; before the lock is released everything noted goes to the journal as one batch, so that
//! the order of the journal is the order of the changes.

use std::time::Duration;

use queue_core::{Env, job::JobId, job::UniqueKey, provider::Durability};

use super::{Now, Settled, State};
use crate::{
    journal::{Batch, Journal, Table, Ticket, Urgency, key},
    rows::{GoneRow, JobRow, QueueRow, StateRow, WindowRow},
};

/// What nobody waits for is on disk that soon.
const LATER: Duration = Duration::from_secs(1);
/// A batch that took more gives it back.
const SPARE: usize = 1 << 16;
/// Tickets are promised to the journal so many at a time, and half of them before the others are spent: after a crash none is
/// given twice.
const TICKETS: u64 = 1 << 24;

#[derive(Debug)]
pub(crate) struct Changes {
    journal: Journal,
    env: Env,
    number: u32,
    /// Jobs whose rows are outdated, by slot. While the disk refuses they wait here, each at most once.
    dirty: Vec<u32>,
    /// Rows that go, and rows beside the jobs'.
    batch: Batch,
    /// The queue's own row is outdated.
    queue: bool,
    tickets: u64,
    bound: Option<Bound>,
    /// The newest batch that somebody relies on.
    relied_on: Option<Ticket>,
}

/// What is promised of the changes under this lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Within(Duration),
    /// The caller waits for them.
    Synced,
}

impl Bound {
    fn of(durability: Durability) -> Self {
        match durability {
            Durability::Relaxed => Self::Within(LATER),
            Durability::Interval(most) => Self::Within(most),
            Durability::Synced | Durability::Replicated { .. } => Self::Synced,
        }
    }

    fn or_more(self, other: Option<Self>) -> Self {
        match (self, other) {
            (bound, None) => bound,
            (Self::Within(one), Some(Self::Within(other))) => Self::Within(one.min(other)),
            _ => Self::Synced,
        }
    }

    fn urgency(self) -> Urgency {
        match self {
            Self::Within(most) => Urgency::Within(most),
            Self::Synced => Urgency::Now,
        }
    }
}

/// Where a job stands in the journal: the number of its rows, and what of them is outdated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Row(u64);

impl Row {
    /// It is among the slots that were noted.
    const NOTED: u64 = 1;
    /// The job itself must be written.
    const FRESH: u64 = 1 << 1;
    /// Its state must be written.
    const CHANGED: u64 = 1 << 2;
    /// There is a row of the job.
    const KEPT: u64 = 1 << 3;
    /// There is a row of its state.
    const STATED: u64 = 1 << 4;
    /// It was there before a process ended without warning, perhaps because of it.
    const SUSPECT: u64 = 1 << 5;
    /// Its start was marked, and nobody knows yet whether the disk has it.
    const MARKING: u64 = 1 << 6;
    const BITS: u32 = 7;

    fn new(number: u64) -> Self {
        Self(number << Self::BITS)
    }

    pub(super) fn restored(number: u64, stated: bool) -> Self {
        let mut row = Self::new(number);
        row.0 |= Self::KEPT;
        row.set(Self::STATED, stated);
        row
    }

    fn number(self) -> u64 {
        self.0 >> Self::BITS
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    fn set(&mut self, bit: u64, set: bool) {
        self.0 = if set { self.0 | bit } else { self.0 & !bit };
    }

    pub(super) fn take_suspicion(&mut self) -> bool {
        let suspect = self.has(Self::SUSPECT);
        self.set(Self::SUSPECT, false);
        suspect
    }

    pub(super) fn is_marking(self) -> bool {
        self.has(Self::MARKING)
    }

    pub(super) fn marking(&mut self, marking: bool) {
        self.set(Self::MARKING, marking);
    }

    pub(super) fn suspect(&mut self) {
        self.set(Self::SUSPECT, true);
    }
}

/// The keys of the rows beside the jobs'.
const GONE: u8 = 1;
const WINDOW: u8 = 2;

fn side_key(number: u32, kind: u8, rest: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[kind], rest].concat()
}

/// What a row beside the jobs' is about: of which queue, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Side<'a> {
    /// The n-th job that was forgotten.
    Gone(u64),
    /// The window of a unique key.
    Window(&'a str),
}

impl<'a> Side<'a> {
    pub(crate) fn read(key: &'a [u8]) -> Option<(u32, Self)> {
        let (number, rest) = key.split_first_chunk::<4>()?;
        let side = match rest.split_first()? {
            (&GONE, rest) => Self::Gone(u64::from_be_bytes(rest.try_into().ok()?)),
            (&WINDOW, rest) => Self::Window(std::str::from_utf8(rest).ok()?),
            _ => return None,
        };
        Some((u32::from_be_bytes(*number), side))
    }
}

impl Changes {
    pub(crate) fn new(journal: Journal, env: Env, number: u32) -> Self {
        Self {
            journal,
            env,
            number,
            dirty: Vec::new(),
            batch: Batch::new(),
            queue: false,
            tickets: 0,
            bound: None,
            relied_on: None,
        }
    }

    /// What was promised in an earlier process.
    pub(crate) fn promised(mut self, tickets: u64) -> Self {
        self.tickets = tickets;
        self
    }

    fn is_idle(&self) -> bool {
        self.dirty.is_empty() && self.batch.is_empty() && !self.queue
    }

    /// Hands the batch to the journal.
    fn append(&mut self, bound: Option<Bound>) {
        if self.batch.is_empty() {
            return;
        }
        let urgency = bound.map_or(Urgency::Within(LATER), Bound::urgency);
        let ticket = self.journal.append(&self.batch, urgency);
        self.done();
        if bound.is_some() {
            self.relied_on = Some(ticket);
        }
    }

    fn done(&mut self) {
        self.batch.clear();
        self.batch.shrink_to(SPARE);
    }
}

impl State {
    /// From now on everything is written down, the queue itself first.
    pub(crate) fn write_down(&mut self, changes: Changes) {
        self.changes = Some(Box::new(changes));
        self.note_queue();
    }

    /// What happens under this lock is relied on: as much as the queue's durability says, or more. It is appended even while
    /// the disk refuses, so whoever says this has asked the journal before.
    #[inline]
    pub(crate) fn rely(&mut self, asked: Option<Durability>) {
        if let Some(changes) = &mut self.changes {
            let own = Bound::of(self.spec.durability.unwrap_or(Durability::Synced));
            let bound = own.or_more(asked.map(Bound::of));
            changes.bound = Some(bound.or_more(changes.bound));
        }
    }

    /// The job's state is outdated in the journal.
    #[inline]
    pub(super) fn note(&mut self, slot: u32) {
        if self.changes.is_some() {
            self.note_as(slot, Row::CHANGED);
        }
    }

    /// The job itself is: it is new, or was edited.
    #[inline]
    pub(super) fn note_job(&mut self, slot: u32) {
        if self.changes.is_some() {
            self.note_as(slot, Row::FRESH);
        }
    }

    #[inline(never)]
    fn note_as(&mut self, slot: u32, what: u64) {
        let (Some(changes), Some(entry)) = (&mut self.changes, self.slots.get_mut(slot)) else { return };
        if entry.row.number() == 0 {
            // Its first ticket: tickets rise, so rows lie in the order in which jobs came.
            entry.row = Row::new(entry.ticket);
        }
        entry.row.set(what, true);
        if !entry.row.has(Row::NOTED) {
            entry.row.set(Row::NOTED, true);
            changes.dirty.push(slot);
        }
    }

    pub(crate) fn note_queue(&mut self) {
        if let Some(changes) = &mut self.changes {
            changes.queue = true;
        }
    }

    /// The job is being forgotten: its rows go.
    #[inline]
    pub(super) fn erase(&mut self, slot: u32) {
        if let (Some(changes), Some(entry)) = (&mut self.changes, self.slots.get(slot)) {
            let key = key(changes.number, entry.row.number());
            if entry.row.has(Row::KEPT) {
                changes.batch.delete(Table::Jobs, &key);
            }
            if entry.row.has(Row::STATED) {
                changes.batch.delete(Table::States, &key);
            }
        }
    }

    pub(super) fn note_gone(&mut self, number: u64, id: JobId, settled: Option<Settled>) {
        if let Some(changes) = &mut self.changes {
            let key = side_key(changes.number, GONE, &number.to_be_bytes());
            changes.batch.put_with(Table::Keys, &key, |out| GoneRow::write(id, settled, out));
        }
    }

    pub(super) fn erase_gone(&mut self, number: u64) {
        if let Some(changes) = &mut self.changes {
            changes.batch.delete(Table::Keys, &side_key(changes.number, GONE, &number.to_be_bytes()));
        }
    }

    pub(super) fn note_window(&mut self, unique: &UniqueKey, holder: JobId, window: Duration, now: Now) {
        if let Some(changes) = &mut self.changes {
            let key = side_key(changes.number, WINDOW, unique.as_str().as_bytes());
            changes.batch.put_with(Table::Keys, &key, |out| WindowRow::write(holder, now.wall + window, out));
        }
    }

    pub(super) fn erase_window(&mut self, unique: &UniqueKey) {
        if let Some(changes) = &mut self.changes {
            changes.batch.delete(Table::Keys, &side_key(changes.number, WINDOW, unique.as_str().as_bytes()));
        }
    }

    /// The queue is dropped, and nothing of it is written down any more: all of its rows go.
    pub(super) fn erase_all(&mut self) {
        if self.changes.is_none() {
            return;
        }
        let slots: Vec<u32> = self.slots.iter_from(0).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.erase(slot);
        }
        for number in self.finished.numbers_gone() {
            self.erase_gone(number);
        }
        let windows: Vec<UniqueKey> = self.windows.iter().map(|window| window.0.1.clone()).collect();
        for unique in windows {
            self.erase_window(&unique);
        }
        if let Some(changes) = &mut self.changes {
            changes.batch.delete(Table::Queues, &changes.number.to_be_bytes());
            (changes.queue, changes.bound) = (false, Some(Bound::Synced));
            changes.dirty.clear();
        }
    }

    /// Appends what changed to the journal; the ticket where the caller must wait for it. What nobody relies on stays here
    /// while the disk refuses.
    #[inline]
    pub(super) fn keep(&mut self) -> Option<Ticket> {
        if self.changes.is_none() { None } else { self.keep_changes() }
    }

    #[inline(never)]
    fn keep_changes(&mut self) -> Option<Ticket> {
        let changes = self.changes.as_mut()?;
        let bound = changes.bound.take();
        if !changes.is_idle() && (bound.is_some() || changes.journal.ready().is_ok()) {
            self.write_rows();
            self.changes.as_mut()?.append(bound);
        }
        let changes = self.changes.as_ref()?;
        let ticket = changes.relied_on.filter(|ticket| waits(bound, *ticket));
        if self.dissolved {
            // Its rows are gone, and none may come after.
            self.changes = None;
        }
        ticket
    }

    /// The rows of everything that was noted.
    fn write_rows(&mut self) {
        let Self { changes: Some(changes), slots, workers, spec, control, ticket, dissolved, .. } = self else {
            return;
        };
        let Changes { batch, number, dirty, queue, tickets, env, .. } = &mut **changes;
        if *ticket + TICKETS / 2 > *tickets && !*dissolved {
            (*tickets, *queue) = (*ticket + TICKETS, true);
        }
        if std::mem::take(queue) {
            batch.put_with(Table::Queues, &number.to_be_bytes(), |out| QueueRow::write(spec, control, *tickets, out));
        }
        let mut now = None;
        for slot in dirty.drain(..) {
            // Forgotten since, or its place is another's, which was noted itself.
            let Some(entry) = slots.get_mut(slot).filter(|entry| entry.row.has(Row::NOTED)) else { continue };
            let row = &mut entry.row;
            let (fresh, changed) = (row.has(Row::FRESH), row.has(Row::CHANGED));
            row.set(Row::NOTED | Row::FRESH | Row::CHANGED, false);
            row.set(Row::KEPT, fresh || row.has(Row::KEPT));
            row.set(Row::STATED, changed || row.has(Row::STATED));
            let key = key(*number, row.number());
            if fresh {
                let (at, partition, envelope) = (entry.submitted_at, entry.partition, &entry.envelope);
                batch.put_with(Table::Jobs, &key, |out| JobRow::write(at, partition, envelope, out));
            }
            if changed {
                let now = *now.get_or_insert_with(|| Now::read(env));
                let worker = entry.started_at.and_then(|_| workers.get(entry.worker as usize));
                batch.put_with(Table::States, &key, |out| StateRow::write(entry, worker.map(|name| &**name), now, out));
            }
        }
    }
}

/// Whether an answer waits for its ticket. Where the journal was closed meanwhile no promise is too weak for that: whoever
/// closes in order loses nothing that was answered.
fn waits(bound: Option<Bound>, ticket: Ticket) -> bool {
    bound == Some(Bound::Synced) || (bound.is_some() && ticket == Ticket::NEVER)
}

/// Appends what changed in several queues, all of them under lock, as one batch: together or not at all.
pub(crate) fn keep_together(states: &mut [impl std::ops::DerefMut<Target = State>]) -> Option<Ticket> {
    let mut together = Batch::new();
    let (mut bound, mut journal, mut relied_on) = (None::<Bound>, None, None);
    for state in states.iter_mut() {
        state.write_rows();
        let Some(changes) = &mut state.changes else { continue };
        together.extend(&changes.batch);
        changes.done();
        if let Some(own) = changes.bound.take() {
            bound = Some(own.or_more(bound));
        }
        relied_on = relied_on.max(changes.relied_on);
        journal.get_or_insert_with(|| changes.journal.clone());
    }
    let (journal, bound) = (journal?, bound.unwrap_or(Bound::Within(LATER)));
    if !together.is_empty() {
        let ticket = journal.append(&together, bound.urgency());
        for changes in states.iter_mut().filter_map(|state| state.changes.as_mut()) {
            changes.relied_on = Some(ticket);
        }
        relied_on = Some(ticket);
    }
    relied_on.filter(|ticket| waits(Some(bound), *ticket))
}

#[cfg(all(test, feature = "journal"))]
mod tests;
