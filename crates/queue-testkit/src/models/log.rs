//! A log with offsets: partitions, a consumer group, and a watermark, as in Kafka.

mod partition;

use std::time::Duration;

use queue_core::provider::{Capabilities, LeaseModel, Support};

use self::partition::Partition;
use super::{
    line::{Address, Census, Claim, Claimed, Ground, Held, Line, MemberId},
    message::{BANDS, Message, band_index},
    shape::bare,
};

/// A broker that appends to partitions and remembers how far the consumer group has come in each.
///
/// * Each band has its partitions; each partition is assigned to one consumer. A consumer beyond the number of partitions
///   gets nothing. When one joins or leaves, a partition that moves is first drained, for `drain` at most.
/// * A receipt is good for one assignment. After a crash, a restart, or a delivery held beyond `max_hold`, whatever is not
///   committed is delivered again.
/// * What is committed is the low watermark, below which everything is finished, and the finished offsets above it. A
///   failure never holds an offset: retries, releases and dead letters are appended elsewhere, then the offset is marked.
/// * A consumer that is 4,096 offsets ahead of the watermark gets nothing more from that partition.
/// * Marked starts travel in the commit, so crashes are counted.
/// * Nothing can be taken out of the middle: no purge, and what is released goes to the tail.
#[derive(Debug, Clone)]
pub struct LogModel {
    /// Partitions of each band, at least one.
    pub partitions: usize,
    /// An assignment in which a delivery is held longer than this is taken away.
    pub max_hold: Duration,
    /// How long a partition that moves waits for what is out.
    pub drain: Duration,
    /// Settlements are committed once in so long; zero commits each. What is settled and not yet committed is delivered
    /// again after a crash.
    pub commit_every: Duration,
}

impl Default for LogModel {
    fn default() -> Self {
        Self {
            partitions: 4,
            max_hold: Duration::from_secs(30 * 60),
            drain: Duration::from_secs(5),
            commit_every: Duration::ZERO,
        }
    }
}

impl LogModel {
    pub(super) fn capabilities(&self) -> Capabilities {
        let mut can = bare(LeaseModel::Session { max_hold: self.max_hold });
        can.delay = Support::Emulated { how: "a log of delayed records", caveat: "a delayed job cannot be listed" };
        can.dedup_by_id = Support::Unsupported { instead: "make handlers idempotent" };
        can.settle_confirmed = self.commit_every.is_zero();
        can.purge = Support::Unsupported { instead: "drop the queue and declare it again" };
        can.exact_depth = Support::Emulated {
            how: "the end of the log less what is finished",
            caveat: "uncommitted settlements count as running",
        };
        can.max_len =
            Support::Emulated { how: "the depth is read before a publish", caveat: "many publishers may overshoot" };
        can.started_count =
            Support::Emulated { how: "start marks in the commit", caveat: "lost with the group's offsets" };
        can.max_encoded_len = 1_048_588;
        can
    }

    pub(super) fn line(&self, ground: &Ground) -> Box<dyn Line> {
        let per_band = self.partitions.max(1);
        let partitions = (0..BANDS * per_band).map(|_| Partition::default()).collect();
        let (model, ground) = (self.clone(), ground.clone());
        Box::new(LogLine { model, ground, partitions, per_band, appended: [0; BANDS], members: Vec::new() })
    }
}

#[derive(Debug)]
struct LogLine {
    model: LogModel,
    ground: Ground,
    /// Those of the lowest band first.
    partitions: Vec<Partition>,
    per_band: usize,
    /// Where the next record of each band goes, so that they spread evenly.
    appended: [usize; BANDS],
    /// The group, in the order of joining.
    members: Vec<MemberId>,
}

const OFFSET_BITS: u32 = 48;

fn slot(partition: usize, offset: u64) -> u64 {
    ((partition as u64) << OFFSET_BITS) | offset
}

fn place(slot: u64) -> (usize, u64) {
    ((slot >> OFFSET_BITS) as usize, slot & ((1 << OFFSET_BITS) - 1))
}

