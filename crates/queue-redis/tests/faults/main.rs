//! What goes wrong around a real Redis: connections cut, a server that stops, memory that runs out, an operator's hand, a worker that
//! wakes too late. Each test has a server of its own; without `redis-server` on the path they are left out, loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod connections;
mod crowd;
mod hand;
mod memory;
mod nonsense;
mod race;
mod rig;
#[path = "../server/mod.rs"]
mod server;
mod stopped;
