//! Taking jobs out.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    config::defaults,
    error::{Error, Result},
    job::{Envelope, JobError, JobId, QueueName},
};

/// One consumer of one queue. Everything takes `&self`: fetching, settling and beating run at the same time.
#[async_trait]
pub trait Consumer: Debug + Send + Sync {
    /// Waits up to `wait` for the first delivery, then returns what is there, at most `max`. What is returned is leased.
    /// It goes on waiting while all it got was to be dropped (cancelled, expired, an old copy). After [`Self::close`] it
    /// returns empty. The worker never drops this future.
    ///
    /// An empty answer before `wait` has passed is given after [`Self::close`] only: the worker fetches in a loop.
    ///
    /// # Errors
    /// * `UNAVAILABLE` while the broker is away; the caller waits a little and calls again.
    /// * `NOT_FOUND` once the queue was dropped, where the broker knows; elsewhere nothing comes until it is there again.
    /// * `CLOSED` once the provider was closed.
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;

    /// Ends deliveries: one outcome per item, in order. Repeating a settlement whose answer was lost is safe.
    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome>;

    /// Keeps leases alive, marks starts, carries progress and logs out and the cancel flag in.
    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome>;

    /// How many jobs may be out and buffered together. Zero (pause, drain) ends the subscription and returns the buffer.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    async fn demand(&self, outstanding: usize) -> Result<()>;

    /// Ends intake, makes pending fetches return empty, returns what is buffered, and keeps receipts settleable until they
    /// are all settled or the deadline passes.
    async fn close(&self, deadline: Duration) -> CloseReport;
}

/// How to consume.
#[derive(Debug, Clone)]
pub struct ConsumeOptions {
    /// Who holds the leases, for people.
    pub worker: Arc<str>,
    /// How many jobs may be out and buffered together at first; see [`Consumer::demand`].
    pub outstanding: usize,
    /// How long a claim holds without a heartbeat, where the lease model is per message.
    pub lease: Duration,
}

impl ConsumeOptions {
    /// The default lease and room for `outstanding` jobs.
    pub fn new(worker: impl Into<Arc<str>>, outstanding: usize) -> Self {
        Self { worker: worker.into(), outstanding, lease: defaults::LEASE }
    }
}

/// What [`Consumer::close`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CloseReport {
    /// Buffered deliveries given back unstarted.
    pub returned: usize,
    /// Receipts that were out and unsettled at the deadline; their leases will expire.
    pub still_open: usize,
}

/// A leased job. It may be started only while its lease stands on the local monotonic clock.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// See [`crate::job::JobRef::place`].
    pub place: u16,
    /// The job.
    pub envelope: Envelope,
    /// What settles it.
    pub receipt: Receipt,
    /// How long it is held, and whether it is to be cancelled.
    pub lease: Lease,
    /// The record's attempt where there is one, else the envelope's.
    pub attempt: u32,
    /// *Started* deliveries before this one that ended in a lost lease; at `max_deliveries` the scheduler dead-letters it as
    /// poison. A delivery that was settled in time is not counted: a job that is retried or snoozed for ever is healthy.
    pub started_before: u32,
    /// It was claimed before without being settled, as far as the provider knows (a session broker also says so of what it
    /// took back unstarted, and with records it stays so while all who had it since gave it back without a marked start): its
    /// start must be marked (`Beat::started`, awaited) before its handler
    /// runs. First deliveries need no mark, so the happy path pays nothing and a process killer is counted from its second
    /// run on.
    pub redelivered: bool,
}

/// Fences a delivery: opaque, small, `Copy`. It holds whichever of lease epoch, connection incarnation and assignment epoch
/// applies. What does not fit the consumer keeps until the delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The job.
    pub id: JobId,
    /// The provider's address of the delivery.
    pub slot: u64,
    /// What makes a later claim's receipt another one.
    pub epoch: u64,
}

/// A hold on a job. Durations, never instants: clocks differ.
#[derive(Debug, Clone)]
pub struct Lease {
    /// `None`: as long as the session lives, up to `max_hold`.
    pub remaining: Option<Duration>,
    /// Somebody wants the job to stop.
    pub cancel: Option<Cancel>,
}

/// A request to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    /// Who asks, for people.
    pub by: Arc<str>,
    /// How long the handler may take to stop by itself.
    pub grace: Duration,
}

impl Cancel {
    /// A request with the default grace.
    pub fn by(who: impl Into<Arc<str>>) -> Self {
        Self { by: who.into(), grace: defaults::CANCEL_GRACE }
    }
}

