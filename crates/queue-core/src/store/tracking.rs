//! The store that gives a bare transport its memory.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::JobStore;
use crate::{
    error::{Error, Result},
    job::{Envelope, JobError, JobId, JobRef, QueueName},
    provider::{Beat, BeatOutcome, Lease, ParkKey, Rejection, SettleOutcome, Settlement},
};

/// What the tracking layer writes, and nobody else.
///
/// Batch-first; every write is a compare-and-set on (state, generation, fence), and every answer can be `Unknown`: the store
/// may be away, or its reply lost after it wrote.
#[async_trait]
pub trait TrackingStore: JobStore {
    /// Records the jobs, takes their unique keys, and keeps the sweep away for `stage_lease`, while the publisher is alive.
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

    /// Terminal state or successor, result, and `then` staged, all in one write.
    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<SettleOutcome>;

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
}

/// A job recorded and not yet confirmed by the transport.
#[derive(Debug, Clone)]
pub struct StagedJob {
    /// Which job.
    pub job: JobRef,
    /// The copy to publish.
    pub envelope: Envelope,
    /// The store keeps it that long before it is due for publication (a delay beyond the transport's cap).
    pub hold: Option<Duration>,
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
    /// Which job.
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
