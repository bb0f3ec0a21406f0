//! Order with a bound: what has been ready for half of it takes turns with what is highest.
//!
//! Of any two claims in a row one goes to the highest lane that has jobs, and one may go to a lane below whose head is overdue;
//! the overdue lanes take these turns one after the other. So whatever comes at lower priorities gets half of the capacity if
//! it needs it, and never more while something higher waits. The other half of the bound is for what was fetched already.

use std::collections::VecDeque;

use super::{
    Moment,
    lanes::{Lanes, Place},
};

/// When jobs became ready, by rank: ranks rise with time, so a few marks tell it of all of them, and a job that returns to the
/// head brings its age with it.
#[derive(Debug)]
pub(super) struct Ages {
    /// Ready for so long, a job is overdue.
    patience: Moment,
    /// All ranks from a mark's on, up to the next mark's, became ready within this of the mark's moment.
    grain: Moment,
    marks: VecDeque<(u64, Moment)>,
    /// What has this rank or a lower one is overdue.
    overdue: u64,
}

impl Ages {
    pub(super) fn new(bound: Moment) -> Self {
        let patience = bound / 2;
        Self { patience, grain: patience / 16, marks: VecDeque::new(), overdue: 0 }
    }

    /// A job became ready, with a rank that is higher than all before.
    pub(super) fn note(&mut self, rank: u64, now: Moment) {
        if self.marks.back().is_none_or(|(_, last)| now.saturating_sub(*last) >= self.grain) {
            // Claims may be rare: marks that are overdue already tell no more than the last of them.
            self.look(now);
            self.marks.push_back((rank, now));
        }
    }

    /// Sees what is overdue by now.
    pub(super) fn look(&mut self, now: Moment) {
        let overdue = |mark: &(u64, Moment)| mark.1.saturating_add(self.patience) <= now;
        while self.marks.get(1).is_some_and(overdue) {
            self.marks.pop_front();
        }
        self.overdue = match (self.marks.front(), self.marks.get(1)) {
            (Some(first), next) if overdue(first) => next.map_or(u64::MAX, |(rank, _)| rank - 1),
            (Some((rank, _)), _) => rank - 1,
            (None, _) => 0,
        };
    }

    pub(super) fn is_overdue(&self, rank: u64) -> bool {
        rank <= self.overdue
    }
}

/// Whose turn it is in one set of lanes.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The highest lane when somebody was last picked.
    top: usize,
    /// The last claim went below the highest lane.
    owed: bool,
    /// The lane below that was served last.
    last: usize,
}

impl Turn {
    /// Takes the next place out of the lanes; `rank_of` is `None` for an old place.
    pub(super) fn pick(
        &mut self,
        lanes: &mut Lanes,
        ages: &Ages,
        rank_of: impl Fn(Place) -> Option<u64>,
    ) -> Option<Place> {
        let (mut top, mut overdue) = (None, 0u16);
        for level in (0..16).rev() {
            while let Some(head) = lanes.head(level) {
                let Some(rank) = rank_of(head) else {
                    lanes.pop_lane(level);
                    continue;
                };
                if top.is_none() {
                    top = Some(level);
                } else {
                    overdue |= u16::from(ages.is_overdue(rank)) << level;
                }
                break;
            }
        }
        self.top = top?;
        let below = overdue & ((1 << self.last) - 1);
        let level = match (self.owed, highest(below), highest(overdue)) {
            (false, Some(next), _) | (false, None, Some(next)) => next,
            _ => self.top,
        };
        lanes.pop_lane(level)
    }

    /// The job that was picked was given out.
    pub(super) fn pass(&mut self, level: usize) {
        self.owed = level != self.top;
        if self.owed {
            self.last = level;
        }
    }
}

fn highest(lanes: u16) -> Option<usize> {
    (lanes != 0).then(|| (15 - lanes.leading_zeros()) as usize)
}

#[cfg(test)]
mod tests {
    use queue_core::{job::Priority, lifecycle::Line};

    use super::*;

    #[test]
    fn marks_tell_who_is_overdue_within_a_grain_and_stay_few() {
        let mut ages = Ages::new(3_200);
        for now in 0..10_000u64 {
            let rank = now + 1;
            ages.note(rank, now);
            ages.look(now);
            assert!(ages.marks.len() <= 19, "{} marks", ages.marks.len());
            // Overdue is what became ready at now - 1,600, and perhaps a grain later, never earlier ones alone.
            if let Some(surely) = rank.checked_sub(1_600).filter(|rank| *rank > 0) {
                assert!(ages.is_overdue(surely), "{rank}");
            }
            let not_yet = (rank + 100).saturating_sub(1_600);
            assert!(!ages.is_overdue(not_yet.max(1)), "{rank}: {not_yet} of {}", ages.overdue);
        }
        ages.look(20_000);
        assert!(ages.is_overdue(10_000));
        ages.note(10_001, 20_000);
        ages.look(20_000);
        assert_eq!((ages.is_overdue(10_000), ages.is_overdue(10_001)), (true, false));
    }

    #[test]
    fn the_highest_gets_every_second_claim_and_the_overdue_share_the_rest() {
        let mut lanes = Lanes::default();
        let push = |lanes: &mut Lanes, level: u8, n: u32| {
            let place = Place { slot: n, ticket: u32::from(level) };
            lanes.push(Priority::new(level).unwrap(), Line::Tail, u64::from(n), place);
        };
        for n in 1..=20 {
            [15, 9, 5, 1].into_iter().for_each(|level| push(&mut lanes, level, n));
        }
        let mut ages = Ages::new(10);
        ages.overdue = 10;
        let mut turn = Turn::default();
        let mut order = Vec::new();
        // Rank 11 and later are not overdue, nor is anything of lane 9; places of slot 3 are old.
        let rank_of = |place: Place| match (place.ticket, place.slot) {
            (_, 3) => None,
            (9, slot) => Some(u64::from(slot) + 100),
            (_, slot) => Some(u64::from(slot)),
        };
        while let Some(place) = turn.pick(&mut lanes, &ages, rank_of) {
            turn.pass(place.ticket as usize);
            order.push((place.ticket, place.slot));
        }
        let levels: Vec<u32> = order.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels[..12], [5, 15, 1, 15, 5, 15, 1, 15, 5, 15, 1, 15]);
        let places = |level| order.iter().filter(move |place| place.0 == level).map(|place| place.1);
        for level in [15, 9, 5, 1] {
            assert!(places(level).eq((1..=20).filter(|n| *n != 3)), "first in, first out in {level}");
        }
        // Nine turns of two lanes each, then strictly by priority.
        let rest: Vec<u32> = levels[36..].to_vec();
        assert!(rest.is_sorted_by(|a, b| a >= b), "{rest:?}");
    }
}
