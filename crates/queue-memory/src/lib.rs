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
mod store;
mod topics;
mod tracking;

pub use factory::register;
#[cfg(feature = "journal")]
#[doc(hidden)]
pub use journal::ModelDisk;
pub use provider::MemoryProvider;
pub use tracking::{MemoryTracking, TrackingLimits};
