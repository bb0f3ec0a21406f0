//! Bare providers, with a store beside them by `store=` in their URL, and without one.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;
mod everything;
mod listing;
mod opening;
mod outage;