impl LogLine {
    /// Gives every partition the owner it should have, at once where nothing is out.
    fn rebalance(&mut self) {
        let now = self.ground.now();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let wanted = match self.members.len() {
                0 => None,
                members => Some(self.members[index % self.per_band % members]),
            };
            let gone = partition.owner().is_none_or(|owner| !self.members.contains(&owner));
            partition.want(wanted, gone, now, self.model.drain, &self.ground);
        }
    }

    fn mine(&self, member: MemberId, address: Address) -> Option<(&Partition, u64)> {
        let (index, offset) = place(address.slot);
        let partition = self.partitions.get(index)?;
        partition.holds(member, address.epoch, offset).then_some((partition, offset))
    }

    fn mine_mut(&mut self, member: MemberId, address: Address) -> Option<(&mut Partition, u64)> {
        let (index, offset) = place(address.slot);
        let partition = self.partitions.get_mut(index)?;
        partition.holds(member, address.epoch, offset).then_some((partition, offset))
    }

    /// The owned partition with the oldest record of the highest band.
    fn richest(&self, member: MemberId) -> Option<usize> {
        for band in (0..BANDS).rev() {
            let first = band * self.per_band;
            let heads = self.partitions[first..first + self.per_band].iter().enumerate();
            let heads = heads.filter_map(|(index, partition)| Some((partition.head(member)?, first + index)));
            if let Some((_, index)) = heads.min() {
                return Some(index);
            }
        }
        None
    }
}

impl Line for LogLine {
    fn put(&mut self, message: Message) {
        let band = band_index(message.band);
        let spread = self.appended[band] % self.per_band;
        self.appended[band] = spread + 1;
        self.partitions[band * self.per_band + spread].append(message);
    }

    fn join(&mut self, member: MemberId) {
        self.members.push(member);
        self.rebalance();
    }

    fn leave(&mut self, member: MemberId, clean: bool) {
        let owned = self.partitions.iter_mut().filter(|partition| partition.owner() == Some(member));
        if clean {
            owned.for_each(Partition::commit);
        }
        self.members.retain(|other| *other != member);
        self.rebalance();
    }

    fn sweep(&mut self) -> Vec<MemberId> {
        let now = self.ground.now();
        let overdue = self.partitions.iter().filter(|partition| partition.overdue(now, self.model.max_hold));
        let mut ended: Vec<MemberId> = overdue.filter_map(Partition::owner).collect();
        ended.sort_unstable();
        ended.dedup();
        for partition in &mut self.partitions {
            partition.commit_if_due(now);
            partition.hand_over_if_due(now, &self.ground);
        }
        for member in &ended {
            self.leave(*member, false);
        }
        ended
    }

    fn next(&self) -> Option<Duration> {
        self.partitions.iter().filter_map(|partition| partition.next(self.model.max_hold)).min()
    }

    fn claim(&mut self, claim: Claim) -> Vec<Claimed> {
        let room = claim.outstanding.saturating_sub(self.held(claim.member)).min(claim.max);
        let mut out = Vec::new();
        while out.len() < room {
            let Some(index) = self.richest(claim.member) else { break };
            let Some(taken) = self.partitions[index].take(self.ground.now()) else { break };
            out.push(Claimed {
                address: Address { slot: slot(index, taken.offset), epoch: taken.epoch },
                message: taken.message,
                starts: taken.starts,
                redelivered: taken.redelivered,
                remaining: None,
            });
        }
        out
    }

    fn held(&self, member: MemberId) -> usize {
        let owned = self.partitions.iter().filter(|partition| partition.owner() == Some(member));
        owned.map(Partition::out).sum()
    }

    fn look(&self, member: MemberId, address: Address) -> Option<Held> {
        let (partition, offset) = self.mine(member, address)?;
        let message = partition.record(offset)?.clone();
        Some(Held { message, starts: partition.starts_before(offset) })
    }

    fn finish(&mut self, member: MemberId, address: Address) {
        let (now, every) = (self.ground.now(), self.model.commit_every);
        let ground = self.ground.clone();
        if let Some((partition, offset)) = self.mine_mut(member, address) {
            partition.finish(offset, now, every);
            partition.hand_over_if_due(now, &ground);
        }
    }

    /// An offset cannot be given back: the provider appends a copy and finishes this one.
    fn put_back(&mut self, _: MemberId, _: Address, _: Duration) -> bool {
        false
    }

    fn recall(&mut self, _: Option<MemberId>) -> usize {
        0
    }

    fn beat(
        &mut self,
        member: MemberId,
        address: Address,
        started: bool,
        _: Option<Duration>,
    ) -> Option<Option<Duration>> {
        let (partition, offset) = self.mine_mut(member, address)?;
        if started {
            partition.mark_started(offset);
        }
        Some(None)
    }

    fn purge(&mut self) -> usize {
        0
    }

    fn pending(&self) -> usize {
        self.partitions.iter().map(|partition| partition.unfinished().saturating_sub(partition.out())).sum()
    }

    fn census(&self) -> Census {
        let running = self.partitions.iter().map(Partition::out).sum::<usize>() as u64;
        Census { running, oldest: self.partitions.iter().filter_map(Partition::oldest_waiting).min() }
    }
}
