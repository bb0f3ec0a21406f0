//! Who remembers a job.
//!
//! [`JobStore`] is what everyone may read and command. Memory and Redis implement it beside their transport and change
//! both atomically; for the other brokers a tracking layer pairs the bare transport with a [`TrackingStore`].

mod query;
mod record;
mod tracking;

pub use query::{CancelOutcome, JobQuery, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched};
pub use record::{JobRecord, PastFailure};
pub use tracking::{
    Claim, Fence, RedriveOutcome, Scope, StageOutcome, StagedJob, TrackedOutcome, TrackedSettle, TrackingStore, Verdict,
};

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use crate::{
    error::Result,
    job::{JobRef, QueueName, StoreId},
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
};

/// Records, as everyone may read and command them.
#[async_trait]
pub trait JobStore: Debug + Send + Sync + 'static {
    /// Which store this is; stamped into envelopes.
    fn id(&self) -> StoreId;

    /// Who can open it.
    fn scope(&self) -> StoreScope;

    /// The records of these jobs, one answer each, in order.
    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>>;

    /// Records that match, in an order of the store's own. A listing that runs while jobs move may miss or repeat one that
    /// moves.
    ///
    /// # Errors
    /// `UNAVAILABLE`; `VALIDATION` for a cursor of another listing.
    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>>;

    /// Events as they happen. Hints: they may repeat, and where some were missed the stream says so and goes on. The
    /// record is the truth.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>>;

    /// A waiting job is cancelled at once; a running one is asked to stop, with its next heartbeat at the latest.
    /// Idempotent; a later request may shorten the grace of an earlier one.
    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>>;

    /// The switches of a queue.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl>;

    /// Changes them, if nobody else has since `control.version` was read.
    ///
    /// # Errors
    /// `CONFLICT` where somebody has; read again.
    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()>;

    /// Removes finished records beyond the retention, at most `limit`, and says how many. It keeps the id's tombstone as
    /// long as a copy may still travel.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize>;

    /// Asks for the leadership of a role for a term, or renews it. `None`: another leads.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>>;
}
