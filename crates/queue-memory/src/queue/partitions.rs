//! Parts of a queue, each with lanes of its own, served in proportion to their weights.
//!
//! Stride scheduling: each claim moves its partition's *pass* on by a stride, which is the shorter the larger its weight, and the
//! partition with the lowest pass is next. One that comes back with jobs, or with room, begins where the others are: nothing
//! is saved up. A queue without partitions, but with a bound on waiting, has a single one.

use std::sync::Arc;

use queue_core::{
    job::Priority,
    lifecycle::Line,
    queue_spec::{Order, QueueSpec},
};

use super::{
    Moment,
    aged::{Ages, Turn},
    lanes::{Lanes, Place},
    nanos,
};

#[derive(Debug)]
pub(crate) struct Partitions {
    /// In order of their names, the default one among them.
    names: Vec<Arc<str>>,
    default: u8,
    parts: Vec<Part>,
    /// Bit n is set where partition n has places, and room for one more to run.
    ready: u128,
    /// The pass of whoever was served last.
    pass: u128,
    ages: Option<Ages>,
}

#[derive(Debug)]
struct Part {
    lanes: Lanes,
    turn: Turn,
    weight: u32,
    pass: u128,
    running: u32,
    most: u32,
}

/// The stride of weight 1. Passes are wide enough never to overflow.
const STRIDE: u128 = 1 << 40;

impl Partitions {
    /// `None` where the queue is a single line in strict order.
    pub(super) fn of(spec: &QueueSpec) -> Option<Self> {
        let ages = match spec.order {
            Order::Aged { bound } => Some(Ages::new(nanos(bound))),
            _ => None,
        };
        if ages.is_none() && spec.partitions.is_empty() {
            return None;
        }
        let mut partitions = spec.partitions.clone();
        partitions.entry(QueueSpec::DEFAULT_PARTITION.into()).or_default();
        let names: Vec<Arc<str>> = partitions.keys().cloned().collect();
        let parts = partitions.values().map(|partition| Part {
            lanes: Lanes::default(),
            turn: Turn::default(),
            weight: partition.weight.max(1),
            pass: 0,
            running: 0,
            most: partition.max_concurrency.unwrap_or(u32::MAX),
        });
        let parts = parts.collect();
        let default = names.iter().position(|name| &**name == QueueSpec::DEFAULT_PARTITION).unwrap_or(0);
        let default = u8::try_from(default).unwrap_or(0);
        Some(Self { names, default, parts, ready: 0, pass: 0, ages })
    }

    /// The number of the partition that a job names.
    #[inline(never)]
    pub(super) fn find(&self, named: Option<&str>) -> Option<u8> {
        let Some(named) = named else { return Some(self.default) };
        let found = self.names.binary_search_by(|name| (**name).cmp(named)).ok()?;
        u8::try_from(found).ok()
    }

    /// Puts a place in line and says whether somebody may take it now.
    #[inline(never)]
    pub(super) fn push(
        &mut self,
        partition: u8,
        priority: Priority,
        line: Line,
        rank: u64,
        place: Place,
        now: Moment,
    ) -> bool {
        if let Some(ages) = self.ages.as_mut().filter(|_| line == Line::Tail) {
            ages.note(rank, now);
        }
        let Some(part) = self.parts.get_mut(usize::from(partition)) else { return false };
        part.lanes.push(priority, line, rank, place);
        self.admit(partition);
        self.is_ready(partition)
    }

    /// Sees what is overdue by now.
    #[inline(never)]
    pub(super) fn look(&mut self, now: Moment) {
        if let Some(ages) = &mut self.ages {
            ages.look(now);
        }
    }

    /// Takes the next place; `rank_of` is `None` for an old one. Nothing is charged for it before [`Self::started`].
    #[inline(never)]
    pub(super) fn pop(&mut self, rank_of: impl Fn(Place) -> Option<u64>) -> Option<Place> {
        loop {
            let next = self.lowest()?;
            let part = self.parts.get_mut(next)?;
            let place = match &self.ages {
                Some(ages) => part.turn.pick(&mut part.lanes, ages, &rank_of),
                None => part.lanes.pop(),
            };
            if part.lanes.len() == 0 {
                self.ready &= !(1 << next);
            }
            if place.is_some() {
                return place;
            }
        }
    }

    /// A job that was popped was given out.
    pub(super) fn started(&mut self, partition: u8, priority: Priority) {
        let Some(part) = self.parts.get_mut(usize::from(partition)) else { return };
        part.turn.pass(usize::from(priority.level()));
        part.running += 1;
        self.pass = self.pass.max(part.pass);
        part.pass += STRIDE / u128::from(part.weight);
        if part.running >= part.most {
            self.ready &= !(1 << partition);
        }
    }

    pub(super) fn has(&self, partition: u8) -> bool {
        usize::from(partition) < self.parts.len()
    }

    /// A job runs that was given out by an earlier process, which charged for it.
    pub(super) fn resume(&mut self, partition: u8) {
        if let Some(part) = self.parts.get_mut(usize::from(partition)) {
            part.running += 1;
        }
    }

    /// A job runs no longer. Says whether its partition was held back by that and has others to run.
    pub(super) fn ended(&mut self, partition: u8) -> bool {
        let Some(part) = self.parts.get_mut(usize::from(partition)) else { return false };
        part.running -= 1;
        self.admit(partition)
    }

    /// Lets the partition take part if it can and did not: from where the others are.
    fn admit(&mut self, partition: u8) -> bool {
        let Some(part) = self.parts.get_mut(usize::from(partition)) else { return false };
        let joins = part.lanes.len() > 0 && part.running < part.most && self.ready & (1 << partition) == 0;
        if joins {
            part.pass = part.pass.max(self.pass);
            self.ready |= 1 << partition;
        }
        joins
    }

    fn is_ready(&self, partition: u8) -> bool {
        self.ready & (1 << partition) != 0
    }

    /// Whether a claim would find a place.
    pub(super) fn any_ready(&self) -> bool {
        self.ready != 0
    }

    /// The ready partition with the lowest pass.
    fn lowest(&self) -> Option<usize> {
        let (mut left, mut lowest) = (self.ready, None);
        while left != 0 {
            let next = left.trailing_zeros() as usize;
            left &= left - 1;
            let pass = self.parts.get(next)?.pass;
            if lowest.is_none_or(|(least, _)| pass < least) {
                lowest = Some((pass, next));
            }
        }
        lowest.map(|(_, next)| next)
    }

    /// Places, old ones included.
    #[inline(never)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lanes.len()).sum()
    }

    /// Drops old places.
    pub(super) fn compact(&mut self, is_live: impl Fn(Place) -> bool) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            part.lanes.compact(&is_live);
            if part.lanes.len() == 0 {
                self.ready &= !(1 << number);
            }
        }
    }

    /// All lanes, partition by partition.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &Lanes> {
        self.parts.iter().map(|part| &part.lanes)
    }

    /// The weights, by number.
    pub(super) fn weights(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().map(|part| part.weight)
    }
}
