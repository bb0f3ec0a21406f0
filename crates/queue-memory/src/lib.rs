#![doc = include_str!("docs/crate.md")]

mod admin;
mod consumer;
mod events;
mod factory;
#[cfg(feature = "journal")]
#[allow(dead_code, reason = "not everything has a caller yet")]
mod journal;
mod provider;
mod queue;
mod rows;
mod store;
mod topics;
mod tracking;

pub use factory::register;
pub use provider::MemoryProvider;
pub use tracking::{MemoryTracking, TrackingLimits};
