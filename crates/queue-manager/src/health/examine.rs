//! Asking one provider, and looking at the workers that take jobs from it.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, JobScheduler, QueueName, Timestamp,
    stats::QueueStats,
    worker::{PoolStatus, WorkerStatus},
};
use tokio::time::Instant;

use super::{HealthFault, HealthReport, HealthStatus, ProviderHealth, QueueHealth, StoreHealth, WorkerHealth};
use crate::{
    config::{Config, ProviderName},
    listing,
    routes::Member,
};

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
        store: None,
        queues: Vec::new(),
    };
    health.maintenance(scheduler, config.maintenance.stale_after);
    let workers = workers(name, scheduler.workers());
    health.consumption(&workers);
    health.answers(scheduler, &workers, config.provider.ping_timeout).await;
    health.records(scheduler);
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
        let last = scheduler.last_maintenance();
        // One that never did a round is as old as itself.
        let Some(since) = last.or_else(|| scheduler.maintained_since()) else { return };
        let age = scheduler.env().now() - since;
        self.maintenance_age_ms = last.map(|_| millis(age));
        if age > stale_after {
            let message = match last {
                Some(_) => format!("the maintenance task did its last round {age:?} ago: see the log for its errors"),
                None => {
                    format!(
                        "the maintenance task has done no round since it began {age:?} ago: see the log for its errors"
                    )
                }
            };
            self.fault(HealthStatus::Degraded, &Error::new(ErrorCode::Unavailable, message));
        }
    }

    async fn answers(&mut self, scheduler: &JobScheduler, workers: &[WorkerHealth], limit: Duration) {
        let clock = &scheduler.env().clock;
        let sent = clock.monotonic();
        match within(limit, "ping", scheduler.provider().ping()).await {
            Ok(()) => self.ping_ms = Some(millis(clock.monotonic().saturating_sub(sent))),
            Err(error) => return self.fault(HealthStatus::Down, &error),
        }
        let until = Instant::now() + limit;
        let error = match within(limit, "stats", listing::names(scheduler, "", HealthReport::MAX_QUEUES)).await {
            Ok(names) => self.count(scheduler, workers, names, until).await,
            Err(error) => Some(error),
        };
        // A broker that cannot count is no worse for it.
        if let Some(error) = error.filter(|error| error.code() != ErrorCode::Unsupported) {
            self.fault(HealthStatus::Degraded, &error);
        }
    }

    /// Those first that somebody here works on: of many there may not be the time for all, which is no fault.
    async fn count(
        &mut self,
        scheduler: &JobScheduler,
        workers: &[WorkerHealth],
        mut names: Vec<QueueName>,
        until: Instant,
    ) -> Option<Error> {
        names.sort_by_cached_key(|name| !workers.iter().any(|worker| worker.queue == *name));
        let numbers = listing::numbers(scheduler, &names, until).await;
        let now = scheduler.env().now();
        self.queues = numbers.told.into_iter().map(|stats| queue(stats, now)).collect();
        self.queues.sort_unstable_by(|a, b| a.queue.cmp(&b.queue));
        numbers.error
    }

    /// What the ping, or whoever asked last, noticed of the store.
    fn records(&mut self, scheduler: &JobScheduler) {
        let Some(paired) = scheduler.provider().paired() else { return };
        let now = scheduler.env().now();
        if let Some(away) = &paired.away {
            let message = format!(
                "its store has not answered for {:.1?}, so nothing is claimed, and {} settlements wait: {}",
                now - away.since,
                paired.waiting,
                away.error
            );
            self.fault(HealthStatus::Degraded, &Error::new(ErrorCode::Unavailable, message));
        }
        self.store = Some(StoreHealth {
            url: paired.url.map(|url| url.to_string()),
            called: paired.provider.to_string(),
            status: if paired.away.is_some() { HealthStatus::Down } else { HealthStatus::Healthy },
            since: paired.away.as_ref().map(|away| away.since),
            away_ms: paired.away.as_ref().map(|away| millis(now - away.since)),
            settlements_waiting: paired.waiting,
        });
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
            // Those that are parked, or behind a full partition, wait for something else than a worker.
            let held = queue.paused || queue.parked >= queue.pending;
            let waited = queue.oldest_claimable_ms.map(u128::from);
            worked_on && !held && waited.is_some_and(|oldest| oldest > bound.as_millis())
        };
        let late: Vec<_> =
            self.queues.iter().filter(late).map(|queue| (queue.queue.clone(), queue.oldest_claimable_ms)).collect();
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

fn queue(stats: QueueStats, now: Timestamp) -> QueueHealth {
    QueueHealth {
        paused: stats.paused,
        pending: stats.pending,
        parked: stats.parked,
        running: stats.running,
        dead: stats.dead,
        oldest_pending_ms: stats.oldest_pending.map(|oldest| millis(now - oldest)),
        oldest_claimable_ms: stats.oldest_claimable().map(|oldest| millis(now - oldest)),
        queue: stats.queue,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
