//! The part in which the shapes differ: how messages that may be taken are held, claimed and given back.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use queue_core::{Env, Timestamp};

use super::message::Message;

/// A consumer's session with the broker. A new one after every break.
pub(super) type MemberId = u64;

/// Where a delivery is, and which claim of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) slot: u64,
    pub(super) epoch: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) member: MemberId,
    pub(super) max: usize,
    /// Handed out and buffered together.
    pub(super) outstanding: usize,
    pub(super) lease: Duration,
}

#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) address: Address,
    pub(super) message: Message,
    /// Starts, or what stands for them, before this delivery and on this copy.
    pub(super) starts: u32,
    pub(super) redelivered: bool,
    pub(super) remaining: Option<Duration>,
}

/// A delivery as the broker sees it while its lease stands.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) message: Message,
    /// Before this delivery: one that is settled leaves no mark.
    pub(super) starts: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) running: u64,
    pub(super) oldest: Option<Timestamp>,
}

pub(super) trait Line: Debug + Send {
    /// Joins the tail of its band.
    fn put(&mut self, message: Message);
    fn join(&mut self, member: MemberId);
    /// The session ends, `clean` or by a crash: what it holds is treated as the shape treats it.
    fn leave(&mut self, member: MemberId, clean: bool);
    /// Time passes. Returns the members whose session the broker ended for holding something too long.
    fn sweep(&mut self) -> Vec<MemberId>;
    /// When [`Line::sweep`] has something to do next, on the monotonic clock.
    fn next(&self) -> Option<Duration>;
    fn claim(&mut self, claim: Claim) -> Vec<Claimed>;
    /// How many the member was handed and holds.
    fn held(&self, member: MemberId) -> usize;
    /// `None`: the receipt is stale.
    fn look(&self, member: MemberId, address: Address) -> Option<Held>;
    /// Ends the delivery for good.
    fn finish(&mut self, member: MemberId, address: Address);
    /// Gives the message back in its place, after a while, if the broker can do just that.
    fn put_back(&mut self, member: MemberId, address: Address, after: Duration) -> bool;
    /// Returns what is buffered and not handed out, of one member or of all, and says how many.
    fn recall(&mut self, member: Option<MemberId>) -> usize;
    /// A sign of life: `None` where the receipt is stale, else what remains of a lease that has an end.
    fn beat(
        &mut self,
        member: MemberId,
        address: Address,
        started: bool,
        extend: Option<Duration>,
    ) -> Option<Option<Duration>>;
    /// Removes what waits, if the shape can.
    fn purge(&mut self) -> usize;
    /// How many may be claimed. Cheap: every publish asks.
    fn pending(&self) -> usize;
    fn census(&self) -> Census;
}

/// Time, randomness and fresh numbers, shared by all parts of one broker.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) env: Env,
    numbers: Arc<AtomicU64>,
}

impl Ground {
    pub(super) fn new(env: Env) -> Self {
        Self { env, numbers: Arc::new(AtomicU64::new(1)) }
    }

    pub(super) fn now(&self) -> Duration {
        self.env.clock.monotonic()
    }

    pub(super) fn wall(&self) -> Timestamp {
        self.env.now()
    }

    /// Rising, never repeated within the broker's life.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}
