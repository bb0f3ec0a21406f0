//! What was settled lately, so that a repetition is told from a contradiction.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use queue_core::{job::JobId, provider::Disposition};

/// A repetition comes within one reply's time; more than a worker has in hand at once.
const MOST: usize = 4_096;

/// A delivery: the channel's incarnation and its tag.
pub(super) type Address = (u64, u64);

/// The last settlements, each as the print of its disposition: a result may be large.
#[derive(Debug, Default)]
pub(super) struct Memory {
    prints: HashMap<Address, (JobId, u64)>,
    order: VecDeque<Address>,
}

impl Memory {
    pub(super) fn note(&mut self, address: Address, id: JobId, print: u64) {
        if self.prints.insert(address, (id, print)).is_none() {
            self.order.push_back(address);
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.prints.remove(&oldest);
        }
    }

    /// What became of this job's delivery. `None` also where another job's name stands on the receipt.
    pub(super) fn recall(&self, address: Address, id: JobId) -> Option<u64> {
        self.prints.get(&address).filter(|known| known.0 == id).map(|known| known.1)
    }

    /// With its channel the broker's memory of a delivery ends, and so does this.
    pub(super) fn forget(&mut self, epoch: u64) {
        self.prints.retain(|address, _| address.0 != epoch);
        self.order.retain(|address| address.0 != epoch);
    }
}

/// Tells two dispositions apart. Never zero.
pub(super) fn print(disposition: &Disposition) -> u64 {
    let mut hasher = DefaultHasher::new();
    std::mem::discriminant(disposition).hash(&mut hasher);
    match disposition {
        Disposition::Complete { result } => result.hash(&mut hasher),
        Disposition::Cancelled | Disposition::Expired => {}
        other => format!("{other:?}").hash(&mut hasher),
    }
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use bytes::Bytes;
    use queue_core::{JobError, provider::ReleaseReason};

    #[test]
    fn the_oldest_go_first_and_an_incarnation_goes_whole() {
        let mut memory = Memory::default();
        let (id, other) = (JobId::derive(b"x", 0), JobId::derive(b"x", 1));
        for tag in 0..=MOST as u64 {
            memory.note((1, tag), id, tag);
        }
        assert_eq!((memory.recall((1, 0), id), memory.recall((1, 1), id)), (None, Some(1)));
        assert_eq!(memory.recall((1, 1), other), None);
        memory.note((2, 1), id, 7);
        memory.forget(1);
        assert_eq!((memory.recall((1, 5), id), memory.recall((2, 1), id)), (None, Some(7)));
        assert_eq!((memory.prints.len(), memory.order.len()), (1, 1));
    }

    #[test]
    fn every_difference_shows() {
        let retry = |millis, message: &str| Disposition::Retry {
            after: Duration::from_millis(millis),
            error: JobError::custom("TEMP", message),
        };
        let release = |reason| Disposition::Release { after: Duration::ZERO, reason };
        let all = [
            Disposition::Complete { result: None },
            Disposition::Complete { result: Some(Bytes::new()) },
            Disposition::Complete { result: Some(Bytes::from_static(b"1")) },
            Disposition::Cancelled,
            Disposition::Expired,
            retry(1, "a"),
            retry(2, "a"),
            retry(1, "b"),
            release(ReleaseReason::Busy),
            release(ReleaseReason::Shutdown),
        ];
        let prints: std::collections::BTreeSet<u64> = all.iter().map(print).collect();
        assert_eq!(prints.len(), all.len());
        assert_eq!(print(&retry(1, "a")), print(&retry(1, "a")));
    }
}
