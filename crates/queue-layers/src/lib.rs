#![doc = include_str!("docs/crate.md")]

pub mod tracked;

pub use tracked::{Options, Tracked, register};
