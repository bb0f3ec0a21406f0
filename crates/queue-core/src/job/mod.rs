//! What travels: a job's identity, its envelope, and its typed face.

mod envelope;
mod error;
mod frame;
mod headers;
mod id;
mod name;
mod priority;
mod retry;
mod time;
mod typed;

pub use envelope::{Envelope, EnvelopeBuilder, Unique, UniqueKey};
pub use error::JobError;
pub use frame::{FRAME_VERSION, FrameError};
pub use headers::{Headers, LimitKeys, RawHeaders, SlaClass, TraceContext};
pub use id::{JobId, JobRef, StoreId};
pub use name::{ContentType, JobKind, QueueName};
pub use priority::Priority;
pub use retry::{Backoff, RetryPolicy};
pub use time::Timestamp;
pub use typed::Job;
pub(crate) use typed::{broken_rules, misfit, rules};
