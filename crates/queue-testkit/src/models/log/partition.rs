//! One partition, and how far its owner has come in it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use queue_core::Timestamp;

use super::super::{
    line::{Ground, MemberId},
    message::Message,
};

/// How far the owner may be ahead of the watermark.
pub(super) const MAX_SPAN: u64 = 4_096;

#[derive(Debug, Default)]
pub(super) struct Partition {
    records: VecDeque<Message>,
    /// What the group has told the broker; it survives everything.
    committed: Committed,
    owner: Option<Owner>,
    /// Who gets it next, and when at the latest.
    handover: Option<(Option<MemberId>, Duration)>,
}

#[derive(Debug, Clone, Default)]
struct Committed {
    /// Everything below is finished and deleted: the offset of the first record.
    low: u64,
    above: BTreeSet<u64>,
    /// Marked starts.
    starts: BTreeMap<u64, u32>,
    /// How far any owner has fetched.
    fetched: u64,
}

/// What the owner knows, lost with it.
#[derive(Debug)]
struct Owner {
    member: MemberId,
    epoch: u64,
    position: u64,
    finished: BTreeSet<u64>,
    out: BTreeMap<u64, Out>,
    commit_due: Option<Duration>,
}

#[derive(Debug)]
struct Out {
    since: Duration,
    started: bool,
}

pub(super) struct Taken {
    pub(super) offset: u64,
    pub(super) epoch: u64,
    pub(super) message: Message,
    pub(super) starts: u32,
    pub(super) redelivered: bool,
}

impl Partition {
    pub(super) fn append(&mut self, message: Message) {
        self.records.push_back(message);
    }

    pub(super) fn owner(&self) -> Option<MemberId> {
        self.owner.as_ref().map(|owner| owner.member)
    }

    pub(super) fn holds(&self, member: MemberId, epoch: u64, offset: u64) -> bool {
        let owner = self.owner.as_ref().filter(|owner| owner.member == member && owner.epoch == epoch);
        owner.is_some_and(|owner| owner.out.contains_key(&offset))
    }

    pub(super) fn record(&self, offset: u64) -> Option<&Message> {
        self.records.get(usize::try_from(offset.checked_sub(self.committed.low)?).ok()?)
    }

    pub(super) fn starts(&self, offset: u64) -> u32 {
        self.committed.starts.get(&offset).copied().unwrap_or_default()
    }

    /// Less the mark of the delivery that is out: who settles it takes that back.
    pub(super) fn starts_before(&self, offset: u64) -> u32 {
        let marked = self.owner.as_ref().and_then(|owner| owner.out.get(&offset)).is_some_and(|out| out.started);
        self.starts(offset).saturating_sub(u32::from(marked))
    }

    pub(super) fn out(&self) -> usize {
        self.owner.as_ref().map_or(0, |owner| owner.out.len())
    }

    pub(super) fn unfinished(&self) -> usize {
        let finished = self.owner.as_ref().map_or(&self.committed.above, |owner| &owner.finished);
        self.records.len() - finished.len()
    }

    pub(super) fn oldest_waiting(&self) -> Option<Timestamp> {
        let from = self.owner.as_ref().map_or(self.committed.low, |owner| owner.position);
        self.record(from).map(|message| message.since)
    }

    /// The place in line of the next record that this member may take.
    pub(super) fn head(&self, member: MemberId) -> Option<u64> {
        let owner = self.owner.as_ref().filter(|owner| owner.member == member && self.handover.is_none())?;
        if owner.position - self.committed.low >= MAX_SPAN {
            return None;
        }
        self.record(owner.position).map(|message| message.place)
    }

    pub(super) fn take(&mut self, now: Duration) -> Option<Taken> {
        let (offset, epoch) = self.owner.as_ref().map(|owner| (owner.position, owner.epoch))?;
        let message = self.record(offset)?.clone();
        let (starts, redelivered) = (self.starts(offset), offset < self.committed.fetched);
        let owner = self.owner.as_mut()?;
        owner.out.insert(offset, Out { since: now, started: false });
        owner.advance(offset + 1);
        self.committed.fetched = self.committed.fetched.max(offset + 1);
        Some(Taken { offset, epoch, message, starts, redelivered })
    }

    pub(super) fn finish(&mut self, offset: u64, now: Duration, commit_every: Duration) {
        let Some(owner) = &mut self.owner else { return };
        owner.out.remove(&offset);
        owner.finished.insert(offset);
        owner.commit_due.get_or_insert(now + commit_every);
        self.commit_if_due(now);
    }

    /// Counted once a delivery, and written at once: it is awaited before a redelivered job runs.
    pub(super) fn mark_started(&mut self, offset: u64) {
        let Some(out) = self.owner.as_mut().and_then(|owner| owner.out.get_mut(&offset)) else { return };
        if !std::mem::replace(&mut out.started, true) {
            *self.committed.starts.entry(offset).or_default() += 1;
        }
    }

    pub(super) fn commit_if_due(&mut self, now: Duration) {
        if self.owner.as_ref().and_then(|owner| owner.commit_due).is_some_and(|due| due <= now) {
            self.commit();
        }
    }

