//! The meters of all keys, of which idle ones are forgotten.

use std::{collections::HashMap, time::Duration};

use slab::Slab;

use super::{Limit, Need, breaker::Change, meter::Meter};
use crate::provider::ParkKey;

/// A breaker that is not closed is remembered so long after it was last asked for.
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// Up to so many keys nobody looks for idle ones.
const FEW: usize = 128;

/// A key's meter, and what keeps it.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: ParkKey,
    pub(super) meter: Meter,
    /// Permits that name it by its place.
    pub(super) held: u32,
    asked: Duration,
}

/// Every ask looks at more keys than it can add: an idle one is gone after as many asks as there are keys at most.
#[derive(Debug, Default)]
pub(super) struct Keys {
    places: HashMap<ParkKey, usize>,
    keys: Slab<Box<Key>>,
    /// Goes round and looks for idle ones.
    hand: usize,
}

impl Keys {
    /// The key's place, which holds until [`Self::tidy`] finds it idle.
    pub(super) fn place(&mut self, need: &Need, now: Duration) -> usize {
        if let Some(&place) = self.places.get(&need.key) {
            if let Some(key) = self.keys.get_mut(place) {
                key.meter.follow(need.limit, now);
                key.asked = now;
            }
            return place;
        }
        let meter = Meter::new(need.limit, now);
        let place = self.keys.insert(Box::new(Key { name: need.key.clone(), meter, held: 0, asked: now }));
        self.places.insert(need.key.clone(), place);
        place
    }

    pub(super) fn get(&mut self, place: usize) -> Option<&mut Key> {
        self.keys.get_mut(place).map(|key| &mut **key)
    }

    /// The key, if it is known.
    pub(super) fn find(&mut self, need: &Need, now: Duration) -> Option<&mut Key> {
        let key = self.keys.get_mut(*self.places.get(&need.key)?)?;
        key.meter.follow(need.limit, now);
        Some(key)
    }

    /// Looks at the next `looks` keys, and forgets those that are idle. Tells which breakers are forgotten as broken.
    pub(super) fn tidy(&mut self, looks: usize, now: Duration, mut forgotten: impl FnMut(&ParkKey, Change)) {
        if self.keys.len() <= FEW {
            return;
        }
        for _ in 0..looks {
            self.hand = if self.hand + 1 < self.keys.capacity() { self.hand + 1 } else { 0 };
            let Some(key) = self.keys.get_mut(self.hand).filter(|key| key.held == 0) else { continue };
            if now.saturating_sub(key.asked) >= REMEMBERED
                && let Some(change) = key.meter.give_up()
            {
                forgotten(&key.name, change);
            }
            if key.meter.is_idle(now) {
                self.places.remove(&key.name);
                self.keys.remove(self.hand);
            }
        }
        if self.places.capacity() > FEW && self.places.len() < self.places.capacity() / 8 {
            self.places.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// A key that nobody knows is as good as new.
    pub(super) fn fresh(limit: Limit, now: Duration) -> Meter {
        Meter::new(limit, now)
    }
}
