//! How many are before a job.

use std::cmp::Ordering;

use queue_core::{job::JobId, lifecycle::JobState};

use super::{Now, State, entry::Entry, line::Line};

/// Who is before a waiting job, counted part by part so that nobody waits long for the lock.
#[derive(Debug)]
pub(crate) struct Ahead {
    priority: queue_core::Priority,
    rank: u64,
    partition: u8,
    /// Slots before this one are counted.
    counted: u32,
    /// Before it in its own partition.
    own: u64,
    /// Ready in each of the others.
    others: Vec<u64>,
}

/// Slots that are looked at under one lock: well below a millisecond.
const AT_ONCE: u32 = 1_024;

impl State {
    /// The start of a count; `None` where the job is not pending, or parked.
    pub(crate) fn ahead_of(&self, id: JobId) -> Option<Ahead> {
        let entry = self.entry(self.find(id)?).filter(|entry| is_ready(entry))?;
        Some(Ahead {
            priority: entry.envelope.priority,
            rank: entry.rank,
            partition: entry.partition,
            counted: 0,
            own: 0,
            others: Vec::new(),
        })
    }

    /// Goes on with the count; `Some` at its end.
    pub(crate) fn count_ahead(&mut self, ahead: &mut Ahead, now: Now) -> Option<u64> {
        self.advance(now);
        let end = ahead.counted.saturating_add(AT_ONCE);
        for (_, entry) in self.slots.range(ahead.counted, end).filter(|(_, entry)| is_ready(entry)) {
            ahead.count(entry);
        }
        ahead.counted = end;
        (end >= self.slots.end()).then(|| ahead.sum(&self.line))
    }
}

fn is_ready(entry: &Entry) -> bool {
    entry.state == JobState::Pending && entry.parked().is_none()
}

impl Ahead {
    fn count(&mut self, entry: &Entry) {
        let partition = usize::from(entry.partition);
        if entry.partition != self.partition {
            if self.others.len() <= partition {
                self.others.resize(partition + 1, 0);
            }
            self.others[partition] += 1;
            return;
        }
        self.own += u64::from(match entry.envelope.priority.cmp(&self.priority) {
            Ordering::Greater => true,
            Ordering::Equal => entry.rank < self.rank,
            Ordering::Less => false,
        });
    }

    /// Others are served between its own partition's in proportion to their weights, while they have jobs.
    fn sum(&self, line: &Line) -> u64 {
        let Line::Parted(partitions) = line else { return self.own };
        let weights: Vec<u64> = partitions.weights().map(u64::from).collect();
        let own = weights.get(usize::from(self.partition)).copied().unwrap_or(1);
        let between = self.others.iter().zip(&weights).map(|(ready, weight)| (self.own * weight / own).min(*ready));
        self.own + between.sum::<u64>()
    }
}
