//! Giving jobs out.

use std::{sync::Arc, time::Duration};

use queue_core::{
    lifecycle::{JobState, Trigger},
    provider::{Delivery, Durability, Lease, Receipt},
};

use super::{Moment, Now, State, lanes::Place, state::Holder};

/// What a claim found.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// Jobs, now leased.
    Jobs(Vec<Delivery>),
    /// Nothing; time has work to do at that moment.
    Nothing { until: Option<Moment> },
    /// The consumer may not take any now: it is full, or the queue is paused.
    Barred,
    /// The consumer was closed.
    Closed,
    /// The queue was dropped.
    Dissolved,
}

impl State {
    pub(crate) fn open_consumer(&mut self, worker: Arc<str>, demand: usize) -> Option<u32> {
        let worker = self.name_worker(worker);
        self.consumers.insert(Holder { worker, demand, outstanding: 0, closed: false, abandoned: false })
    }

    pub(crate) fn consumer_mut(&mut self, holder: u32) -> Option<&mut Holder> {
        self.consumers.get_mut(holder)
    }

    /// Whether the consumer itself was closed.
    pub(crate) fn is_closed(&self, holder: u32) -> bool {
        self.consumers.get(holder).is_none_or(|consumer| consumer.closed)
    }

    pub(crate) fn outstanding(&self, holder: u32) -> usize {
        self.consumers.get(holder).map_or(0, |consumer| consumer.outstanding)
    }

    /// The consumer is gone. What it holds stays leased until the lease ends.
    pub(crate) fn abandon_consumer(&mut self, holder: u32) {
        match self.consumers.get_mut(holder) {
            Some(consumer) if consumer.outstanding > 0 => {
                consumer.closed = true;
                consumer.abandoned = true;
            }
            Some(_) => {
                self.consumers.remove(holder);
            }
            None => {}
        }
    }

    /// Leases up to `max` jobs to a consumer, in the order of the queue.
    pub(crate) fn claim(&mut self, holder: u32, max: usize, lease: Duration, now: Now) -> Claimed {
        let Some(consumer) = self.consumers.get(holder).filter(|consumer| !consumer.closed) else {
            return Claimed::Closed;
        };
        if self.dissolved {
            return Claimed::Dissolved;
        }
        let room = consumer.demand.saturating_sub(consumer.outstanding).min(max);
        if self.control.paused || room == 0 {
            return Claimed::Barred;
        }
        let worker = consumer.worker;
        self.advance(now);
        let ready = usize::try_from(self.count(JobState::Pending)).unwrap_or(usize::MAX);
        let mut jobs = Vec::with_capacity(room.min(ready));
        self.line.look(now.mono);
        while jobs.len() < room {
            let slots = &self.slots;
            let rank_of =
                |place: Place| slots.get(place.slot).filter(|entry| entry.stands_at(place)).map(|entry| entry.rank);
            let Some(place) = self.line.pop(rank_of) else { break };
            let Some(entry) = self.slots.get(place.slot).filter(|entry| entry.stands_at(place)) else { continue };
            if entry.envelope.expires_at.is_some_and(|end| end <= now.wall) {
                self.apply(place.slot, Trigger::Expire, now);
                continue;
            }
            jobs.extend(self.lease(place.slot, holder, worker, lease, now));
        }
        if jobs.is_empty() {
            return Claimed::Nothing { until: self.next_moment() };
        }
        if let Some(consumer) = self.consumers.get_mut(holder) {
            consumer.outstanding += jobs.len();
        }
        if self.line.any_ready() {
            // There is more than this consumer took.
            self.wake_one();
        }
        Claimed::Jobs(jobs)
    }

    /// A job that was claimed and not handed out after all stands where it stood, as suspect as it was.
    pub(crate) fn take_back(&mut self, receipt: Receipt, now: Now) {
        let Some(slot) = self.held(receipt) else { return };
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.row.suspect();
        // One that was asked to stop meanwhile does not come back.
        let trigger = if entry.cancel_requested().is_some() { Trigger::Cancel } else { Trigger::Release };
        self.apply(slot, trigger, now);
    }

    fn lease(&mut self, slot: u32, holder: u32, worker: u32, lease: Duration, now: Now) -> Option<Delivery> {
        let entry = self.slots.get_mut(slot)?;
        entry.holder = holder;
        entry.marked = false;
        entry.row.marking(false);
        entry.started_at = Some(now.wall);
        entry.worker = worker;
        if entry.row.take_suspicion() {
            // It may have ended the process before: what shows that it was given out is on disk first.
            self.rely(Some(Durability::Synced));
        }
        self.apply(slot, Trigger::Claim, now)?;
        self.turn(slot, now.after(lease));
        let entry = self.slots.get(slot)?;
        Some(Delivery {
            place: 0,
            envelope: entry.envelope.clone(),
            receipt: Receipt { id: entry.envelope.id, slot: u64::from(slot), epoch: entry.ticket },
            lease: Lease { remaining: Some(lease), cancel: None },
            attempt: entry.attempt,
            started_before: entry.started_count,
            redelivered: entry.orphaned,
        })
    }
}
