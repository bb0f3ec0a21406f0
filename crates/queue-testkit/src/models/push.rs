//! Push and acknowledge: sessions that hold what they were sent, as in AMQP.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use queue_core::provider::{Capabilities, LeaseModel, Support};

use super::{
    line::{Address, Census, Claim, Claimed, Ground, Held, Line, MemberId},
    message::{Message, Ready},
    shape::bare,
};

/// A broker that pushes messages into sessions and waits for acknowledgements.
///
/// * What a session was sent and has not acknowledged goes back to its place in line, `redelivered`, when the session
///   ends: by a crash, a close, a restart of the broker, or because one delivery was held beyond `max_hold`.
/// * A receipt belongs to one session. `Settled` means sent; repeats are answered from the session's memory of its last
///   1,024 settlements, and after it with `LeaseLost`.
/// * A consumer subscribes with its first fetch and prefetches up to its demand. A message of a higher band displaces a buffered one of a lower. What is
///   buffered goes back when the demand falls to zero, at a pause, a purge or a close, and after `buffer_age`.
/// * Nothing can be written on a message that is out, so lost sessions stand for started deliveries.
/// * Delays wait in delay queues; retries, dead letters and delayed releases are copies, published and confirmed before
///   the original is acknowledged. A release without a delay is a negative acknowledgement: back in place.
#[derive(Debug, Clone)]
pub struct PushModel {
    /// A session that holds a delivery longer than this is ended by the broker.
    pub max_hold: Duration,
    /// A buffered delivery that nobody fetched goes back after this.
    pub buffer_age: Duration,
}

impl Default for PushModel {
    fn default() -> Self {
        Self { max_hold: Duration::from_secs(30 * 60), buffer_age: Duration::from_secs(5) }
    }
}

impl PushModel {
    pub(super) fn capabilities(&self) -> Capabilities {
        let mut can = bare(LeaseModel::Session { max_hold: self.max_hold });
        can.delay = Support::Emulated { how: "delay queues", caveat: "a delayed job cannot be listed" };
        can.dedup_by_id = Support::Unsupported { instead: "make handlers idempotent" };
        can.purge = Support::Native;
        can.exact_depth = Support::Native;
        can.max_len = Support::Native;
        can.started_count = Support::Emulated {
            how: "sessions that ended while they held the message",
            caveat: "a job that was buffered and never started is counted too",
        };
        can.max_encoded_len = 16 << 20;
        can
    }

    pub(super) fn line(&self, ground: &Ground) -> Box<dyn Line> {
        let (model, ground) = (self.clone(), ground.clone());
        Box::new(PushLine { model, ground, ready: Ready::default(), unacked: BTreeMap::new() })
    }
}

#[derive(Debug)]
struct PushLine {
    model: PushModel,
    ground: Ground,
    ready: Ready,
    /// By delivery tag.
    unacked: BTreeMap<u64, Unacked>,
}

#[derive(Debug)]
struct Unacked {
    message: Message,
    member: MemberId,
    since: Duration,
    /// A fetch returned it. Otherwise it is in the consumer's buffer.
    handed: bool,
}

impl PushLine {
    fn of(&self, member: MemberId) -> impl Iterator<Item = (u64, &Unacked)> {
        self.unacked.iter().filter(move |(_, held)| held.member == member).map(|(tag, held)| (*tag, held))
    }

    fn mine(&self, member: MemberId, address: Address) -> Option<&Unacked> {
        self.unacked.get(&address.slot).filter(|held| held.handed && held.member == member && address.epoch == member)
    }

    fn requeue(&mut self, tag: u64, lost: bool) {
        if let Some(mut held) = self.unacked.remove(&tag) {
            held.message.redelivered = true;
            held.message.returns += u32::from(lost);
            self.ready.insert(held.message);
        }
    }

    fn send(&mut self, member: MemberId, message: Message) {
        let held = Unacked { message, member, since: self.ground.now(), handed: false };
        self.unacked.insert(self.ground.number(), held);
    }

    /// What the broker pushes: as much as the consumer allows, and a higher band instead of a buffered lower one.
    fn prefetch(&mut self, member: MemberId, outstanding: usize) {
        for _ in self.of(member).count()..outstanding {
            let Some(message) = self.ready.pop() else { return };
            self.send(member, message);
        }
        while let Some(band) = self.ready.highest() {
            let lowest = self.of(member).filter(|(_, held)| !held.handed && held.message.band < band);
            let Some((_, _, tag)) =
                lowest.map(|(tag, held)| (held.message.band, u64::MAX - held.message.place, tag)).min()
            else {
                return;
            };
            self.requeue(tag, false);
            if let Some(message) = self.ready.pop() {
                self.send(member, message);
            }
        }
    }
}

