//! Whether everything answers, how far behind it is, and whether the workers of this process consume.

mod examine;

pub(crate) use examine::{examine, within};

use std::sync::Arc;

use queue_core::{Error, QueueName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::ProviderName;

/// Whether everything answers, how far behind it is, and whether the workers of this process consume. It serialises to JSON as
/// it stands; what is absent is left out:
///
/// ```json
/// {
///   "status": "healthy",
///   "live": true,
///   "providers": [{
///     "name": "default", "provider": "memory", "url": "memory:", "status": "healthy", "faults": [],
///     "ping_ms": 0, "maintenance_age_ms": 312,
///     "queues": [{
///       "queue": "mail", "paused": false, "pending": 3, "parked": 0, "running": 2, "dead": 0, "oldest_pending_ms": 41,
///       "oldest_claimable_ms": 41
///     }]
///   }],
///   "workers": [{
///     "name": "worker-17-4f2a", "provider": "default", "queue": "mail", "consuming": true, "fetched_ago_ms": 12,
///     "slots": 4, "busy": 2, "unhealthy": 0
///   }]
/// }
/// ```
///
/// A status is `healthy`, `degraded` or `down`; a fault is `{"code": "TIMEOUT", "message": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// The worst of the providers'.
    pub status: HealthStatus,
    /// See [`HealthReport::is_live`].
    pub live: bool,
    /// One entry for each provider.
    pub providers: Vec<ProviderHealth>,
    /// One entry for each queue of each worker of this process, by name.
    pub workers: Vec<WorkerHealth>,
}

/// How one queue's slots in a worker of this process are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerHealth {
    /// The worker.
    pub name: Arc<str>,
    /// The provider that it takes the jobs from.
    pub provider: ProviderName,
    /// The queue.
    pub queue: QueueName,
    /// Whether jobs come in: a fetch waits or has just ended well, and there are slots that answer.
    pub consuming: bool,
    /// How long ago the last fetch ended well, or a waiting one began.
    pub fetched_ago_ms: u64,
    /// Slots.
    pub slots: usize,
    /// Of these, running a job.
    pub busy: usize,
    /// Slots that do not answer and were replaced, and are not back yet.
    pub unhealthy: usize,
}

/// From good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It answers, and the maintenance is up to date.
    Healthy,
    /// It answers; something beside it does not work.
    Degraded,
    /// It does not answer.
    Down,
}

/// How a provider is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProviderHealth {
    /// What the configuration calls it.
    pub name: ProviderName,
    /// Its scheme.
    pub provider: String,
    /// Where it is, without credentials. Absent where the program brought the provider itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// How it is.
    pub status: HealthStatus,
    /// What does not work.
    pub faults: Vec<HealthFault>,
    /// How long its answer took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ping_ms: Option<u64>,
    /// How long ago this process's maintenance task did its last round. Absent before the first that went well: where that does
    /// not come, there is a fault.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub maintenance_age_ms: Option<u64>,
    /// The store that it is paired with. Absent where it keeps the records of its jobs itself, or has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub store: Option<StoreHealth>,
    /// Its queues by name, at most [`HealthReport::MAX_QUEUES`], and of these as many as are counted within `provider.ping_timeout`:
    /// those first that workers of this process take jobs from.
    pub queues: Vec<QueueHealth>,
}

/// How the store is that a provider is paired with. While it is down publishing goes on (jobs with a unique key are refused), what
/// runs goes on, and nothing new is claimed: so its provider is degraded, not down.
///
/// ```json
/// { "url": "redis://***@host", "called": "amqp", "status": "down", "away_ms": 4100, "since": 1700000000000,
///   "settlements_waiting": 3 }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoreHealth {
    /// Where it is, without credentials. Absent where the program brought it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// What the provider is called in it.
    pub called: String,
    /// `healthy` or `down`.
    pub status: HealthStatus,
    /// Since when it does not answer, as far as this process noticed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Timestamp>,
    /// The same as a duration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub away_ms: Option<u64>,
    /// Jobs of this process that are done and whose settlement waits for it.
    pub settlements_waiting: usize,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthFault {
    /// One of [`queue_core::ErrorCode`]'s words.
    pub code: String,
    /// For people.
    pub message: String,
}

impl From<&Error> for HealthFault {
    fn from(error: &Error) -> Self {
        Self { code: error.code().as_str().to_owned(), message: error.message().to_owned() }
    }
}

/// How a queue is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueHealth {
    /// The queue.
    pub queue: QueueName,
    /// Whether workers are held back.
    pub paused: bool,
    /// Ready to be claimed, parked ones included.
    pub pending: u64,
    /// Of these, waiting for a limit or a breaker.
    pub parked: u64,
    /// Leased.
    pub running: u64,
    /// Dead.
    pub dead: u64,
    /// How long the job that waits longest has been ready. Absent, and not zero, where none is, or where nobody can tell: the
    /// broker keeps no times (RabbitMQ) and no store stands beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oldest_pending_ms: Option<u64>,
    /// The same of those that are not behind a full partition: how long workers have left one that they could take.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oldest_claimable_ms: Option<u64>,
}

impl HealthReport {
    /// The most queues that are looked at, per provider.
    pub const MAX_QUEUES: usize = 1_000;

    pub(crate) fn new(examined: Vec<(ProviderHealth, Vec<WorkerHealth>)>) -> Self {
        let (providers, workers): (Vec<_>, Vec<_>) = examined.into_iter().unzip();
        let mut workers: Vec<WorkerHealth> = workers.into_iter().flatten().collect();
        workers.sort_by(|a, b| (&a.name, &a.queue, &a.provider).cmp(&(&b.name, &b.queue, &b.provider)));
        let status = providers.iter().map(|provider| provider.status).max().unwrap_or(HealthStatus::Healthy);
        Self { status, live: workers.iter().all(|worker| worker.consuming), providers, workers }
    }

    /// Whether every worker of this process consumes, and does not merely run. A process without workers is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// What a change of is worth telling.
    pub(crate) fn outline(&self) -> (HealthStatus, bool, Vec<(&ProviderName, HealthStatus)>) {
        let of_store = |provider: &ProviderHealth| provider.store.as_ref().map(|store| store.status);
        let status = |provider: &ProviderHealth| of_store(provider).unwrap_or(provider.status).max(provider.status);
        let providers = self.providers.iter().map(|provider| (&provider.name, status(provider)));
        (self.status, self.live, providers.collect())
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status == HealthStatus::Healthy
    }
}
