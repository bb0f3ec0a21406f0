#![doc = include_str!("docs/crate.md")]

// The ground: time and randomness come in here and nowhere else.
pub mod clock;
pub mod config;
pub mod error;

// What travels, what it may become, who carries it, who remembers it.
pub mod event;
pub mod job;
pub mod lifecycle;
pub mod provider;
pub mod queue_spec;
pub mod stats;
pub mod store;

// Who waits, and how long it may.
pub mod limit;

// Who decides, and who runs.
pub mod scheduler;
pub mod worker;

// The same without handlers: send and receive, publish and subscribe.
pub mod message;

pub use clock::{Clock, Env, Random};
pub use error::{Error, ErrorCode, Result};
pub use event::Event;
pub use job::{Envelope, Job, JobError, JobId, JobRef, Priority, QueueName, RetryPolicy, Timestamp};
pub use message::{Message, RawMessage, Received};
pub use provider::{Consumer, QueueProvider};
pub use queue_spec::QueueSpec;
pub use scheduler::{JobHandle, JobScheduler};

pub use store::JobStore;
pub use worker::{Failure, JobContext, State, Worker};
