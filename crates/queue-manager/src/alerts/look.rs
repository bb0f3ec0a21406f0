//! What the watcher asks a provider.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, JobScheduler, QueueName, Result,
    job::SlaClass,
    lifecycle::JobState,
    provider::LeaseModel,
    stats::QueueStats,
    store::{JobQuery, JobRecord},
};
use tokio::time::{Instant, timeout_at};

use super::judge::{Judge, LateJob};
use crate::listing::{self, Numbers};

/// Records looked at for one that is late.
const SAMPLE: usize = 100;

/// The numbers of the provider's queues: one listing, and one call for every few of them. Where the time is too short for all it keeps
/// what it has, and the next look is `from` the first that was late.
pub(super) async fn stats(
    scheduler: JobScheduler,
    named: Arc<[QueueName]>,
    from: Option<QueueName>,
    limit: Duration,
) -> Result<Numbers> {
    let until = Instant::now() + limit;
    let late = |_| Err(Error::new(ErrorCode::Timeout, format!("no answer within {limit:?}")).at("stats"));
    let mut names = timeout_at(until, names(&scheduler, &named)).await.unwrap_or_else(late)?;
    if let Some(from) = from {
        let at = names.partition_point(|name| *name < from);
        names.rotate_left(at);
    }
    let numbers = listing::numbers(&scheduler, &names, until).await;
    match numbers.error {
        Some(error) if numbers.told.is_empty() => Err(error),
        error => Ok(Numbers { error, ..numbers }),
    }
}

/// The provider's queues, and those that the configuration names: it may be that nobody could list them.
async fn names(scheduler: &JobScheduler, named: &[QueueName]) -> Result<Vec<QueueName>> {
    let mut names = listing::names(scheduler, "", Judge::MAX_QUEUES).await?;
    names.extend_from_slice(named);
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Whether the numbers of a queue tell that somebody takes jobs. A bare RabbitMQ counts neither what is out nor what ended, so that a
/// queue at work looks like one that nobody works on.
pub(super) fn shows_takers(scheduler: &JobScheduler, queue: &QueueName) -> bool {
    let can = scheduler.provider().capabilities(Some(&scheduler.spec(queue)));
    can.exact_depth.is_supported() || matches!(can.lease, LeaseModel::PerMessage { .. })
}

/// The class of the queue, if the job that waits longest for its turn has been there for longer than the class allows.
pub(super) fn overdue(scheduler: &JobScheduler, stats: &QueueStats) -> Option<SlaClass> {
    let class = scheduler.spec(&stats.queue).sla?;
    let waited = stats.oldest_pending?.until(scheduler.env().now());
    (waited > class.target()).then_some(class)
}

/// The latest of the queue's unfinished jobs, or of the first few of them.
pub(super) async fn late(
    scheduler: JobScheduler,
    queue: QueueName,
    class: SlaClass,
    limit: Duration,
) -> Option<LateJob> {
    let query = JobQuery::queue(queue).in_states([JobState::Pending, JobState::Running]);
    let listed = scheduler.store().ok()?.list(&query, None, SAMPLE);
    let page = tokio::time::timeout(limit, listed).await.ok()?.ok()?;
    let now = scheduler.env().now();
    let lateness = |record: &JobRecord| {
        let target = record.envelope.sla().unwrap_or(class).target();
        let actual = record.submitted_at.until(now);
        let late = LateJob { job: record.job.id, actual, target, unfinished: true };
        actual.checked_sub(target).filter(|by| !by.is_zero()).map(|by| (by, late))
    };
    page.items.iter().filter_map(lateness).max_by_key(|(by, _)| *by).map(|(_, late)| late)
}
