//! Visibility timeouts: a message that was received is hidden for a while, as in SQS.

use std::{collections::BTreeMap, time::Duration};

use queue_core::provider::{Capabilities, LeaseModel, Support};

use super::{
    line::{Address, Census, Claim, Claimed, Ground, Held, Line, MemberId},
    message::{Message, Ready},
    shape::bare,
};

const MAX_DELAY: Duration = Duration::from_secs(900);
const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 3_600);

/// A broker that hides what was received until it is deleted or its visibility timeout ends.
///
/// * Each receive gives a new receipt handle and makes the older ones stale. A crashed client's messages come back when
///   their timeouts end, whatever happens to connections meanwhile.
/// * A heartbeat changes the visibility timeout, up to 12 h from the receive.
/// * The broker counts receives, not starts. So a delayed release is a copy, lest a job that is snoozed be taken for
///   poison; only a release without a delay, and what a newer version wrote, is given back by its visibility.
/// * A publish may be delayed by 900 s. Longer waits of retries and releases are made of several hops, shown as one.
/// * Deliveries may be doubled at random, from the environment's seed.
#[derive(Debug, Clone)]
pub struct VisibilityModel {
    /// The shortest visibility timeout. Real ones count in seconds; a model has no need to.
    pub min_lease: Duration,
    /// The share of receives, 0.0 to 1.0, whose message stays visible as well and so is delivered once more.
    pub duplicates: f64,
    /// The longest delay of a publish.
    pub max_delay: Duration,
}

impl Default for VisibilityModel {
    fn default() -> Self {
        Self { min_lease: Duration::from_millis(10), duplicates: 0.0, max_delay: MAX_DELAY }
    }
}

impl VisibilityModel {
    pub(super) fn capabilities(&self) -> Capabilities {
        let mut can = bare(LeaseModel::PerMessage { min: self.min_lease, max: MAX_VISIBILITY });
        can.delay = Support::Native;
        can.delay_max = Some(self.max_delay);
        can.dedup_by_id = Support::Unsupported { instead: "make handlers idempotent" };
        can.settle_confirmed = true;
        can.purge = Support::Emulated {
            how: "what can be received is received and deleted",
            caveat: "what is published meanwhile may go too",
        };
        can.exact_depth = Support::Unsupported { instead: "take the numbers as estimates" };
        can.max_len =
            Support::Emulated { how: "the depth is read before a publish", caveat: "many publishers may overshoot" };
        can.started_count = Support::Emulated {
            how: "the receive count",
            caveat: "receives are counted, not starts: a job released at shutdown or prefetched is counted too",
        };
        can.max_encoded_len = 1 << 20;
        can.max_batch = 10;
        can
    }

    pub(super) fn line(&self, ground: &Ground) -> Box<dyn Line> {
        let (model, ground) = (self.clone(), ground.clone());
        Box::new(VisibilityLine { model, ground, ready: Ready::default(), hidden: BTreeMap::new() })
    }
}

#[derive(Debug)]
struct VisibilityLine {
    model: VisibilityModel,
    ground: Ground,
    ready: Ready,
    /// By place, which a message keeps for as long as it is in line.
    hidden: BTreeMap<u64, Hidden>,
}

#[derive(Debug)]
struct Hidden {
    message: Message,
    handle: u64,
    received: Duration,
    visible: Duration,
    /// `None`: hidden for a reason of the provider's own; nobody has it.
    member: Option<MemberId>,
}

impl VisibilityLine {
    fn mine(&self, member: MemberId, address: Address) -> Option<&Hidden> {
        let now = self.ground.now();
        let live = |hidden: &&Hidden| hidden.handle == address.epoch && hidden.member == Some(member);
        self.hidden.get(&address.slot).filter(live).filter(|hidden| hidden.visible > now)
    }

    fn show(&mut self, place: u64) {
        if let Some(hidden) = self.hidden.remove(&place) {
            self.ready.insert(hidden.message);
        }
    }

