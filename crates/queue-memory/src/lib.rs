#![doc = include_str!("docs/crate.md")]

mod admin;
mod consumer;
mod events;
mod provider;
mod queue;
mod store;

pub use provider::MemoryProvider;