    /// Moves the watermark over what is finished without a gap, and deletes below it.
    pub(super) fn commit(&mut self) {
        let Some(owner) = &mut self.owner else { return };
        owner.commit_due = None;
        let committed = &mut self.committed;
        while owner.finished.remove(&committed.low) {
            committed.low += 1;
            self.records.pop_front();
        }
        committed.above.clone_from(&owner.finished);
        committed.starts = committed.starts.split_off(&committed.low);
    }

    pub(super) fn overdue(&self, now: Duration, max_hold: Duration) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.out.values().any(|out| out.since + max_hold <= now))
    }

    /// Sets the owner to come. `gone`: the present one is not there any more.
    pub(super) fn want(
        &mut self,
        wanted: Option<MemberId>,
        gone: bool,
        now: Duration,
        drain: Duration,
        ground: &Ground,
    ) {
        if gone {
            // Nobody is left to say what was finished and not committed.
            self.owner = None;
        }
        if self.owner() == wanted {
            self.handover = None;
            return;
        }
        let deadline = self.handover.map_or(now + drain, |(_, deadline)| deadline);
        self.handover = Some((wanted, deadline));
        self.hand_over_if_due(now, ground);
    }

    pub(super) fn hand_over_if_due(&mut self, now: Duration, ground: &Ground) {
        let Some((to, deadline)) = self.handover else { return };
        if self.out() > 0 && now < deadline {
            return;
        }
        self.commit();
        self.handover = None;
        self.owner = to.map(|member| Owner {
            member,
            epoch: ground.number(),
            position: self.committed.low,
            finished: self.committed.above.clone(),
            out: BTreeMap::new(),
            commit_due: None,
        });
    }

    pub(super) fn next(&self, max_hold: Duration) -> Option<Duration> {
        let owner = self.owner.as_ref();
        let hold = owner.and_then(|owner| owner.out.values().map(|out| out.since + max_hold).min());
        let commit = owner.and_then(|owner| owner.commit_due);
        let handover = self.handover.map(|(_, deadline)| deadline);
        [hold, commit, handover].into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(super) fn low(&self) -> u64 {
        self.committed.low
    }
}

impl Owner {
    /// To the next offset that is not finished.
    fn advance(&mut self, to: u64) {
        self.position = to;
        while self.finished.contains(&self.position) {
            self.position += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use queue_core::Env;

    use super::*;

    fn partition(ground: &Ground, records: u64) -> Partition {
        let mut partition = Partition::default();
        for place in 0..records {
            partition.append(Message {
                number: place,
                place,
                wire: Bytes::new(),
                band: 0,
                retry: false,
                since: Timestamp::from_millis(1),
                returns: 0,
                redelivered: false,
            });
        }
        partition.want(Some(1), false, Duration::ZERO, Duration::ZERO, ground);
        partition
    }

    #[tokio::test(start_paused = true)]
    async fn the_watermark_never_passes_an_unfinished_offset() {
        let ground = Ground::new(Env::seeded(Timestamp::from_millis(1), 1));
        let (now, records) = (Duration::ZERO, 64);
        let mut partition = partition(&ground, records);
        let mut left: Vec<u64> = (0..records).map(|_| partition.take(now).unwrap().offset).collect();
        while !left.is_empty() {
            let pick = (ground.env.random.next_u64() % left.len() as u64) as usize;
            let offset = left.remove(pick);
            partition.finish(offset, now, Duration::ZERO);
            assert_eq!(partition.low(), left.iter().copied().min().unwrap_or(records));
            assert_eq!(partition.unfinished(), left.len());
        }
        assert!(partition.records.is_empty() && partition.committed.above.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_owner_gets_what_was_not_committed_and_nothing_else() {
        let ground = Ground::new(Env::seeded(Timestamp::from_millis(1), 1));
        let mut partition = partition(&ground, 5);
        for _ in 0..4 {
            partition.take(Duration::ZERO).unwrap();
        }
        partition.finish(0, Duration::ZERO, Duration::ZERO);
        partition.finish(2, Duration::ZERO, Duration::ZERO);
        partition.finish(3, Duration::ZERO, Duration::from_secs(1));
        partition.mark_started(1);
        partition.mark_started(1);
        assert_eq!(partition.committed.starts.len(), 1);

        partition.want(Some(2), true, Duration::ZERO, Duration::ZERO, &ground);
        let again: Vec<(u64, bool, u32)> = std::iter::from_fn(|| partition.take(Duration::ZERO))
            .map(|taken| (taken.offset, taken.redelivered, taken.starts))
            .collect();
        assert_eq!(again, [(1, true, 1), (3, true, 0), (4, false, 0)]);
        partition.finish(1, Duration::ZERO, Duration::ZERO);
        assert!(partition.committed.starts.is_empty(), "marks go with their records");
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_too_far_ahead_waits_for_the_watermark() {
        let ground = Ground::new(Env::seeded(Timestamp::from_millis(1), 1));
        let mut partition = partition(&ground, MAX_SPAN + 1);
        for _ in 0..MAX_SPAN {
            assert!(partition.head(1).is_some());
            partition.take(Duration::ZERO).unwrap();
        }
        partition.finish(1, Duration::ZERO, Duration::ZERO);
        assert_eq!(partition.head(1), None);
        partition.finish(0, Duration::ZERO, Duration::ZERO);
        assert!(partition.head(1).is_some());
    }
}
