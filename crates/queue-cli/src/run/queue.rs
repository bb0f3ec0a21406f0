//! The queue of a run: its own, removed at the end, or one that is named and kept.

use std::{sync::Arc, time::Duration};

use queue_core::{
    ErrorCode, JobId, JobScheduler, QueueName, QueueSpec, Result, RetryPolicy,
    job::{JobKind, JobRef, RawHeaders, Unique},
    provider::Cancel,
    queue_spec::Retention,
    scheduler::{NewJob, Start},
    store::{JobStore, StoreScope},
};

use crate::{args::RunArgs, input::JobLine, window::MAX_LINES};

/// A program is killed that long before its job's own timeout in the queue, which is later than asked by as much: so the
/// runner always has the time to say what happened.
pub(super) const MARGIN: Duration = Duration::from_secs(6);

/// Rows are written here, so finished jobs need hardly be remembered: long enough to look at those that ended unreported.
const RETENTION: Retention =
    Retention { age: Duration::from_secs(60), count: 1_000, bytes: 4 << 20, dead: Duration::ZERO };

/// Where the jobs of a run go.
#[derive(Debug)]
pub(super) struct RunQueue {
    pub(super) scheduler: JobScheduler,
    pub(super) name: QueueName,
    /// It is kept, other jobs may be in it, and other workers at it.
    pub(super) shared: bool,
    seed: JobId,
    timeout: Duration,
    retry: RetryPolicy,
    unique_keys: bool,
}

impl RunQueue {
    /// Makes it.
    ///
    /// # Errors
    /// The provider's.
    pub(super) async fn open(scheduler: JobScheduler, args: &RunArgs, retry: RetryPolicy) -> Result<Self> {
        let seed = JobId::fresh(scheduler.env());
        let in_process = scheduler.store().is_ok_and(|store| store.scope() == StoreScope::Process);
        let shared = args.queue.is_some() && !in_process;
        let name = match &args.queue {
            Some(name) => name.clone(),
            None => QueueName::new(format!("run-{seed}"))?,
        };
        let can = scheduler.provider().capabilities(None);
        let mut spec = QueueSpec::new(name.clone());
        spec.timeout = args.timeout.saturating_add(MARGIN);
        spec.retry = retry.clone();
        spec.max_encoded_len = args.max_line.saturating_add(RawHeaders::MAX + (4 << 10));
        if !shared {
            spec.retention = RETENTION;
        }
        if !shared && can.max_len.is_supported() {
            // Never reached by the run itself: a line waits outside the window, not inside the queue.
            spec.max_len = Some(2 * MAX_LINES as u64);
        }
        match scheduler.declare(spec).await {
            // Somebody declared it as they need it; the jobs bring all that matters here.
            Err(error) if shared && error.code() == ErrorCode::Conflict => {}
            declared => declared?,
        }
        let unique_keys = shared && can.unique_keys.is_supported();
        Ok(Self { scheduler, name, shared, seed, timeout: args.timeout, retry, unique_keys })
    }

    /// The records of its jobs, where there are any.
    pub(super) fn store(&self) -> Option<Arc<dyn JobStore>> {
        self.scheduler.store().ok().cloned()
    }

    /// The job of a line: the same one whenever it is asked.
    pub(super) fn job_of(&self, line: u64) -> JobRef {
        JobRef::new(self.name.clone(), JobId::derive(self.seed.as_bytes(), line))
    }

    /// A line as a job to submit.
    pub(super) fn new_job(&self, id: JobId, line: JobLine) -> NewJob {
        let retry = line.retry(&self.retry).or_else(|| self.shared.then(|| self.retry.clone()));
        let mut job = NewJob::new(line.kind.unwrap_or_else(|| JobKind::from_static("exec")), line.payload);
        let options = &mut job.options;
        options.id = Some(id);
        options.content_type = line.content_type;
        options.priority = line.priority;
        options.start = line.delay.map_or(Start::Now, Start::After);
        options.ttl = line.ttl;
        options.timeout = Some(line.timeout.unwrap_or(self.timeout).saturating_add(MARGIN));
        options.retry = retry;
        options.unique = line.unique_key.filter(|_| self.unique_keys).map(|key| Unique { key, window: None });
        options.headers = line.headers;
        job
    }

    /// Forgets dead jobs at once: their rows are written.
    pub(super) async fn forget_the_dead(&self) {
        const AT_ONCE: usize = 1_000;
        if let Some(store) = self.store().filter(|_| !self.shared) {
            // What is left is for the maintenance.
            let _ = store.evict(&self.name, &RETENTION, AT_ONCE).await;
        }
    }

    /// Takes back what was not run, so that a kept queue does not run it later.
    ///
    /// # Errors
    /// The provider's: some may run.
    pub(super) async fn take_back(&self, jobs: &[JobRef]) -> Result<()> {
        if !self.shared || jobs.is_empty() {
            return Ok(());
        }
        let store = self.scheduler.store()?;
        let cancel = Cancel::by("an interrupted `queue run`");
        store.cancel(jobs, &cancel).await.into_iter().try_for_each(|outcome| outcome.map(drop))
    }

    /// Removes a queue of its own, and closes the provider.
    ///
    /// # Errors
    /// The provider's: the queue may be left.
    pub(super) async fn close(&self) -> Result<()> {
        let removed = match self.shared {
            true => Ok(()),
            false => self.scheduler.provider().drop_queue(&self.name, false).await,
        };
        removed.and(self.scheduler.close().await)
    }
}
