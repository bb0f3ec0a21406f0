//! Whether everything answers, and how far behind it is.

use std::time::Duration;

use queue_core::{Error, ErrorCode, JobScheduler, QueueName, Timestamp, stats::QueueStats};
use serde::{Deserialize, Serialize};

use crate::{config::Config, route::Member};

/// Whether everything answers, and how far behind it is. It serialises to JSON as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// The worst of the providers'.
    pub status: HealthStatus,
    /// One entry for each provider.
    pub providers: Vec<ProviderHealth>,
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
    /// How long ago this process's maintenance task did its last round. Absent before the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub maintenance_age_ms: Option<u64>,
    /// Its queues by name, at most [`HealthReport::MAX_QUEUES`].
    pub queues: Vec<QueueHealth>,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthFault {
    /// One of [`ErrorCode`]'s words.
    pub code: String,
    /// For people.
    pub message: String,
}

/// How a queue is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueHealth {
    /// The queue.
    pub queue: QueueName,
    /// Whether workers are held back.
    pub paused: bool,
    /// Ready to be claimed.
    pub pending: u64,
    /// Leased.
    pub running: u64,
    /// Dead.
    pub dead: u64,
    /// How long the job that waits longest has been ready. Absent where none is, or the provider cannot tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oldest_pending_ms: Option<u64>,
}

impl HealthReport {
    /// The most queues that are looked at, per provider.
    pub const MAX_QUEUES: usize = 1_000;

    pub(crate) fn new(providers: Vec<ProviderHealth>) -> Self {
        let status = providers.iter().map(|provider| provider.status).max().unwrap_or(HealthStatus::Healthy);
        Self { status, providers }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status == HealthStatus::Healthy
    }
}

/// Asks one provider.
pub(crate) async fn examine(member: &Member, config: &Config) -> ProviderHealth {
    let Member { scheduler, url } = member;
    let mut health = ProviderHealth {
        provider: scheduler.provider().scheme().to_owned(),
        url: url.as_ref().map(ToString::to_string),
        status: HealthStatus::Healthy,
        faults: Vec::new(),
        ping_ms: None,
        maintenance_age_ms: None,
        queues: Vec::new(),
    };
    let limit = config.provider.ping_timeout;
    health.maintenance(scheduler, config.maintenance.stale_after);
    let clock = &scheduler.env().clock;
    let sent = clock.monotonic();
    match within(limit, "ping", scheduler.provider().ping()).await {
        Ok(()) => health.ping_ms = Some(millis(clock.monotonic().saturating_sub(sent))),
        Err(error) => {
            health.fault(HealthStatus::Down, &error);
            return health;
        }
    }
    match within(limit, "stats", queues(scheduler)).await {
        Ok(queues) => health.queues = queues,
        // A broker that cannot list its queues is no worse for it.
        Err(error) if error.code() == ErrorCode::Unsupported => {}
        Err(error) => health.fault(HealthStatus::Degraded, &error),
    }
    health
}

impl ProviderHealth {
    fn maintenance(&mut self, scheduler: &JobScheduler, stale_after: Duration) {
        let Some(last) = scheduler.last_maintenance() else { return };
        let age = scheduler.env().now() - last;
        self.maintenance_age_ms = Some(millis(age));
        if age > stale_after {
            let message = format!("the maintenance task did its last round {age:?} ago: see the log for its errors");
            self.fault(HealthStatus::Degraded, &Error::new(ErrorCode::Unavailable, message));
        }
    }

    fn fault(&mut self, status: HealthStatus, error: &Error) {
        self.status = self.status.max(status);
        self.faults.push(HealthFault { code: error.code().as_str().to_owned(), message: error.message().to_owned() });
    }
}

async fn within<T>(
    limit: Duration,
    operation: &'static str,
    answer: impl Future<Output = queue_core::Result<T>>,
) -> queue_core::Result<T> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let message = format!("the provider did not answer within {limit:?}");
        Err(Error::new(ErrorCode::Timeout, message).at(operation))
    })
}

async fn queues(scheduler: &JobScheduler) -> queue_core::Result<Vec<QueueHealth>> {
    let admin = scheduler.admin();
    let names = admin.queues("", None, HealthReport::MAX_QUEUES).await?.items;
    let now = scheduler.env().now();
    let mut queues = Vec::with_capacity(names.len());
    for stats in admin.stats(&names).await {
        match stats {
            Ok(stats) => queues.push(queue(stats, now)),
            // It was dropped in between.
            Err(error) if error.code() == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(queues)
}

fn queue(stats: QueueStats, now: Timestamp) -> QueueHealth {
    QueueHealth {
        paused: stats.paused,
        pending: stats.pending,
        running: stats.running,
        dead: stats.dead,
        oldest_pending_ms: stats.oldest_pending.map(|oldest| millis(now - oldest)),
        queue: stats.queue,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
