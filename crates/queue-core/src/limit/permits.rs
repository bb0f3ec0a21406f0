//! Who holds what was granted, and until when.

use std::{collections::HashMap, time::Duration};

use super::Holder;

/// What a run took.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) began: Duration,
    until: Duration,
    /// The places of its keys, each with the breaker's turn.
    pub(super) taken: Vec<(usize, u32)>,
}

/// Permits by their holders. One that is not renewed ends by itself.
#[derive(Debug)]
pub(super) struct Permits {
    held: HashMap<Holder, Permit>,
    /// None ends before.
    earliest: Duration,
}

impl Default for Permits {
    fn default() -> Self {
        Self { held: HashMap::new(), earliest: Duration::MAX }
    }
}

impl Permits {
    pub(super) fn insert(&mut self, holder: Holder, began: Duration, lease: Duration, taken: Vec<(usize, u32)>) {
        let until = began.saturating_add(lease);
        self.earliest = self.earliest.min(until);
        self.held.insert(holder, Permit { began, until, taken });
    }

    /// Keeps it so long from now. `false` where there is none.
    pub(super) fn renew(&mut self, holder: &Holder, now: Duration, lease: Duration) -> bool {
        let Some(permit) = self.held.get_mut(holder) else { return false };
        permit.until = now.saturating_add(lease);
        self.earliest = self.earliest.min(permit.until);
        true
    }

    pub(super) fn remove(&mut self, holder: &Holder) -> Option<Permit> {
        self.held.remove(holder)
    }

    /// Those that ended by `now`. They are looked through only once the earliest end has come that any of them had: while
    /// runs are shorter than a lease or are renewed in time, that is once a lease at most.
    pub(super) fn lapsed(&mut self, now: Duration) -> Vec<Permit> {
        if now < self.earliest {
            return Vec::new();
        }
        let lapsed = self.held.extract_if(|_, permit| permit.until <= now).map(|(_, permit)| permit).collect();
        self.earliest = self.held.values().map(|permit| permit.until).min().unwrap_or(Duration::MAX);
        lapsed
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}
