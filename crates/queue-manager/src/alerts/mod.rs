#![doc = include_str!("../docs/alerts.md")]

mod condition;
mod filter;
mod judge;
mod look;
mod outbox;
mod post;
mod rules;
mod sink;
mod sla;
mod watcher;
#[cfg(feature = "webhook")]
mod webhook;
mod window;
mod wire;

pub use filter::EventFilter;
pub use outbox::SinkStatus;
pub use post::{AlertsBuilder, AlertsStatus};
pub use sink::{AlertSink, ChannelSink, FnSink, LogSink};
pub use sla::{SlaClassReport, SlaReport};
#[cfg(feature = "webhook")]
pub use webhook::Webhook;
pub use wire::to_json;

pub(crate) use post::Post;
