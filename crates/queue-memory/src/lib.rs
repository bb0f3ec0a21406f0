#![doc = include_str!("docs/crate.md")]
#![cfg_attr(not(feature = "journal"), allow(dead_code, reason = "what reads a journal back"))]

mod admin;
#[cfg(feature = "journal")]
mod amnesia;
mod consumer;
mod events;
mod factory;
mod forget;
#[cfg(feature = "journal")]
mod journal;
#[cfg(not(feature = "journal"))]
#[path = "absent.rs"]
#[allow(dead_code, reason = "nothing here is ever called")]
mod journal;
mod notes;
#[cfg(feature = "journal")]
mod opening;
mod provider;
mod queue;
mod rows;
mod store;
mod topics;
mod tracking;

#[cfg(feature = "journal")]
#[doc(hidden)]
pub use amnesia::Amnesia;
pub use factory::register;
#[cfg(feature = "journal")]
#[doc(hidden)]
pub use journal::ModelDisk;
#[cfg(feature = "journal")]
pub use opening::{JournalOptions, Recovery};
pub use provider::MemoryProvider;
pub use tracking::{MemoryTracking, TrackingLimits};
