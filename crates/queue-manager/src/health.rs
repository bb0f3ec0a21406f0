//! Whether everything answers, how far behind it is, and whether the workers of this process consume.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, JobScheduler, QueueName, Timestamp,
    stats::QueueStats,
    worker::{PoolStatus, WorkerStatus},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, ProviderName},
    routes::Member,
};

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
///       "queue": "mail", "paused": false, "pending": 3, "parked": 0, "running": 2, "dead": 0, "oldest_pending_ms": 41
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
    /// How long the job that waits longest has been ready. Absent where none is, or the provider cannot tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oldest_pending_ms: Option<u64>,
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
        let providers = self.providers.iter().map(|provider| (&provider.name, provider.status));
        (self.status, self.live, providers.collect())
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.status == HealthStatus::Healthy
    }
}

/// Asks one provider, and looks at the workers that take jobs from it.
pub(crate) async fn examine(member: &Member, config: &Config) -> (ProviderHealth, Vec<WorkerHealth>) {
    let Member { name, scheduler, url } = member;
    let mut health = ProviderHealth {
        name: name.clone(),
        provider: scheduler.provider().scheme().to_owned(),
        url: url.as_ref().map(ToString::to_string),
        status: HealthStatus::Healthy,
        faults: Vec::new(),
        ping_ms: None,
        maintenance_age_ms: None,
        queues: Vec::new(),
    };
    health.maintenance(scheduler, config.maintenance.stale_after);
    let workers = workers(name, scheduler.workers());
    health.consumption(&workers);
    health.answers(scheduler, config.provider.ping_timeout).await;
    health.progress(&workers, config.health.oldest_pending);
    (health, workers)
}

fn workers(provider: &ProviderName, workers: Vec<WorkerStatus>) -> Vec<WorkerHealth> {
    let of = |worker: WorkerStatus| {
        let health = move |pool: PoolStatus| WorkerHealth {
            name: Arc::clone(&worker.name),
            provider: provider.clone(),
            queue: pool.queue,
            consuming: pool.consuming,
            fetched_ago_ms: millis(pool.fetched_ago),
            slots: pool.slots,
            busy: pool.busy,
            unhealthy: pool.unhealthy,
        };
        worker.pools.into_iter().map(health)
    };
    workers.into_iter().flat_map(of).collect()
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

    async fn answers(&mut self, scheduler: &JobScheduler, limit: Duration) {
        let clock = &scheduler.env().clock;
        let sent = clock.monotonic();
        match within(limit, "ping", scheduler.provider().ping()).await {
            Ok(()) => self.ping_ms = Some(millis(clock.monotonic().saturating_sub(sent))),
            Err(error) => return self.fault(HealthStatus::Down, &error),
        }
        match within(limit, "stats", queues(scheduler)).await {
            Ok(queues) => self.queues = queues,
            // A broker that cannot list its queues is no worse for it.
            Err(error) if error.code() == ErrorCode::Unsupported => {}
            Err(error) => self.fault(HealthStatus::Degraded, &error),
        }
    }

    fn consumption(&mut self, workers: &[WorkerHealth]) {
        for WorkerHealth { name, queue, consuming, unhealthy, fetched_ago_ms, .. } in workers {
            if !consuming {
                let message =
                    format!("worker {name} does not consume queue {queue}: its last fetch is {fetched_ago_ms} ms ago");
                self.fault(HealthStatus::Degraded, &Error::new(ErrorCode::Unavailable, message));
            }
            if *unhealthy > 0 {
                let message =
                    format!("{unhealthy} slots of worker {name} on queue {queue} do not answer: a handler blocks");
                self.fault(HealthStatus::Degraded, &Error::new(ErrorCode::Unavailable, message));
            }
        }
    }

    /// Of queues that somebody here works on: another process's may be behind for reasons of its own.
    fn progress(&mut self, workers: &[WorkerHealth], bound: Option<Duration>) {
        let Some(bound) = bound else { return };
        let late = |queue: &&QueueHealth| {
            let worked_on = workers.iter().any(|worker| worker.queue == queue.queue);
            // Those that are parked wait for something else than a worker.
            let held = queue.paused || queue.parked >= queue.pending;
            worked_on && !held && queue.oldest_pending_ms.is_some_and(|oldest| u128::from(oldest) > bound.as_millis())
        };
        let late: Vec<_> =
            self.queues.iter().filter(late).map(|queue| (queue.queue.clone(), queue.oldest_pending_ms)).collect();
        for (queue, oldest) in late {
            let oldest = Duration::from_millis(oldest.unwrap_or_default());
            let message = format!(
                "a job of queue {queue} has waited {oldest:?} although a worker is here: add slots, or look at what they do"
            );
            self.fault(HealthStatus::Degraded, &Error::new(ErrorCode::Timeout, message));
        }
    }

    fn fault(&mut self, status: HealthStatus, error: &Error) {
        self.status = self.status.max(status);
        self.faults.push(HealthFault::from(error));
    }
}

pub(crate) async fn within<T>(
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
        parked: stats.parked,
        running: stats.running,
        dead: stats.dead,
        oldest_pending_ms: stats.oldest_pending.map(|oldest| millis(now - oldest)),
        queue: stats.queue,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
