//! Where single rules of the layer show: the same worlds, bent towards what the rule is about.

use std::time::Duration;

use queue_layers::Options;
use queue_testkit::simulation::{Bias, Climate, Promises};

/// Under which circumstances the tracked worlds are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each test uses its part")]
pub(crate) enum Scene {
    /// Whatever the seed brings.
    Any,
    /// Storms, and no reconciler that repairs what should have been prevented.
    Blind,
    /// Calls take longer than a publisher's claim on what it staged, and nobody dies.
    Overtaken,
    /// Calls take longer than leases.
    Lapsing,
    /// The store alone is away at times.
    StoreAway,
    /// One settlement may wait for the store, and hands change their minds.
    Full,
    /// A process has another store.
    Strangers,
    /// Hands park for longer than anybody waits.
    Parks,
    /// Few workers, much to do, nothing wrong.
    Backlog,
    /// The transport loses what waits.
    Losses,
    /// Queues with little room, and much to be tried again.
    NoRoom,
    /// A queue cannot be reached any more.
    Cut,
    /// Follow-ups that no queue takes.
    Oversized,
    /// The transport holds delays for half a second only.
    ShortDelays,
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The process with the other store.
pub(crate) const STRANGER: &str = "hand-1";
const MAX_BUFFERED: usize = 1;

impl Scene {
    /// How many settlements may wait, where that is looked at.
    pub(crate) fn room(self) -> Option<usize> {
        (self == Self::Full).then_some(MAX_BUFFERED)
    }

    pub(crate) fn bias(self) -> Bias {
        let mut bias = Bias::default();
        match self {
            Self::Any | Self::ShortDelays => {}
            Self::Blind => bias.climate = Some(Climate::Stormy),
            Self::Overtaken => {
                bias.climate = Some(Climate::Stalling);
                bias.stall = Some(0.15);
                bias.refusals = Some(20);
                bias.tries = Some((5, Duration::from_millis(50)));
                bias.takes_no = true;
            }
            Self::Lapsing => {
                bias.climate = Some(Climate::Stalling);
                bias.lease = Some(secs(2));
                bias.workers = Some(3);
            }
            Self::StoreAway => {
                bias.climate = Some(Climate::Fair);
                bias.store_outages = true;
                bias.lease = Some(secs(3));
                bias.workers = Some(3);
                bias.hands = Some(0);
            }
            Self::Full => {
                bias.climate = Some(Climate::Stalling);
                bias.store_outages = true;
                bias.workers = Some(1);
                bias.hands = Some(4);
                bias.refused = Some(0.15);
                bias.lost = Some(0.2);
                bias.second_thoughts = true;
            }
            Self::Strangers => {
                bias.climate = Some(Climate::Fair);
                bias.hands = Some(2);
                bias.unstamped = true;
            }
            Self::Parks => {
                bias.climate = Some(Climate::Stormy);
                bias.hands = Some(2);
                bias.parks = Some(secs(3_600));
            }
            Self::Backlog => {
                bias.climate = Some(Climate::Fair);
                bias.workers = Some(1);
                bias.hands = Some(0);
                bias.operators = Some(0);
            }
            Self::Losses => bias.losses = true,
            Self::NoRoom => {
                bias.climate = Some(Climate::Fair);
                bias.room = Some(2);
                bias.tries = Some((5, Duration::from_millis(300)));
                bias.hands = Some(0);
                bias.operators = Some(0);
            }
            Self::Cut => bias.cut = true,
            Self::Oversized => {
                bias.climate = Some(Climate::Fair);
                bias.hands = Some(2);
                bias.workers = Some(1);
                bias.oversized = true;
            }
        }
        bias
    }

    pub(crate) fn promise(self, promises: &mut Promises) {
        match self {
            Self::StoreAway => {
                promises.steady = true;
                promises.slack = Duration::from_millis(500);
            }
            Self::NoRoom => promises.wakes_within = secs(10),
            Self::Backlog => promises.thrifty = true,
            _ => {}
        }
    }

    pub(crate) fn set(self, options: &mut Options) {
        let never = secs(1_000_000);
        match self {
            Self::Any | Self::Losses | Self::ShortDelays | Self::Cut | Self::Oversized => {}
            Self::Blind | Self::StoreAway | Self::Strangers | Self::Parks => options.reconcile_after = never,
            Self::Overtaken => {
                options.reconcile_after = never;
                options.stage_lease = Duration::from_millis(300);
                options.store_timeout = secs(10);
            }
            Self::Lapsing => {
                options.reconcile_after = never;
                options.store_timeout = secs(10);
                options.longest_lease = secs(1);
            }
            Self::Full => {
                options.reconcile_after = never;
                options.max_buffered = MAX_BUFFERED;
            }
            Self::Backlog => options.reconcile_after = secs(4),
            Self::NoRoom => {
                options.reconcile_after = never;
                options.stage_lease = secs(30);
            }
        }
    }
}
