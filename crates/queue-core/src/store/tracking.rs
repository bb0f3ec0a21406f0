//! The store that gives a bare transport its memory.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::JobStore;
use crate::{
    error::{Error, Result},
    job::{Envelope, JobError, JobId, JobRef, QueueName},
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Cursor, DeadFilter, DeadJob, Lease, Page, ParkKey, Rejection, SettleOutcome, Settlement,
    },
    stats::QueueStats,
};

/// What the tracking layer writes, and nobody else.
///
/// Batch-first; every write is a compare-and-set on (state, generation, fence), and every answer can be `Unknown`: the store
/// may be away, or its reply lost after it wrote. A job is found by its queue and id; the [place](JobRef::place) is only noted,
/// from the confirm and the claim, which are the first to know it. A queue's name means one queue in the whole store, so
/// providers that share a store give their queues different names.
#[async_trait]
pub trait TrackingStore: JobStore {
    /// Records the jobs, takes their unique keys, and keeps the sweep away for `stage_lease`, while the publisher is alive.
    /// The queue's bound ([`StagedJob::max_len`]) is checked in the same step.
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome>;

    /// (staged, generation) → pending: the transport has it. A late confirm of an older generation changes nothing.
    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>>;

    /// The transport refused it. Only the first publisher calls this. `false`: the sweep took it over, so it is accepted.
    /// The unique key is free again; a tombstone stays.
    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>>;

    /// The transport refuses for good what was already promised (a successor, a follow-up): dead, with the error.
    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>>;

    /// Who may run a copy that the transport delivered. Adopts a job it has no record of (published while the store was
    /// away).
    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict>;

    /// Like [`crate::provider::Consumer::heartbeat`], on the store's fence.
    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome>;

    /// Terminal state or successor, result, and `then` staged, all in one write. The answer says which of these copies are to
    /// be published, also where the settlement was recorded before. A successor or follow-up that is not due yet is left to
    /// the sweep if nobody confirms it.
    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome>;

    /// Up to `n` jobs parked under the key, staged with generation + 1.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>>;

    /// What the sweep must publish: staged beyond their stage lease, held until now, parked beyond `at_most`; leased to the
    /// dead only if asked (not before one lease has passed since the store answers again). A dead lease is staged with
    /// generation + 1 but keeps its fence: its holder may still settle until someone claims. What it hands out is marked as
    /// swept.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>>;

    /// Confirmed jobs of the queue that have been pending, and not parked, for `at_least`: staged with generation + 1, marked as
    /// swept. For a transport that was found empty: whatever it lost is published again, and a copy that turns up after all is
    /// dropped at its claim.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>>;

    /// Queues of the provider whose names begin with `prefix`, by name, for a transport that cannot list them: those that hold a
    /// record, or a switch that was set, or did and were not dropped. Of one that holds no record (any more) nobody may know
    /// whose it is: then it is in every provider's listing.
    ///
    /// # Errors
    /// `UNAVAILABLE`; `VALIDATION` for a cursor of another listing.
    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>>;

    /// Like [`crate::provider::QueueAdmin::parked`].
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>>;

    /// Like [`crate::provider::QueueAdmin::dead`]. Jobs that are redriven or forgotten between two pages leave no hole.
    ///
    /// # Errors
    /// `UNAVAILABLE`; `VALIDATION` for a cursor of another listing.
    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>>;

    /// Stages another life for dead jobs: generation + 1, attempt 1, the unique key taken again, a passed time to live lifted,
    /// with another payload if one is given. What it stages will be delivered: it cannot be unstaged.
    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>>;

    /// Forgets dead jobs; tombstones stay. `false`: it is not dead.
    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>>;

    /// What the records of these queues add up to, one answer each, in order. `paused` is the queue's control flag;
    /// `oldest_pending` is since when the pending job has been so, parked ones left out, that has been it longest: `None` where
    /// none is, or where the store cannot tell at little cost.
    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>>;

    /// How many pending jobs of its queue have a higher priority, or the same one and came earlier. `None` where it is not
    /// pending, or parked. It may take as long as the queue is deep.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn position(&self, job: &JobRef) -> Result<Option<u64>>;

    /// Cancels every waiting job of the queue, parked ones included, and says how many.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;

    /// Forgets the queue with all its records, keys and switches: the transport has dropped it with every copy.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn drop_queue(&self, queue: &QueueName) -> Result<()>;

    /// Like [`crate::provider::QueueProvider::limiter`], for every process that shares the store: for a transport that counts
    /// nothing. `None` where it is this process's own.
    fn limiter(&self) -> Option<Arc<dyn Limiter>>;

    /// Writes what is not on disk yet, and ends connections and background tasks. What comes after it may be refused as
    /// `CLOSED`. A second call does nothing.
    ///
    /// # Errors
    /// What could not be written.
    async fn close(&self) -> Result<()>;
}