impl Line for PushLine {
    fn put(&mut self, message: Message) {
        self.ready.insert(message);
    }

    fn join(&mut self, _: MemberId) {}

    fn leave(&mut self, member: MemberId, _: bool) {
        let tags: Vec<u64> = self.of(member).map(|(tag, _)| tag).collect();
        for tag in tags {
            self.requeue(tag, true);
        }
    }

    fn sweep(&mut self) -> Vec<MemberId> {
        let now = self.ground.now();
        let overdue = |held: &&Unacked| held.handed && held.since + self.model.max_hold <= now;
        let ended: BTreeSet<MemberId> = self.unacked.values().filter(overdue).map(|held| held.member).collect();
        for member in &ended {
            self.leave(*member, false);
        }
        let stale = |held: &Unacked| !held.handed && held.since + self.model.buffer_age <= now;
        let stale: Vec<u64> = self.unacked.iter().filter(|(_, held)| stale(held)).map(|(tag, _)| *tag).collect();
        for tag in stale {
            self.requeue(tag, false);
        }
        ended.into_iter().collect()
    }

    fn next(&self) -> Option<Duration> {
        let limit = |held: &Unacked| if held.handed { self.model.max_hold } else { self.model.buffer_age };
        self.unacked.values().map(|held| held.since + limit(held)).min()
    }

    fn claim(&mut self, claim: Claim) -> Vec<Claimed> {
        self.prefetch(claim.member, claim.outstanding);
        let mut buffered: Vec<(u8, u64, u64)> = self
            .of(claim.member)
            .filter(|(_, held)| !held.handed)
            .map(|(tag, held)| (u8::MAX - held.message.band, held.message.place, tag))
            .collect();
        buffered.sort_unstable();
        let now = self.ground.now();
        let mut out = Vec::new();
        for (_, _, tag) in buffered.into_iter().take(claim.max) {
            let Some(held) = self.unacked.get_mut(&tag) else { continue };
            held.handed = true;
            held.since = now;
            out.push(Claimed {
                address: Address { slot: tag, epoch: claim.member },
                starts: held.message.returns,
                redelivered: held.message.redelivered,
                message: held.message.clone(),
                remaining: None,
            });
        }
        out
    }

    fn held(&self, member: MemberId) -> usize {
        self.of(member).filter(|(_, held)| held.handed).count()
    }

    fn look(&self, member: MemberId, address: Address) -> Option<Held> {
        let held = self.mine(member, address)?;
        Some(Held { message: held.message.clone(), starts: held.message.returns })
    }

    fn finish(&mut self, member: MemberId, address: Address) {
        if self.mine(member, address).is_some() {
            self.unacked.remove(&address.slot);
        }
    }

    fn put_back(&mut self, member: MemberId, address: Address, after: Duration) -> bool {
        let can = after.is_zero() && self.mine(member, address).is_some();
        if can {
            self.requeue(address.slot, false);
        }
        can
    }

    fn recall(&mut self, member: Option<MemberId>) -> usize {
        let meant = |held: &Unacked| !held.handed && member.is_none_or(|member| held.member == member);
        let tags: Vec<u64> = self.unacked.iter().filter(|(_, held)| meant(held)).map(|(tag, _)| *tag).collect();
        for tag in &tags {
            self.requeue(*tag, false);
        }
        tags.len()
    }

    fn beat(&mut self, member: MemberId, address: Address, _: bool, _: Option<Duration>) -> Option<Option<Duration>> {
        self.mine(member, address).map(|_| None)
    }

    fn purge(&mut self) -> usize {
        self.recall(None);
        self.ready.clear()
    }

    fn pending(&self) -> usize {
        self.ready.len() + self.unacked.values().filter(|held| !held.handed).count()
    }

    fn census(&self) -> Census {
        let buffered = self.unacked.values().filter(|held| !held.handed);
        let oldest = buffered.clone().map(|held| held.message.since).chain(self.ready.oldest()).min();
        Census { running: (self.unacked.len() - buffered.count()) as u64, oldest }
    }
}
