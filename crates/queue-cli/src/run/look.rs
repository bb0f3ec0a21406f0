//! Looks at the records of open lines: most ends are reported by the worker, but nobody reports a job that expired while it
//! waited, or that was cancelled or finished elsewhere.

use std::{sync::Arc, time::Duration};

use queue_core::{
    error::ErrorCode,
    job::{JobError, JobRef},
    lifecycle::JobState,
    store::{JobRecord, JobStore, Lookup},
};

use super::{open::OpenJobs, reports::Fate};
use crate::{results::Status, resume::journal::Journal};

/// How often.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Where there are no records, a job that did not start so long after its time to live is taken for expired.
pub(super) const OVERDUE: Duration = Duration::from_secs(5);
/// So many lines each time, in turn: a full window is gone through in five rounds.
const AT_ONCE: usize = 2_000;
/// More ends than that in one round are no accident.
pub(super) const MANY: usize = 200;

/// A line that was found to have ended.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) job: JobRef,
    pub(super) fate: Fate,
    /// Attempts that its record counts.
    pub(super) attempts: u32,
}

/// One round.
pub(super) async fn look(store: Arc<dyn JobStore>, open: OpenJobs) -> Vec<Found> {
    let jobs = open.to_look_at(AT_ONCE);
    let mut ended = Vec::new();
    if jobs.is_empty() {
        return ended;
    }
    let lookups = store.get(&jobs).await;
    for (job, lookup) in jobs.into_iter().zip(lookups) {
        match lookup {
            Ok(Lookup::Found(record)) => {
                open.change(job.id, |open| (open.doubtful, open.missing) = (false, false));
                ended.extend(of_record(job, *record).filter(|found| is_believed(found, &open)));
            }
            Ok(Lookup::Gone | Lookup::NotFound) => ended.extend(of_nothing(job, &open)),
            // The store is away: the next round asks again.
            Ok(Lookup::Unknown) | Err(_) => {}
        }
    }
    ended
}

/// One round, whose ends are on disk where there is a journal. What is not there yet is found again in the next round.
pub(super) async fn look_and_wait(
    store: Arc<dyn JobStore>,
    open: OpenJobs,
    journal: Option<Arc<dyn Journal>>,
) -> Vec<Found> {
    let found = look(store, open).await;
    match journal {
        Some(journal) if !found.is_empty() && !journal.settled().await => Vec::new(),
        _ => found,
    }
}

fn of_record(job: JobRef, record: JobRecord) -> Option<Found> {
    let fate = match record.state {
        JobState::Completed => Fate { status: Status::Completed, result: record.result, error: None },
        JobState::Dead => Fate { status: Status::Dead, result: None, error: record.error },
        JobState::Cancelled => Fate::cancelled(),
        JobState::Expired => Fate::expired(),
        _ => return None,
    };
    let attempts = if record.started_at.is_some() { record.attempt } else { 0 };
    Some(Found { job, fate, attempts })
}

fn is_believed(found: &Found, open: &OpenJobs) -> bool {
    let mut believed = true;
    open.change(found.job.id, |open| believed = open.is_surely_over(found.attempts));
    believed
}

