//! A queue as it was when its last process ended.

use std::sync::Arc;

use hashbrown::HashMap;
use queue_core::{
    job::UniqueKey,
    lifecycle::{self, JobState, Trigger},
};

use super::{Alarm, Changes, Now, State, Timer, changes::Row, entry::Entry, lanes::Place};
use crate::rows::{Broken, GoneRow, JobRow, QueueRow, StateRow, WindowRow};

/// Nobody comes that far with tickets; what says so is no row of ours, and would overflow.
const HIGHEST: u64 = 1 << 56;

/// Takes rows in the order in which the journal gives them: jobs, then their states, then what is beside them.
#[derive(Debug)]
pub(crate) struct Restoring {
    state: State,
    /// The number of each slot's rows, which rises.
    numbers: Vec<u64>,
    /// The slot of the last state.
    at: usize,
    /// Names of workers are few, and on many rows.
    workers: HashMap<Arc<str>, u32>,
    /// The highest ticket that is seen in a row.
    newest: u64,
    promised: u64,
    now: Now,
    /// The last process ended without warning.
    suspect: bool,
}

impl Restoring {
    pub(crate) fn begin(row: QueueRow, hub: crate::events::Hub, now: Now) -> Result<Self, Broken> {
        if row.tickets > HIGHEST {
            return Err(Broken::Record("a queue's tickets"));
        }
        let mut state = State::new(row.spec, hub);
        state.control = row.control;
        Ok(Self {
            state,
            numbers: Vec::new(),
            at: 0,
            workers: HashMap::new(),
            newest: 0,
            promised: row.tickets,
            now,
            suspect: true,
        })
    }

    pub(crate) fn job(&mut self, number: u64, row: JobRow) -> Result<(), Broken> {
        if !(1..=HIGHEST).contains(&number) {
            return Err(Broken::Record("a job's number"));
        }
        if self.numbers.last().is_some_and(|last| *last >= number) {
            return Err(Broken::Record("jobs out of order"));
        }
        if !self.state.line.has(row.partition) {
            return Err(Broken::Record("there is no such partition"));
        }
        let JobRow { submitted_at, partition, envelope } = row;
        let id = envelope.id;
        let state = JobState::initial(envelope.not_before, submitted_at);
        self.state.born = self.state.born.wrapping_add(1);
        let mut entry = Entry::new(envelope, state, number, self.state.born, submitted_at);
        entry.partition = partition;
        entry.turn_at = entry.envelope.not_before.map_or(0, |due| self.now.moment_at(due));
        entry.row = Row::restored(number, false);
        let slot = self.state.slots.insert(entry).ok_or(Broken::Record("more jobs than a queue holds"))?;
        self.numbers.push(number);
        self.newest = self.newest.max(number);
        if self.state.is_tracked() {
            self.state.index(slot, id);
        }
        Ok(())
    }

    pub(crate) fn state(&mut self, number: u64, row: StateRow) -> Result<(), Broken> {
        if row.ticket.max(row.rank) > HIGHEST {
            return Err(Broken::Record("a ticket"));
        }
        // States come in the order of their jobs.
        while self.numbers.get(self.at).is_some_and(|job| *job < number) {
            self.at += 1;
        }
        let alone = Broken::Record("a state without its job");
        if self.numbers.get(self.at) != Some(&number) {
            return Err(alone);
        }
        let worker = row.worker.clone().map(|name| self.worker(name));
        let slot = u32::try_from(self.at).map_err(|_| alone)?;
        let entry = self.state.slots.get_mut(slot).ok_or(alone)?;
        self.newest = self.newest.max(row.ticket).max(row.rank);
        entry.restore(row, self.now);
        entry.row = Row::restored(number, true);
        entry.worker = worker.unwrap_or_default();
        Ok(())
    }

    fn worker(&mut self, name: Arc<str>) -> u32 {
        let state = &mut self.state;
        *self.workers.entry(name).or_insert_with_key(|name| state.name_worker(Arc::clone(name)))
    }

    pub(crate) fn gone(&mut self, number: u64, row: GoneRow) {
        self.state.restore_gone(number, row.id, row.settled);
    }

    pub(crate) fn window(&mut self, key: UniqueKey, row: &WindowRow) {
        self.state.hold_until(key, row.holder, self.now.moment_at(row.until));
    }