/// A job recorded and not yet confirmed by the transport.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StagedJob {
    /// Whose transport carries it; see [`Scope`].
    pub provider: Arc<str>,
    /// Which job.
    pub job: JobRef,
    /// The copy to publish.
    pub envelope: Envelope,
    /// The store keeps it that long before it is due for publication (a delay beyond the transport's cap).
    pub hold: Option<Duration>,
    /// Where so many jobs of its queue wait already, [`TrackingStore::stage`] answers [`Rejection::Full`]. Nothing else looks
    /// at it.
    pub max_len: Option<u64>,
}

impl StagedJob {
    /// To be published at once, into a queue without a bound.
    pub fn new(provider: impl Into<Arc<str>>, job: JobRef, envelope: Envelope) -> Self {
        Self { provider: provider.into(), job, envelope, hold: None, max_len: None }
    }

    /// To be published in a while.
    #[must_use]
    pub fn held(mut self, hold: Duration) -> Self {
        self.hold = Some(hold);
        self
    }

    /// Only if fewer wait in its queue.
    #[must_use]
    pub fn bounded(mut self, max_len: Option<u64>) -> Self {
        self.max_len = max_len;
        self
    }
}

/// Several providers may share one store; each sees its own.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The provider's name for itself.
    pub provider: Arc<str>,
    /// Only these queues.
    pub queues: Option<Vec<QueueName>>,
}

/// What staging came to.
#[derive(Debug, Clone)]
pub enum StageOutcome {
    /// Recorded: publish it.
    Staged,
    /// Same id and generation, recorded before and not confirmed: go on and publish.
    Again,
    /// One's own id, further on or finished: answer `Accepted`, publish nothing.
    Known,
    /// The unique key is held.
    Duplicate {
        /// By this job.
        existing: JobRef,
    },
    /// Refused.
    Rejected(Rejection),
    /// No answer: the caller gets `Unknown` and nothing is published (the sweep will, if it was written).
    Unknown(Error),
}

/// A copy that the transport delivered, to be judged.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Whose transport delivered it: what is adopted is in its scope.
    pub provider: Arc<str>,
    /// Which job, and its place.
    pub job: JobRef,
    /// The copy.
    pub envelope: Envelope,
    /// Who wants to run it.
    pub worker: Arc<str>,
    /// For how long.
    pub lease: Duration,
}

/// What fences a tracked delivery; it decides, not the transport's own: a transport lease lost after a won `settle` is still
/// `Settled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The job.
    pub id: JobId,
    /// The claim.
    pub epoch: u64,
    /// The copy.
    pub generation: u32,
}

/// A settlement with its fence.
#[derive(Debug, Clone)]
pub struct TrackedSettle {
    /// Which claim.
    pub fence: Fence,
    /// What it came to.
    pub settlement: Settlement,
    /// The copy to publish (generation + 1). `None` with `Retry`: in place, the same copy comes back.
    pub successor: Option<Envelope>,
}

/// What a settlement came to, and what is left to publish for it.
#[derive(Debug, Clone)]
pub struct TrackedOutcome {
    /// What the worker is told.
    pub outcome: SettleOutcome,
    /// The successor is staged and not confirmed. `false` also where a cancel came first.
    pub successor: bool,
    /// The follow-ups, by their index, that are staged and not confirmed. Left out is what exists already, and what is not
    /// wanted because its unique key is held.
    pub then: Vec<usize>,
}

impl TrackedOutcome {
    /// Nothing is to be published.
    #[must_use]
    pub const fn only(outcome: SettleOutcome) -> Self {
        Self { outcome, successor: false, then: Vec::new() }
    }
}

/// What became of one dead job that was to live again.
#[derive(Debug, Clone)]
pub enum RedriveOutcome {
    /// It lives: publish it.
    Staged(StagedJob),
    /// It stays dead: its unique key is held.
    Duplicate {
        /// By this job.
        existing: JobRef,
    },
    /// There is no such dead job (any more).
    NotDead,
}

/// Who may run a delivered copy.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// This worker.
    Run {
        /// Its fence.
        fence: Fence,
        /// Its lease.
        lease: Lease,
        /// The record's attempt.
        attempt: u32,
        /// See [`crate::provider::Delivery::started_before`].
        started_before: u32,
        /// See [`crate::provider::Delivery::redelivered`].
        redelivered: bool,
    },
    /// Nobody: terminal, cancelled, expired, an older generation, evicted, or a second copy while another lives. Acknowledge
    /// it.
    Drop,
    /// Nobody yet: under a live lease elsewhere, or not due. Release this copy for the remainder.
    Busy {
        /// How long.
        remaining: Duration,
    },
    /// No answer: release with a delay and stop fetching until the store answers. Never run without a fence.
    Unknown(Error),
}
