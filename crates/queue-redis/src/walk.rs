//! Where a walk over a hash table goes on.
//!
//! Redis walks over a table in parts, each from a cursor on, and promises that whoever is there all the time is met. A part is as long as it takes to
//! find so many: where jobs vanish it reaches further. So a page ends between two parts, and not within one, of which nobody could say later
//! how far it was listed.

use queue_core::{job::JobId, store::JobRecord};

use crate::provider::BATCH;

/// How much of a table was listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Redis' own cursor: all parts before it.
    pub(crate) at: u64,
    /// Of a table that came in one part, all up to this one.
    pub(crate) floor: Option<JobId>,
    /// Of a part that does not fit into a page, these.
    pub(crate) listed: Vec<JobId>,
}

impl Walk {
    /// A cursor that [`text`](Self::text) wrote.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (at, rest) = text.split_once('.')?;
        let mut walk = Self { at: at.parse().ok()?, ..Self::default() };
        let mut listed = rest;
        if let Some(rest) = rest.strip_prefix('~') {
            let (floor, others) = rest.split_once('+').unwrap_or((rest, ""));
            walk.floor = Some(floor.parse().ok()?);
            listed = others;
        }
        if !listed.is_empty() {
            walk.listed = listed.split('+').map(str::parse).collect::<Result<_, _>>().ok()?;
        }
        Some(walk)
    }

    pub(crate) fn text(&self) -> String {
        // A table that came in one part may have grown since, and then both are there.
        let floor = self.floor.iter().map(|floor| format!("~{floor}"));
        let ids: Vec<String> = floor.chain(self.listed.iter().map(JobId::to_string)).collect();
        format!("{}.{}", self.at, ids.join("+"))
    }

    /// Adds what was found of a part, in the order of ids, to a page; the next part begins at `next`.
    pub(crate) fn take(
        &mut self,
        mut found: Vec<JobRecord>,
        next: u64,
        page: &mut Vec<JobRecord>,
        limit: usize,
        stride: &mut Stride,
    ) -> Taken {
        found.retain(|record| self.floor.is_none_or(|floor| record.job.id > floor));
        found.retain(|record| !self.listed.contains(&record.job.id));
        let room = limit.saturating_sub(page.len());
        if found.len() <= room {
            stride.lengthen(room, found.len());
            page.extend(found);
            self.at = next;
            self.listed.clear();
            return if next == 0 { Taken::Last } else { Taken::All };
        }
        if self.at == 0 && next == 0 {
            // All there is: what of it was listed can be said by an id.
            found.truncate(room);
            self.floor = found.last().map(|record| record.job.id).or(self.floor);
            page.extend(found);
        } else if page.is_empty() || room > limit / 4 {
            if stride.shorten(room, found.len()) {
                return Taken::Nothing;
            }
            found.truncate(room);
            self.listed.extend(found.iter().map(|record| record.job.id));
            page.extend(found);
        }
        Taken::Some
    }
}

/// How much of a part came into a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// All, and the table goes on.
    All,
    /// All, and it was the last.
    Last,
    /// There was no room for all: the page is full.
    Some,
    /// It is too long: a shorter one may fit.
    Nothing,
}

/// How many rows a part is to have.
#[derive(Debug)]
pub(crate) struct Stride(usize);

impl Stride {
    /// Parts bring some rows more than they are asked for: a quarter of the room is left for those. Where only some rows match, as
    /// many as a call may have.
    pub(crate) fn new(room: usize, all_match: bool) -> Self {
        Self(if all_match { (room - room / 4).clamp(1, BATCH) } else { BATCH })
    }

    pub(crate) fn rows(&self) -> usize {
        self.0
    }

    /// More were found than there is room for. False where a part cannot be shorter.
    pub(crate) fn shorten(&mut self, room: usize, found: usize) -> bool {
        let is_shortest = self.0 == 1;
        self.0 = (self.0 * room * 3 / (4 * found.max(1))).clamp(1, (self.0 - 1).max(1));
        !is_shortest
    }

    /// So many were found where there was room for more.
    pub(crate) fn lengthen(&mut self, room: usize, found: usize) {
        let fits = if found == 0 { BATCH } else { self.0 * room * 3 / (4 * found) };
        self.0 = fits.clamp(1, (2 * self.0).min(BATCH));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> JobId {
        JobId::derive(b"walk", n)
    }

    #[test]
    fn cursors_are_read_as_they_were_written() {
        let walks = [
            Walk::default(),
            Walk { at: 77, ..Walk::default() },
            Walk { at: 0, floor: Some(id(1)), ..Walk::default() },
            Walk { at: 9, listed: vec![id(1), id(2)], ..Walk::default() },
        ];
        for walk in walks {
            assert_eq!(Walk::read(&walk.text()), Some(walk));
        }
        let both = Walk { at: 0, floor: Some(id(1)), listed: vec![id(2), id(3)] };
        assert_eq!(Walk::read(&both.text()), Some(both), "of a table that has grown since");
        for bad in ["", "1", "x.", "1.~", "1.x", "1.~x", "-1.", "1.+", "1.~+x"] {
            assert_eq!(Walk::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn strides_keep_to_their_bounds() {
        for room in 1..300 {
            for found in 0..300 {
                let mut stride = Stride::new(room, true);
                let before = stride.rows();
                let shorter = stride.shorten(room, found);
                assert!(stride.rows() >= 1 && (stride.rows() < before || !shorter), "{room} {found}");
                stride.lengthen(room, found);
                assert!((1..=BATCH).contains(&stride.rows()));
            }
        }
    }
}
