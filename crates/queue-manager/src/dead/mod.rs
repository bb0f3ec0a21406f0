//! The dead jobs of a queue.

mod letter;
mod plan;

pub use letter::DeadLetter;
pub use plan::{RedrivePlan, RedriveProgress};

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, Job, JobId, JobRef, JobScheduler, QueueName, Result,
    lifecycle::JobState,
    provider::{Cursor, DeadFilter, DeadJob, Page, Redrive, RedriveReport},
    scheduler::NewJob,
};

/// The dead jobs of one queue: look at them, bring them back, remove them.
///
/// ```ignore
/// let dead = queues.dead_letters("mail")?;
/// let timeouts = DeadFilter { code: Some("TIMEOUT".into()), ..DeadFilter::default() };
/// let mut plan = dead.plan(&timeouts).await?;
/// println!("{} jobs would be brought back", plan.count());
/// plan.redrive().await?;
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    scheduler: JobScheduler,
    queue: QueueName,
}

/// Jobs listed or named in one call.
const BATCH: usize = 500;

impl DeadLetters {
    pub(crate) fn new(scheduler: JobScheduler, queue: QueueName) -> Self {
        Self { scheduler, queue }
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }
}

/// # Looking
impl DeadLetters {
    /// A page of those that match, the oldest first. Give its `next` back for the page after it.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` for a cursor of another listing.
    pub async fn list(&self, filter: &DeadFilter, cursor: Option<Cursor>, limit: usize) -> Result<Page<DeadJob>> {
        self.scheduler.admin().dead(&self.queue, filter, cursor, limit).await
    }

    /// How many match now.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn count(&self, filter: &DeadFilter) -> Result<u64> {
        let what = Redrive { dry_run: true, ..Redrive::matching(filter.clone()) };
        Ok(self.redrive(&what).await?.matched)
    }

    /// All that is known of one: its payload, why it is dead, and, where there is a store, its earlier failures and its log.
    /// Without a store, and for bytes that were no job, it walks through the dead jobs until it comes to it.
    ///
    /// # Errors
    /// `NOT_FOUND` where no dead job has this id; `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn get(&self, id: JobId) -> Result<DeadLetter> {
        let job = JobRef::new(self.queue.clone(), id);
        let record = match self.scheduler.get(&job).await {
            Ok(record) if record.state == JobState::Dead => Some(record),
            Ok(record) => return Err(self.not_dead(&format!("the job is {}, not dead", record.state.as_str()))),
            // It may be there all the same: on an untracked queue, or bytes that were no job.
            Err(_) => None,
        };
        match record.map(DeadLetter::of) {
            Some(Ok(letter)) => Ok(letter),
            _ => self.find(id).await,
        }
    }

    async fn find(&self, id: JobId) -> Result<DeadLetter> {
        let mut cursor = None;
        loop {
            let page = self.list(&DeadFilter::default(), cursor, BATCH).await?;
            if let Some(job) = page.items.into_iter().find(|job| job.id == id) {
                return Ok(DeadLetter { job, record: None });
            }
            cursor = page.next;
            if cursor.is_none() {
                return Err(self.not_dead("no dead job has this id"));
            }
        }
    }

    fn not_dead(&self, message: &str) -> Error {
        Error::new(ErrorCode::NotFound, message.to_owned()).at("dead").on(&self.queue)
    }
}

/// # Bringing back
///
/// A job that comes back begins at attempt 1, joins the tail of its priority and is not refused by `max_len`. One whose unique
/// key is held by another job stays dead.
impl DeadLetters {
    /// Notes which jobs match now, so that they can be counted first and are those that come back, whatever dies meanwhile.
    /// Nothing is changed. It takes one call for 500 jobs, and 16 bytes of memory for each; beyond
    /// [`RedrivePlan::MAX_JOBS`] the youngest are left for another plan.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn plan(&self, filter: &DeadFilter) -> Result<RedrivePlan> {
        RedrivePlan::make(self.clone(), filter).await
    }

    /// Gives jobs another life in one call. Where they may be many, [`DeadLetters::plan`] does it in parts.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` for an edited payload without exactly one named job; `PAYLOAD_TOO_LARGE`.
    pub async fn redrive(&self, what: &Redrive) -> Result<RedriveReport> {
        self.scheduler.admin().redrive(&self.queue, what).await
    }

    /// Gives one job another life.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn redrive_one(&self, id: JobId) -> Result<RedriveReport> {
        self.redrive(&Redrive::one(id)).await
    }

    /// Gives every job that is dead now another life, in parts.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn redrive_all(&self) -> Result<RedriveReport> {
        let mut all = RedriveReport::default();
        loop {
            let mut plan = self.plan(&DeadFilter::default()).await?;
            let report = plan.redrive().await?;
            all.matched += report.matched;
            all.redriven += report.redriven;
            all.duplicates += report.duplicates;
            // Those that stay dead would be planned again for ever.
            if plan.is_complete() || report.redriven == 0 {
                return Ok(all);
            }
        }
    }

    /// Gives one job another life with another payload.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE` where the queue does not take it: it stays dead; `UNSUPPORTED`, `UNAVAILABLE`; `VALIDATION` where
    /// the job's bytes could not be read, so that nothing in them can be replaced.
    pub async fn redrive_with_payload(&self, id: JobId, payload: impl Into<Bytes>) -> Result<RedriveReport> {
        self.redrive(&Redrive { payload: Some(payload.into()), ..Redrive::one(id) }).await
    }

    /// Gives one typed job another life after a change. What the change makes of it is checked as a submission is.
    ///
    /// ```ignore
    /// dead.redrive_edited::<SendEmail>(id, |job| job.to = "right@example.com".into()).await?;
    /// ```
    ///
    /// # Errors
    /// `VALIDATION` where the job is of another kind, its payload is no such job, or the changed one breaks its own rules:
    /// then it stays dead; `NOT_FOUND`; else as [`DeadLetters::redrive_with_payload`].
    pub async fn redrive_edited<J: Job>(&self, id: JobId, edit: impl FnOnce(&mut J) + Send) -> Result<RedriveReport> {
        let mut job: J = self.get(id).await?.decode()?;
        edit(&mut job);
        let NewJob { payload, .. } = NewJob::typed(&job)?;
        self.redrive_with_payload(id, payload).await
    }
}

/// # Removing
///
/// Dead jobs are also forgotten by age: `retention.dead` of their queue, seven days by default.
impl DeadLetters {
    /// Forgets those that match, for good, and says how many.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn purge(&self, filter: &DeadFilter) -> Result<u64> {
        self.scheduler.admin().drop_dead(&self.queue, filter).await
    }
}
