//! Everybody who waits for a worker, in the order of the queue's declaration.

use queue_core::{job::Priority, lifecycle, queue_spec::QueueSpec};

use super::{
    Moment,
    lanes::{Lanes, Place},
    partitions::Partitions,
};

/// A queue without partitions in strict order pays for neither.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the usual one, where every publish and claim goes, is not behind a pointer"
)]
pub(crate) enum Line {
    Single(Lanes),
    Parted(Box<Partitions>),
}

impl Line {
    pub(super) fn of(spec: &QueueSpec) -> Self {
        match Partitions::of(spec) {
            Some(partitions) => Self::Parted(Box::new(partitions)),
            None => Self::Single(Lanes::default()),
        }
    }

    /// The number of the partition that a job names; `None`: there is none of that name.
    #[inline]
    pub(super) fn find(&self, named: Option<&str>) -> Option<u8> {
        match self {
            Self::Single(_) => named.is_none_or(|named| named == QueueSpec::DEFAULT_PARTITION).then_some(0),
            Self::Parted(partitions) => partitions.find(named),
        }
    }

    /// Whether there is a partition of that number.
    pub(super) fn has(&self, partition: u8) -> bool {
        match self {
            Self::Single(_) => partition == 0,
            Self::Parted(partitions) => partitions.has(partition),
        }
    }

    /// A job runs that was given out by an earlier process.
    pub(super) fn resume(&mut self, partition: u8) {
        if let Self::Parted(partitions) = self {
            partitions.resume(partition);
        }
    }

    /// Puts a place in line and says whether somebody may take it now.
    #[inline]
    pub(super) fn push(
        &mut self,
        partition: u8,
        priority: Priority,
        end: lifecycle::Line,
        rank: u64,
        place: Place,
        now: Moment,
    ) -> bool {
        match self {
            Self::Single(lanes) => {
                lanes.push(priority, end, rank, place);
                true
            }
            Self::Parted(partitions) => partitions.push(partition, priority, end, rank, place, now),
        }
    }

    /// Sees what the time has changed, before the claims of one call.
    #[inline]
    pub(super) fn look(&mut self, now: Moment) {
        if let Self::Parted(partitions) = self {
            partitions.look(now);
        }
    }

    /// Takes the next place; `rank_of` is `None` for an old one.
    #[inline]
    pub(super) fn pop(&mut self, rank_of: impl Fn(Place) -> Option<u64>) -> Option<Place> {
        match self {
            Self::Single(lanes) => lanes.pop(),
            Self::Parted(partitions) => partitions.pop(rank_of),
        }
    }

    /// Whether a claim would find a place, be it an old one.
    #[inline]
    pub(super) fn any_ready(&self) -> bool {
        match self {
            Self::Single(lanes) => lanes.len() > 0,
            Self::Parted(partitions) => partitions.any_ready(),
        }
    }

    /// Places, old ones included.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Single(lanes) => lanes.len(),
            Self::Parted(partitions) => partitions.len(),
        }
    }

    /// Drops old places. The caller does so when they outnumber the live ones.
    pub(super) fn compact(&mut self, is_live: impl Fn(Place) -> bool) {
        match self {
            Self::Single(lanes) => lanes.compact(is_live),
            Self::Parted(partitions) => partitions.compact(is_live),
        }
    }

    /// The first live place of each lane.
    pub(super) fn heads(&self, is_live: impl Fn(Place) -> bool) -> impl Iterator<Item = Place> {
        let (single, parted) = match self {
            Self::Single(lanes) => (Some(lanes), None),
            Self::Parted(partitions) => (None, Some(partitions)),
        };
        let lanes = single.into_iter().chain(parted.into_iter().flat_map(|partitions| partitions.lanes()));
        lanes.flat_map(move |lanes| lanes.heads(&is_live).collect::<Vec<_>>())
    }
}
