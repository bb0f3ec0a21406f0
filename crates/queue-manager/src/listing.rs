//! Which queues a provider has, also where its broker cannot list them, and their numbers.

use queue_core::{Error, ErrorCode, JobScheduler, QueueName, Result, stats::QueueStats};
use tokio::time::{Instant, timeout_at};

/// Names asked for at once.
const PAGE: usize = 1_000;
/// Queues whose numbers are asked for at once. A RabbitMQ may take half a second for a queue; what one call told is kept.
const COUNTED: usize = 32;

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

/// What some queues were told to hold before the time was over.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    /// In the order in which they were asked for; those that are gone are left out.
    pub(crate) told: Vec<QueueStats>,
    /// Queues that were not told, because of an error or of the time: nothing is known of them.
    pub(crate) untold: Vec<QueueName>,
    /// The first for which the time was too short.
    pub(crate) late: Option<QueueName>,
    /// The first error; one of the time only where nothing at all was answered.
    pub(crate) error: Option<Error>,
}

/// The numbers of these queues, as far as they are told until then.
pub(crate) async fn numbers(scheduler: &JobScheduler, names: &[QueueName], until: Instant) -> Numbers {
    let admin = scheduler.admin();
    let mut numbers = Numbers::default();
    for (at, chunk) in names.chunks(COUNTED).enumerate() {
        let Ok(answers) = timeout_at(until, admin.stats(chunk)).await else {
            let late = &names[at * COUNTED..];
            numbers.untold.extend_from_slice(late);
            numbers.late = late.first().cloned();
            if at == 0 {
                numbers.error = Some(Error::new(ErrorCode::Timeout, "the provider did not answer in time").at("stats"));
            }
            break;
        };
        for (queue, answer) in chunk.iter().zip(answers) {
            match answer {
                Ok(stats) => numbers.told.push(stats),
                // It was dropped in between, or was never there.
                Err(error) if error.code() == ErrorCode::NotFound => {}
                Err(error) => {
                    numbers.untold.push(queue.clone());
                    numbers.error.get_or_insert(error);
                }
            }
        }
    }
    numbers
}
