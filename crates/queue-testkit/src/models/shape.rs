//! The choice between the models.

use std::time::Duration;

use queue_core::{
    Error,
    provider::{ADD_STORE, Capabilities, LeaseModel, Support},
};

use super::{
    LogModel, PushModel, VisibilityModel,
    line::{Ground, Line},
};

/// Which family of brokers a [`super::Broker`] is shaped like.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Push and acknowledge.
    Push(PushModel),
    /// A log with offsets.
    Log(LogModel),
    /// Visibility timeouts.
    Visibility(VisibilityModel),
}

impl From<PushModel> for Shape {
    fn from(model: PushModel) -> Self {
        Self::Push(model)
    }
}

impl From<LogModel> for Shape {
    fn from(model: LogModel) -> Self {
        Self::Log(model)
    }
}

impl From<VisibilityModel> for Shape {
    fn from(model: VisibilityModel) -> Self {
        Self::Visibility(model)
    }
}

impl Shape {
    pub(super) const fn scheme(&self) -> &'static str {
        match self {
            Self::Push(_) => "model-push",
            Self::Log(_) => "model-log",
            Self::Visibility(_) => "model-visibility",
        }
    }

    pub(super) const fn schemes(&self) -> &'static [&'static str] {
        match self {
            Self::Push(_) => &["model-push"],
            Self::Log(_) => &["model-log"],
            Self::Visibility(_) => &["model-visibility"],
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        match self {
            Self::Push(model) => model.capabilities(),
            Self::Log(model) => model.capabilities(),
            Self::Visibility(model) => model.capabilities(),
        }
    }

    pub(super) fn line(&self, ground: &Ground) -> Box<dyn Line> {
        match self {
            Self::Push(model) => model.line(ground),
            Self::Log(model) => model.line(ground),
            Self::Visibility(model) => model.line(ground),
        }
    }

    /// Whether receipts die with the connection.
    pub(super) const fn has_sessions(&self) -> bool {
        !matches!(self, Self::Visibility(_))
    }

    pub(super) fn max_hold(&self) -> Option<Duration> {
        match self.capabilities().lease {
            LeaseModel::Session { max_hold } => Some(max_hold),
            LeaseModel::PerMessage { .. } => None,
        }
    }

    /// The refusal that goes with an unsupported capability; `Ok` where it is supported.
    pub(super) fn require(&self, support: Support, operation: &'static str) -> Result<(), Error> {
        match support {
            Support::Unsupported { instead } => Err(Error::unsupported(self.scheme(), operation, instead)),
            Support::Native | Support::Emulated { .. } => Ok(()),
        }
    }
}

/// What the three have in common: bands, copies published before the original is acknowledged, no store.
pub(super) fn bare(lease: LeaseModel) -> Capabilities {
    const COPY: Support = Support::Emulated {
        how: "a copy is published, then the original acknowledged",
        caveat: "a crash between the two makes it two",
    };
    let mut can = Capabilities::none(lease, ADD_STORE);
    can.priority_levels = 4;
    can.priority = Support::Emulated {
        how: "a queue for each of the bands 1-4, 5-9, 10-14 and 15",
        caveat: "levels within a band are not told apart",
    };
    can.retry = COPY;
    can.dead_letters = COPY;
    can.atomic_then = Support::Emulated {
        how: "follow-ups are published, then the original acknowledged",
        caveat: "a crash between the two, or a refusal of a later one, publishes them again under the same ids",
    };
    can.park = Support::Emulated {
        how: "released for a second, again and again",
        caveat: "unpark is refused: a parked job looks again by itself",
    };
    can.pause = Support::Emulated { how: "a control flag that consumers obey", caveat: "other clients do not see it" };
    // What no store gives.
    can.aged_order = Support::Unsupported { instead: "declare the order `strict`" };
    can.partitions = Support::Unsupported { instead: "declare a queue for each partition" };
    can.topics = Support::Unsupported { instead: "publish once to each subscribed queue" };
    can.order_by_key = Support::Unsupported { instead: "run the queue with one consumer and one slot" };
    // All that is accepted survives the broker's restart, so whatever asks for less is given.
    can.durability = &["synced", "interval", "relaxed"];
    can
}
