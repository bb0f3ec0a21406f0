//! Proves that a provider keeps the contract of [`queue_core::provider`].
//!
//! [`conformance`] runs plain cases over `Arc<dyn QueueProvider>`, reached through a [`harness`]. [`saboteur`] proves the
//! cases: each of its named defects must be caught by one. [`checker`] judges the history of a run with faults, and [`models`]
//! stand for the families of brokers. [`faults`] take a job store away, a [`fuse`] stops a process between two of its calls, and a
//! [`front`] changes single calls.
//!
//! [`testing`] is for those who use queues rather than build them.

pub mod checker;
pub mod conformance;
pub mod faults;
pub mod front;
pub mod fuse;
pub mod harness;
pub mod models;
pub mod saboteur;
pub mod simulation;
pub mod testing;