/// A record that is gone was one of a finished job. Its report may be on the way, so it is believed only when it is still
/// gone in the next round.
fn of_nothing(job: JobRef, open: &OpenJobs) -> Option<Found> {
    let (mut again, mut expired) = (false, false);
    open.change(job.id, |open| {
        again = std::mem::replace(&mut open.missing, true);
        expired = open.is_expired();
    });
    let message = "it is gone from its queue: somebody cancelled it, or it ended elsewhere";
    let fate = match expired {
        true => Fate::expired(),
        false => Fate::failed(Status::Cancelled, JobError::new(ErrorCode::NotFound, message)),
    };
    again.then_some(Found { job, fate, attempts: 0 })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use queue_core::{
        JobScheduler, QueueName,
        job::JobKind,
        provider::{Cancel, PublishOptions},
        scheduler::{NewJob, Submitted},
    };

    use super::*;
    use crate::{feed::OpenLine, input::Text, run::open::OpenJob, window::Window};

    fn none_open() -> OpenJobs {
        OpenJobs::new(QueueName::new("q").unwrap(), queue_core::JobId::from_bytes([7; 16]))
    }

    async fn memory() -> JobScheduler {
        queue_manager::QueueManager::connect("memory:").await.unwrap().scheduler("q").unwrap().clone()
    }

    /// A job that waits, and its line.
    async fn opened(queues: &JobScheduler, open: &OpenJobs, ttl: Option<Duration>) -> JobRef {
        let mut job = NewJob::new(JobKind::new("exec").unwrap(), "1");
        job.options.ttl = ttl;
        let answers = queues.submit(&QueueName::new("q").unwrap(), vec![job], &PublishOptions::default()).await;
        let [Submitted::Accepted(job)] = &answers[..] else { panic!("{answers:?}") };
        let line = OpenLine::new(1, Text::Utf8(Bytes::new()), Window::default().enter(1).await.unwrap());
        open.open(OpenJob::new(line, job.id, tokio::time::Instant::now(), None, ttl));
        open.accepted(job);
        job.clone()
    }

    async fn seen(queues: &JobScheduler, open: &OpenJobs) -> Vec<Status> {
        let found = look(Arc::clone(queues.store().unwrap()), open.clone()).await;
        found.into_iter().map(|found| found.fate.status).collect()
    }

    #[tokio::test]
    async fn what_ended_elsewhere_is_found() {
        let (queues, open) = (memory().await, none_open());
        let job = opened(&queues, &open, None).await;
        assert_eq!(seen(&queues, &open).await, [], "it waits");
        queues.cancel(&job, &Cancel::by("somebody")).await.unwrap();
        assert_eq!(seen(&queues, &open).await, [Status::Cancelled]);
        open.take(job.id).unwrap();
        assert_eq!(seen(&queues, &open).await, []);
    }

    #[tokio::test]
    async fn what_expired_is_found() {
        let (queues, open) = (memory().await, none_open());
        opened(&queues, &open, Some(Duration::from_millis(20))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(seen(&queues, &open).await, [Status::Expired]);
    }

    #[tokio::test]
    async fn what_ran_is_believed_when_its_report_was_heard_or_the_second_time() {
        let (queues, open) = (memory().await, none_open());
        let handler = tower::service_fn(|_| async { Ok::<_, queue_core::worker::Failure>(None) });
        for heard in [false, true] {
            let job = opened(&queues, &open, None).await;
            let worker = queues.worker().queue("q", 1).fallback(handler).start().await.unwrap();
            while !queues.get(&job).await.unwrap().state.is_terminal() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            worker.stop().await;
            if heard {
                open.change(job.id, |open| open.ran(1, tokio::time::Instant::now(), Duration::from_secs(1)));
            } else {
                assert_eq!(seen(&queues, &open).await, [], "its report is on the way");
                assert_eq!(open.to_look_at(0), std::slice::from_ref(&job), "soon, and not in its turn");
            }
            assert_eq!(seen(&queues, &open).await, [Status::Completed]);
            open.take(job.id).unwrap();
            let job = opened(&queues, &open, None).await;
            queues.cancel(&job, &Cancel::by("somebody")).await.unwrap();
            assert_eq!(seen(&queues, &open).await, [Status::Cancelled], "it never ran");
            open.take(job.id).unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_gone_is_believed_the_second_time() {
        let (queues, open) = (memory().await, none_open());
        for (ttl, status) in [(None, Status::Cancelled), (Some(Duration::from_millis(20)), Status::Expired)] {
            let job = opened(&queues, &open, ttl).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            queues.provider().drop_queue(&job.queue, false).await.unwrap();
            assert_eq!(seen(&queues, &open).await, []);
            assert_eq!(seen(&queues, &open).await, [status]);
            open.take(job.id).unwrap();
        }
    }
}
