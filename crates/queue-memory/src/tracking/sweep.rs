//! What somebody must publish because its publisher has not.

use std::time::Duration;

use queue_core::{
    lifecycle::{JobState, Trigger},
    provider::ParkKey,
    store::{Scope, StagedJob},
};

use super::{
    ledger::Ledger,
    record::{Agenda, Copy, Origin, Tracked},
};
use crate::queue::Now;

impl Ledger {
    pub(super) fn due(
        &mut self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        lease: Duration,
        now: Now,
    ) -> Vec<StagedJob> {
        self.tombstones.prune(now);
        let mut slots = self.overdue(Agenda::Owed, scope, limit, now);
        if dead_leases {
            let more = self.overdue(Agenda::Leases, scope, limit - slots.len(), now);
            slots.extend(more);
        }
        slots.into_iter().filter_map(|slot| self.hand_out(slot, lease, now)).collect()
    }

    fn overdue(&self, agenda: Agenda, scope: &Scope, limit: usize, now: Now) -> Vec<u32> {
        let list = match agenda {
            Agenda::Owed => &self.owed,
            Agenda::Leases => &self.leases,
        };
        let slots = list.range(..=(now.mono, u32::MAX)).map(|(_, slot)| *slot);
        slots.filter(|slot| self.slots.get(*slot).is_some_and(|record| is_in(scope, record))).take(limit).collect()
    }

    /// Gives a copy to the caller for publication, and keeps other sweeps off it for a stage lease.
    fn hand_out(&mut self, slot: u32, lease: Duration, now: Now) -> Option<StagedJob> {
        if self.end_outlived(slot, now) {
            return None;
        }
        let record = self.slots.get(slot)?;
        let staged = matches!(record.copy, Copy::Staged { .. });
        if record.is_parked() {
            self.apply(slot, Trigger::Unpark, now)?;
        }
        let record = self.slots.get_mut(slot)?;
        if !staged {
            // The copy before is acknowledged (parked), or with a worker that fell silent: it must not run beside this
            // one. A silent worker keeps its fence until somebody claims, so that it may still settle.
            record.renew_copy();
        }
        record.copy = Copy::Staged { until: now.after(lease), lease, origin: Origin::Promised };
        let copy = record.staged();
        self.relist(slot);
        self.announce(slot, now);
        Some(copy)
    }

    /// Ends a job whose lease is dead and whose time to live has passed: the transport drops every copy of it, so no claim
    /// would.
    fn end_outlived(&mut self, slot: u32, now: Now) -> bool {
        let Some(record) = self.slots.get(slot) else { return false };
        let over = record.outlived || record.job.envelope.expires_at.is_some_and(|end| end <= now.wall);
        if record.job.state != JobState::Running || !over {
            return false;
        }
        if record.job.cancel_requested().is_some() {
            return self.apply(slot, Trigger::Cancel, now).is_some();
        }
        self.apply(slot, Trigger::LeaseLost, now);
        self.apply(slot, Trigger::Expire, now).is_some()
    }

    /// What the transport was to deliver and has not: it was found empty.
    pub(super) fn silent(
        &mut self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        lease: Duration,
        now: Now,
    ) -> Vec<StagedJob> {
        let is_silent = |record: &Tracked| {
            let waits = record.job.state == JobState::Pending && record.copy == Copy::Sent && !record.is_parked();
            waits && record.job.changed_at + at_least <= now.wall && is_in(scope, record)
        };
        let slots = self.slots.iter_from(0).filter(|(_, record)| is_silent(record)).map(|(slot, _)| slot);
        let slots: Vec<u32> = slots.take(limit).collect();
        slots.into_iter().filter_map(|slot| self.hand_out(slot, lease, now)).collect()
    }

    pub(super) fn unpark(
        &mut self,
        scope: &Scope,
        key: &ParkKey,
        n: usize,
        lease: Duration,
        now: Now,
    ) -> Vec<StagedJob> {
        let rooms = self.rooms.iter().filter(|(queue, _)| scope.queues.as_ref().is_none_or(|all| all.contains(queue)));
        let inside = |slot: u32| self.slots.get(slot).is_some_and(|record| is_in(scope, record));
        let lines = rooms.filter_map(|(_, room)| room.parked.get(key));
        let mut places: Vec<(u64, u32)> =
            lines.flat_map(|line| line.iter().filter(|(_, slot)| inside(*slot)).take(n)).copied().collect();
        places.sort_unstable();
        places.truncate(n);
        let slots = places.into_iter().map(|(_, slot)| slot);
        slots.filter_map(|slot| self.hand_out(slot, lease, now)).collect()
    }
}

fn is_in(scope: &Scope, record: &Tracked) -> bool {
    record.provider == scope.provider && scope.queues.as_ref().is_none_or(|queues| queues.contains(&record.queue))
}
