//! Which queues a provider has, also where its broker cannot list them.

use queue_core::{ErrorCode, JobScheduler, QueueName, Result};

/// Names asked for at once.
const PAGE: usize = 1_000;

/// The names of a provider's queues, by name, at most so many: as it lists them itself, or the store that it is paired with does
/// for it; where nobody can, those that this process knows.
///
/// # Errors
/// `UNAVAILABLE`: then it could, and does not answer.
pub(crate) async fn names(scheduler: &JobScheduler, prefix: &str, most: usize) -> Result<Vec<QueueName>> {
    let admin = scheduler.admin();
    let (mut all, mut cursor) = (Vec::new(), None);
    while all.len() < most {
        let page = match admin.queues(prefix, cursor, PAGE.min(most - all.len())).await {
            Err(error) if error.code() == ErrorCode::Unsupported => return Ok(known(scheduler, prefix, most)),
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

fn known(scheduler: &JobScheduler, prefix: &str, most: usize) -> Vec<QueueName> {
    let known = scheduler.known_queues().into_iter();
    known.filter(|queue| queue.as_str().starts_with(prefix)).take(most).collect()
}