    fn maybe_double(&mut self, message: &Message) {
        if self.model.duplicates > 0.0 && self.ground.env.random.fraction() < self.model.duplicates {
            // The same message to whoever asks for its name, and another entry to the broker.
            self.ready.insert(Message { place: self.ground.number(), ..message.clone() });
        }
    }
}

impl Line for VisibilityLine {
    fn put(&mut self, message: Message) {
        self.ready.insert(message);
    }

    fn join(&mut self, _: MemberId) {}

    /// Nobody tells the broker: the timeouts end by themselves.
    fn leave(&mut self, _: MemberId, _: bool) {}

    fn sweep(&mut self) -> Vec<MemberId> {
        let now = self.ground.now();
        let due: Vec<u64> =
            self.hidden.iter().filter(|(_, hidden)| hidden.visible <= now).map(|(place, _)| *place).collect();
        for place in due {
            self.show(place);
        }
        Vec::new()
    }

    fn next(&self) -> Option<Duration> {
        self.hidden.values().map(|hidden| hidden.visible).min()
    }

    fn claim(&mut self, claim: Claim) -> Vec<Claimed> {
        let now = self.ground.now();
        let room = claim.outstanding.saturating_sub(self.held(claim.member)).min(claim.max);
        let mut out = Vec::new();
        while out.len() < room {
            let Some(mut message) = self.ready.pop() else { break };
            let starts = message.returns;
            message.returns += 1;
            message.redelivered = true;
            self.maybe_double(&message);
            let address = Address { slot: message.place, epoch: self.ground.number() };
            out.push(Claimed {
                address,
                starts,
                redelivered: starts > 0,
                message: message.clone(),
                remaining: Some(claim.lease),
            });
            let visible = now + claim.lease;
            let hidden = Hidden { message, handle: address.epoch, received: now, visible, member: Some(claim.member) };
            self.hidden.insert(address.slot, hidden);
        }
        out
    }

    fn held(&self, member: MemberId) -> usize {
        self.hidden.values().filter(|hidden| hidden.member == Some(member)).count()
    }

    fn look(&self, member: MemberId, address: Address) -> Option<Held> {
        let message = self.mine(member, address)?.message.clone();
        Some(Held { starts: message.returns.saturating_sub(1), message })
    }

    fn finish(&mut self, member: MemberId, address: Address) {
        if self.mine(member, address).is_some() {
            self.hidden.remove(&address.slot);
        }
    }

    fn put_back(&mut self, member: MemberId, address: Address, after: Duration) -> bool {
        if self.mine(member, address).is_none() {
            return false;
        }
        if after.is_zero() {
            self.show(address.slot);
        } else if let Some(hidden) = self.hidden.get_mut(&address.slot) {
            hidden.visible = self.ground.now() + after.min(MAX_VISIBILITY);
            hidden.member = None;
        }
        true
    }

    fn recall(&mut self, _: Option<MemberId>) -> usize {
        0
    }

    fn beat(
        &mut self,
        member: MemberId,
        address: Address,
        _: bool,
        extend: Option<Duration>,
    ) -> Option<Option<Duration>> {
        self.mine(member, address)?;
        let (now, min) = (self.ground.now(), self.model.min_lease);
        let hidden = self.hidden.get_mut(&address.slot)?;
        if let Some(extend) = extend {
            hidden.visible = (now + extend.max(min)).min(hidden.received + MAX_VISIBILITY);
        }
        Some(Some(hidden.visible.saturating_sub(now)))
    }

    fn purge(&mut self) -> usize {
        self.ready.clear()
    }

    fn pending(&self) -> usize {
        self.ready.len() + self.hidden.values().filter(|hidden| hidden.member.is_none()).count()
    }

    fn census(&self) -> Census {
        let running = self.hidden.values().filter(|hidden| hidden.member.is_some()).count() as u64;
        Census { running, oldest: self.ready.oldest() }
    }
}
