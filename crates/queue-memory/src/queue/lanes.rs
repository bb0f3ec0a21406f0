//! Who is next: a FIFO lane per priority.

use std::collections::{BTreeMap, VecDeque};

use queue_core::{job::Priority, lifecycle::Line};

/// A place in line. It holds while the job's ticket has not moved on; an old one is skipped when it is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) ticket: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: [VecDeque<Place>; 16],
    /// What returned to the head of each lane, by its rank: each of them was taken from the lane before whoever is in it
    /// now, so they come first, in the order they once had.
    returned: [BTreeMap<u64, Place>; 16],
    /// Bit n is set where lane n is not empty.
    occupied: u16,
    places: usize,
}

impl Lanes {
    /// `rank` rises with each job that joins a tail; who returns to the head has the rank it had.
    #[inline]
    pub(crate) fn push(&mut self, priority: Priority, line: Line, rank: u64, place: Place) {
        let level = usize::from(priority.level());
        let old = match line {
            Line::Tail => {
                self.lanes[level].push_back(place);
                None
            }
            Line::Head => self.returned[level].insert(rank, place),
        };
        self.occupied |= 1 << level;
        self.places += usize::from(old.is_none());
    }

    /// The first place of the highest occupied lane.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Place> {
        self.pop_lane(self.highest()?)
    }

    /// Takes the first place of this lane.
    #[inline]
    pub(super) fn pop_lane(&mut self, level: usize) -> Option<Place> {
        let place = match self.returned[level].pop_first() {
            Some((_, place)) => Some(place),
            None => self.lanes[level].pop_front(),
        };
        if self.lanes[level].is_empty() && self.returned[level].is_empty() {
            self.occupied &= !(1 << level);
        }
        self.places -= usize::from(place.is_some());
        place
    }

    fn highest(&self) -> Option<usize> {
        (self.occupied != 0).then(|| (15 - self.occupied.leading_zeros()) as usize)
    }

    /// The first place of this lane.
    pub(super) fn head(&self, level: usize) -> Option<Place> {
        if self.occupied & (1 << level) == 0 {
            return None;
        }
        self.returned[level].values().next().or_else(|| self.lanes[level].front()).copied()
    }

    /// Places, old ones included.
    pub(crate) fn len(&self) -> usize {
        self.places
    }

    /// Drops old places. The caller does so when they outnumber the live ones.
    pub(crate) fn compact(&mut self, is_live: impl Fn(Place) -> bool) {
        self.occupied = 0;
        self.places = 0;
        for (level, (lane, returned)) in self.lanes.iter_mut().zip(&mut self.returned).enumerate() {
            lane.retain(|place| is_live(*place));
            returned.retain(|_, place| is_live(*place));
            let left = lane.len() + returned.len();
            self.places += left;
            self.occupied |= u16::from(left > 0) << level;
        }
    }

    /// The first live place of each lane, and of what returned to its head: who returned just now must not hide who waits
    /// behind.
    pub(crate) fn heads(&self, is_live: impl Fn(Place) -> bool) -> impl Iterator<Item = Place> {
        let lanes = self.lanes.iter().zip(&self.returned);
        lanes.flat_map(move |(lane, returned)| {
            let returned = returned.values().copied().find(|place| is_live(*place));
            returned.into_iter().chain(lane.iter().copied().find(|place| is_live(*place)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: u32) -> Place {
        Place { slot, ticket: 0 }
    }

    #[test]
    fn higher_lanes_first_and_fifo_within() {
        let mut lanes = Lanes::default();
        for (slot, level) in [(0, 5), (1, 15), (2, 5), (3, 1), (4, 15)] {
            lanes.push(Priority::new(level).unwrap(), Line::Tail, u64::from(slot), place(slot));
        }
        lanes.push(Priority::NORMAL, Line::Head, 0, place(9));
        let order: Vec<u32> = std::iter::from_fn(|| lanes.pop()).map(|place| place.slot).collect();
        assert_eq!(order, [1, 4, 9, 0, 2, 3]);
        assert_eq!((lanes.len(), lanes.occupied), (0, 0));
    }

    #[test]
    fn who_returns_stands_where_it_stood_whatever_the_order_of_return() {
        let mut lanes = Lanes::default();
        for slot in 0..4 {
            lanes.push(Priority::NORMAL, Line::Tail, u64::from(slot), place(slot));
        }
        let taken: Vec<Place> = (0..3).filter_map(|_| lanes.pop()).collect();
        for index in [1, 2, 0] {
            lanes.push(Priority::NORMAL, Line::Head, index as u64, taken[index]);
        }
        lanes.compact(|place| place.slot != 1);
        assert_eq!((lanes.len(), lanes.heads(|_| true).next().unwrap().slot), (3, 0));
        let order: Vec<u32> = std::iter::from_fn(|| lanes.pop()).map(|place| place.slot).collect();
        assert_eq!(order, [0, 2, 3]);
        assert_eq!((lanes.len(), lanes.occupied), (0, 0));
    }

    #[test]
    fn compaction_keeps_order_and_counts() {
        let mut lanes = Lanes::default();
        for slot in 0..100 {
            lanes.push(Priority::new(1 + (slot % 15) as u8).unwrap(), Line::Tail, u64::from(slot), place(slot));
        }
        lanes.compact(|place| place.slot == 14 || place.slot == 29 || place.slot == 30);
        assert_eq!(lanes.len(), 3);
        assert_eq!(lanes.heads(|_| true).map(|place| place.slot).collect::<Vec<_>>(), [30, 14]);
        let order: Vec<u32> = std::iter::from_fn(|| lanes.pop()).map(|place| place.slot).collect();
        assert_eq!(order, [14, 29, 30]);
    }
}