/// What a delivery came to.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which delivery.
    pub receipt: Receipt,
    /// What becomes of the job.
    pub disposition: Disposition,
    /// Published with the settlement: atomically where `atomic_then` is native, else before the original is acknowledged,
    /// under ids that make a repetition harmless. A stale worker's are not published. Where it is native the settlement comes
    /// first, so that a follow-up may take over its parent's unique key.
    pub then: Vec<FollowUp>,
}

impl Settlement {
    /// A settlement without follow-ups.
    #[must_use]
    pub fn new(receipt: Receipt, disposition: Disposition) -> Self {
        Self { receipt, disposition, then: Vec::new() }
    }
}

/// A job that follows from another. Where its unique key is held it counts as done.
#[derive(Debug, Clone)]
pub struct FollowUp {
    /// Where it goes.
    pub queue: QueueName,
    /// The job, with a derived id.
    pub envelope: Envelope,
}

/// What becomes of a job after a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    /// It is done.
    Complete {
        /// What the handler returned.
        result: Option<Bytes>,
    },
    /// The same job again: attempt + 1, after the delay.
    Retry {
        /// Zero for at once.
        after: Duration,
        /// Why this attempt failed.
        error: JobError,
    },
    /// The same attempt again. Zero only for what goes back unstarted or at a shutdown, so that nothing spins.
    Release {
        /// The delay.
        after: Duration,
        /// Why.
        reason: ReleaseReason,
    },
    /// Waits, spending no attempt, until [`super::QueueProvider::unpark`] of the key, `at_most` that long (so that an unpark
    /// which came first is not missed for ever). Without a store: repeated `Release`, as the capability says.
    Park {
        /// What it waits for.
        key: ParkKey,
        /// The longest wait.
        at_most: Duration,
    },
    /// No further attempt.
    DeadLetter {
        /// Why.
        error: JobError,
    },
    /// It was asked to stop, and did.
    Cancelled,
    /// Its time to live had passed before it was started.
    Expired,
}

/// Why a job was handed back unspent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// The worker stops.
    Shutdown,
    /// The handler asked for it.
    Snooze,
    /// No room here.
    Busy,
    /// A limit holds it.
    Limited,
    /// A newer version wrote it; a newer worker can run it.
    NewerFormat,
}

/// What a parked job waits for: a limit's or a breaker's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParkKey(pub Arc<str>);

/// What became of a settlement.
#[derive(Debug, Clone)]
pub enum SettleOutcome {
    /// Done, once, by this call. Where `settle_confirmed` is false: sent.
    Settled,
    /// The same disposition was recorded before (the answer was lost). A bare session broker knows it only within the
    /// connection's life; after it, `LeaseLost`.
    AlreadySettled,
    /// Another disposition was recorded before; nothing was changed.
    Conflict,
    /// Someone else holds or finished the job. Nothing was changed, no follow-up was published.
    LeaseLost,
    /// Nothing was changed and the job is still leased here.
    NotSettled {
        /// The follow-up that could not be published.
        then_index: Option<usize>,
        /// Why.
        error: Error,
    },
    /// No answer. Settle the same again.
    Unknown(Error),
}

impl SettleOutcome {
    /// Whether the disposition stands.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(self, Self::Settled | Self::AlreadySettled)
    }
}

/// A sign of life for one delivery.
#[derive(Debug, Clone)]
pub struct Beat {
    /// Which delivery.
    pub receipt: Receipt,
    /// Its handler is about to run, or runs. Counted once a delivery, until that delivery is settled.
    pub started: bool,
    /// The new remaining lease; `None` leaves it.
    pub extend: Option<Duration>,
    /// JSON of [`crate::event::Progress`]; replaces what was said before. Dropped, like `logs`, where no record is kept.
    pub progress: Option<Bytes>,
    /// Lines to keep with the job, bounded by the provider.
    pub logs: Vec<Bytes>,
}

impl Beat {
    /// A beat that extends the lease and says nothing else.
    #[must_use]
    pub fn extend(receipt: Receipt, lease: Duration) -> Self {
        Self { receipt, started: false, extend: Some(lease), progress: None, logs: Vec::new() }
    }
}

/// What a beat found.
#[derive(Debug, Clone)]
pub enum BeatOutcome {
    /// Still held.
    Held(Lease),
    /// Held by someone else, or finished: abort the handler.
    Lost,
    /// No answer: go on until the last known lease ends on the local monotonic clock, then abort (self-fencing).
    Unknown(Error),
}
