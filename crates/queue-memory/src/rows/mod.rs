//! What is kept of a job, as bytes: versioned by hand, so that a later version reads what this one wrote.
//!
//! Bytes that come back are not trusted: every length is checked against what is there before anything is made of it, and
//! nothing is copied that can be a slice.

mod job;
mod queue;
mod state;
mod wire;

pub(crate) use job::JobRow;
pub(crate) use queue::{GoneRow, QueueRow, WindowRow, subscription, subscription_key};
pub(crate) use state::StateRow;
pub(crate) use wire::{Broken, Reader, Writer};