    /// What the last process left: `clean` where it ended in order. Leases went with it.
    pub(crate) fn end(mut self, clean: bool, changes: Changes) -> State {
        self.suspect = !clean;
        let promised = self.promised;
        // None of them is given twice, not even one whose change was lost.
        self.state.ticket = promised.max(self.newest);
        self.state.write_down(changes.promised(promised));
        let lines = self.sort_out();
        self.line_up(lines);
        self.state
    }

    /// Puts every job where it belongs but those who stand in line, who must be sorted first.
    fn sort_out(&mut self) -> Lines {
        let mut lines = Lines::default();
        for slot in 0..u32::try_from(self.numbers.len()).unwrap_or(u32::MAX) {
            let Some(entry) = self.state.slots.get_mut(slot) else { continue };
            let (state, turn_at, rank) = (entry.state, entry.turn_at, entry.rank);
            if self.suspect && !state.is_terminal() {
                entry.row.suspect();
            }
            let (ticket, failures) = (entry.ticket, u64::from(entry.attempt.saturating_sub(1)));
            self.state.counts[state as usize] += 1;
            self.state.submitted_total += 1;
            self.state.completed_total += u64::from(state == JobState::Completed);
            self.state.failed_total += failures + u64::from(state == JobState::Dead);
            match state {
                JobState::Pending => match entry.parked().cloned() {
                    Some(key) => {
                        self.state.parked.entry(key).or_default().insert(rank, slot);
                        self.state.parked_count += 1;
                        self.state.turn(slot, turn_at);
                    }
                    None => lines.ready.push((rank, slot)),
                },
                JobState::Running => lines.running.push(slot),
                JobState::Scheduled | JobState::Retrying => self.state.turn(slot, turn_at),
                JobState::Dead => {
                    let died = entry.changed_at;
                    self.state.dead.insert((died, slot));
                }
                JobState::Completed | JobState::Cancelled | JobState::Expired => lines.finished.push((ticket, slot)),
                JobState::Blocked => {}
            }
            if !state.is_terminal() {
                self.keep_promises(slot);
            }
        }
        lines
    }

    /// Its time to live and its unique key. One that is held for a window has a row of its own.
    fn keep_promises(&mut self, slot: u32) {
        let Some(entry) = self.state.slots.get(slot) else { return };
        let (id, key) = (entry.envelope.id, entry.born);
        let unique = entry.envelope.unique.clone().filter(|unique| unique.window.is_none());
        if let Some(end) = entry.envelope.expires_at {
            let at = self.now.moment_at(end);
            self.state.set_timer(Timer { at, slot, key, alarm: Alarm::Expiry });
        }
        if let Some(unique) = unique {
            self.state.hold(&unique, id, self.now);
        }
    }

    fn line_up(&mut self, mut lines: Lines) {
        lines.finished.sort_unstable();
        for (_, slot) in lines.finished {
            let bytes = self.state.slots.get(slot).map_or(0, Entry::bytes);
            self.state.finished.restore(slot, bytes);
        }
        lines.ready.sort_unstable();
        for (rank, slot) in lines.ready {
            let Some(entry) = self.state.slots.get(slot) else { continue };
            let place = Place { slot, ticket: entry.short_ticket() };
            let (partition, priority) = (entry.partition, entry.envelope.priority);
            let since = self.now.moment_at(entry.changed_at);
            self.state.line.push(partition, priority, lifecycle::Line::Tail, rank, place, since);
        }
        for slot in lines.running {
            self.lose_lease(slot);
        }
    }

    /// Its worker ended with the process.
    fn lose_lease(&mut self, slot: u32) {
        let Some(entry) = self.state.slots.get_mut(slot) else { return };
        entry.orphaned = true;
        let partition = entry.partition;
        let trigger = if entry.cancel_requested().is_some() { Trigger::Cancel } else { Trigger::LeaseLost };
        self.state.line.resume(partition);
        self.state.apply(slot, trigger, self.now);
    }
}

/// Slots that are to be sorted, and those to be freed of their leases.
#[derive(Debug, Default)]
struct Lines {
    ready: Vec<(u64, u32)>,
    running: Vec<u32>,
    finished: Vec<(u64, u32)>,
}
