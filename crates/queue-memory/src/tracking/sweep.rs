//! What somebody must publish because its publisher has not.

use std::time::Duration;

use queue_core::{
    lifecycle::Trigger,
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

    pub(super) fn unpark(
        &mut self,
        scope: &Scope,
        key: &ParkKey,
        n: usize,
        lease: Duration,
        now: Now,
    ) -> Vec<StagedJob> {
        let Some(line) = self.parked.get(key) else { return Vec::new() };
        let inside = |slot: &u32| self.slots.get(*slot).is_some_and(|record| is_in(scope, record));
        let slots: Vec<u32> = line.iter().map(|(_, slot)| *slot).filter(inside).take(n).collect();
        slots.into_iter().filter_map(|slot| self.hand_out(slot, lease, now)).collect()
    }
}

fn is_in(scope: &Scope, record: &Tracked) -> bool {
    record.provider.as_ref().is_none_or(|provider| *provider == scope.provider)
        && scope.queues.as_ref().is_none_or(|queues| queues.contains(&record.queue))
}
