//! Who must wait, and for what: rates, concurrency and circuit breakers by key.
//!
//! [`LimitRules`] say which limits a job comes under; a [`Limiter`] counts. A worker asks it before each run. A job that is
//! held back is parked under the limit's key, spends no attempt, and stands in nobody's way; when the key has room, as many
//! jobs as it has room for are unparked, the oldest first.

mod breaker;
mod bucket;
mod concurrency;
mod keys;
mod local;
mod meter;
mod permits;
mod recent;
mod rules;
mod sla;
mod window;

pub use local::LocalLimiter;
pub(crate) use rules::Ruled;
pub use rules::{BreakerPolicy, Limit, LimitBy, LimitRule, LimitRules, LimitScope};
pub use sla::SlaCompliance;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    event::{BreakerEvent, BreakerState},
    job::JobId,
    provider::{ParkKey, Receipt},
    store::{StoreScope, Watched},
};

/// Counts runs against limits.
///
/// Every provider whose broker can count for all processes has one ([`crate::QueueProvider::limiter`]); elsewhere the
/// scheduler counts for its process.
#[async_trait]
pub trait Limiter: Debug + Send + Sync + 'static {
    /// For whom it counts.
    fn scope(&self) -> StoreScope;

    /// Takes what each asks for, under all its limits or none: one answer each, in order. Asking again for the same holder
    /// takes nothing twice. What is taken is kept for `lease` unless it is renewed, so that a dead process gives it back.
    async fn acquire(&self, asks: &[Ask], lease: Duration) -> Vec<Grant>;

    /// Keeps what these hold. One that holds nothing is no error.
    ///
    /// # Errors
    /// `UNAVAILABLE`; what is held is then given back when its lease ends.
    async fn renew(&self, holders: &[Holder], lease: Duration) -> Result<()>;

    /// Ends runs: frees their concurrency and tells breakers how they went. Idempotent.
    ///
    /// # Errors
    /// `UNAVAILABLE`; call it again.
    async fn release(&self, ended: &[(Ask, RunEnd)]) -> Result<()>;

    /// How many runs would be granted now under each limit, asked for alone.
    async fn room(&self, needs: &[Need]) -> Vec<Result<Room>>;

    /// Breakers that change their state from now on. Hints: they may be missed.
    fn watch(&self) -> BoxStream<'static, Watched<BreakerEvent>>;
}

/// A limit that a job comes under.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// What is counted, and what held jobs are parked under: `rate:openai`, `tenant:acme`, …
    pub key: ParkKey,
    /// How much there is of it.
    pub limit: Limit,
}

/// Who holds what was granted: one delivery of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The job.
    pub job: JobId,
    /// What tells its deliveries apart.
    pub epoch: u64,
}

impl From<Receipt> for Holder {
    fn from(receipt: Receipt) -> Self {
        Self { job: receipt.id, epoch: receipt.epoch }
    }
}

/// A run that wants to begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Which run.
    pub holder: Holder,
    /// All it comes under.
    pub needs: Vec<Need>,
}

/// What an [`Ask`] came to.
#[derive(Debug, Clone)]
pub enum Grant {
    /// It may run, and holds what it asked for until it is released.
    Granted,
    /// It has to wait. Nothing was taken.
    Refused {
        /// Which of its needs has no room: the first that has none.
        need: usize,
        /// When to look again, where that is known; `None`: when a run ends.
        retry_after: Option<Duration>,
    },
    /// No answer.
    Unknown(Error),
}

/// How a run that was granted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Well.
    Succeeded,
    /// Of an error that speaks against its dependency.
    Failed,
    /// In a way that says nothing of its dependency: cancelled, snoozed, refused by its own rules.
    Undecided,
    /// It never began: everything is given back, rates too.
    Unused,
}

/// How much room a limit has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Runs that would be granted now.
    pub free: u32,
    /// Where none is: how long until it is worth looking again, if time alone brings it about.
    pub next: Option<Duration>,
    /// A breaker's state.
    pub breaker: Option<BreakerState>,
}

fn nanos(duration: Duration) -> u128 {
    u128::from(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
