//! What the watcher asks a provider.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, JobScheduler, QueueName, Result,
    job::SlaClass,
    lifecycle::JobState,
    provider::QueueAdmin,
    stats::QueueStats,
    store::{JobQuery, JobRecord},
};

use super::judge::{Judge, LateJob};

/// Names asked for at once in a listing of all queues.
const PAGE: usize = 1_000;
/// Records looked at for one that is late.
const SAMPLE: usize = 100;

/// The numbers of the provider's queues: one listing and one call.
pub(super) async fn stats(
    scheduler: JobScheduler,
    named: Arc<[QueueName]>,
    limit: Duration,
) -> Result<Vec<QueueStats>> {
    let asked = async {
        let admin = scheduler.admin();
        let names = names(&*admin, &named).await?;
        let mut all = Vec::with_capacity(names.len());
        for stats in admin.stats(&names).await {
            match stats {
                Ok(stats) => all.push(stats),
                // It was dropped in between, or never came to be.
                Err(error) if error.code() == ErrorCode::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    };
    let late = |_| Err(Error::new(ErrorCode::Timeout, format!("no answer within {limit:?}")).at("stats"));
    tokio::time::timeout(limit, asked).await.unwrap_or_else(late)
}

/// The provider's queues; where it cannot list them, those that the configuration names.
async fn names(admin: &dyn QueueAdmin, named: &[QueueName]) -> Result<Vec<QueueName>> {
    let (mut all, mut cursor) = (Vec::new(), None);
    while all.len() < Judge::MAX_QUEUES {
        let page = match admin.queues("", cursor, PAGE).await {
            Err(error) if error.code() == ErrorCode::Unsupported => return Ok(named.to_vec()),
            page => page?,
        };
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    Ok(all)
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
