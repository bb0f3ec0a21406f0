//! The queue of a run: its own, removed at the end, or one that is named and kept.

use std::{sync::Arc, time::Duration};

use queue_core::{
    ErrorCode, JobId, JobScheduler, QueueName, QueueSpec, Result, RetryPolicy,
    job::{Envelope, Headers, JobKind, JobRef, RawHeaders, Timestamp, Unique},
    provider::{Cancel, Durability},
    queue_spec::Retention,
    store::{JobStore, StoreScope},
};

use crate::{
    args::RunArgs,
    feed::OpenLine,
    input::JobLine,
    resume::{identity::InputId, notes::Begun},
    window::MAX_LINES,
};

/// A program is killed that long before its job's own timeout in the queue, which is later than asked by as much: so the
/// runner always has the time to say what happened.
pub(super) const MARGIN: Duration = Duration::from_secs(6);

/// Rows are written here, so finished jobs need hardly be remembered: long enough to look at those that ended unreported.
const RETENTION: Retention =
    Retention { age: Duration::from_secs(60), count: 1_000, bytes: 4 << 20, dead: Duration::ZERO };

/// In this process's memory they are so few that one is still in the processor's cache when it is forgotten. Nobody else is to
/// see them, and reports come sooner.
const IN_PROCESS: Retention = Retention { count: 200, ..RETENTION };

fn retention(scheme: &str) -> Retention {
    if scheme == "memory" { IN_PROCESS } else { RETENTION }
}

/// With a journal, finished jobs are remembered until their rows are safe, and then they are forgotten one by one.
const KEPT: Retention = {
    const LONG: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);
    Retention { age: LONG, count: u64::MAX, bytes: u64::MAX, dead: LONG }
};

/// Where the jobs of a run go.
#[derive(Debug)]
pub(super) struct RunQueue {
    pub(super) scheduler: JobScheduler,
    pub(super) name: QueueName,
    /// It is kept, other jobs may be in it, and other workers at it.
    pub(super) shared: bool,
    /// What its jobs' ids are numbered in.
    pub(super) run: JobId,
    /// As it was declared, by whomever.
    spec: Arc<QueueSpec>,
    /// Of lines that give none. Made once.
    kind: JobKind,
    /// With a journal: what its jobs' ids follow from, however often it is begun.
    input: Option<InputId>,
    timeout: Duration,
    retry: RetryPolicy,
    unique_keys: bool,
}

impl RunQueue {
    /// Makes it.
    ///
    /// # Errors
    /// The provider's.
    pub(super) async fn open(
        scheduler: JobScheduler,
        args: &RunArgs,
        retry: RetryPolicy,
        begun: Option<&Begun>,
    ) -> Result<Self> {
        let run = JobId::fresh(scheduler.env());
        // Others may use the queue of a broker, also where only this process has a store for it.
        let paired = scheduler.provider().paired().is_some();
        let in_process = !paired && scheduler.store().is_ok_and(|store| store.scope() == StoreScope::Process);
        let shared = args.queue.is_some() && !in_process;
        let name = match (begun, &args.queue) {
            (Some(begun), _) => begun.queue.clone(),
            (None, Some(name)) => name.clone(),
            (None, None) => QueueName::new(format!("run-{run}"))?,
        };
        let can = scheduler.provider().capabilities(None);
        let mut spec = QueueSpec::new(name.clone());
        if begun.is_none() {
            // A later life may have other options: so its jobs bring all that matters, and the queue is always the same.
            spec.timeout = args.timeout.saturating_add(MARGIN);
            spec.retry = retry.clone();
        }
        spec.max_encoded_len = args.max_line.saturating_add(RawHeaders::MAX + (4 << 10));
        if !shared {
            spec.retention = retention(scheduler.provider().scheme());
        }
        if begun.is_some() {
            (spec.retention, spec.durability) = (KEPT, Some(Durability::Synced));
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
        let input = begun.map(|begun| begun.input.clone());
        let spec = scheduler.declared(&name).await?;
        let kind = JobKind::from_static("exec");
        Ok(Self { scheduler, name, shared, run, spec, kind, input, timeout: args.timeout, retry, unique_keys })
    }

    /// Whether it outlives the process, in a journal.
    pub(super) fn is_journaled(&self) -> bool {
        self.input.is_some()
    }

    /// The records of its jobs, where there are any.
    pub(super) fn store(&self) -> Option<Arc<dyn JobStore>> {
        self.scheduler.store().ok().cloned()
    }

    /// The job of a line: the same one whenever it is asked.
    pub(super) fn job_of(&self, line: &OpenLine) -> JobId {
        match &self.input {
            Some(input) => input.job(line.number, line.text.bytes()),
            None => self.run.numbered(line.number).unwrap_or_else(|| JobId::derive(self.run.as_bytes(), line.number)),
        }
    }

    /// A line as a job to submit, from now on.
    ///
    /// # Errors
    /// Its headers are too large.
    pub(super) fn envelope(&self, id: JobId, line: JobLine, now: Timestamp) -> Result<Envelope> {
        let retry =
            line.retry(&self.retry).or_else(|| (self.shared || self.is_journaled()).then(|| self.retry.clone()));
        let kind = line.kind.unwrap_or_else(|| self.kind.clone());
        let mut job = self.scheduler.draft(&self.spec, id, kind, line.payload, now);
        job.content_type = line.content_type;
        job.priority = line.priority.unwrap_or(job.priority);
        job.not_before = line.delay.filter(|delay| !delay.is_zero()).map(|delay| now + delay);
        job.expires_at = line.ttl.map(|ttl| now + ttl).or(job.expires_at);
        job.timeout = line.timeout.unwrap_or(self.timeout).saturating_add(MARGIN);
        job.unique = line.unique_key.filter(|_| self.unique_keys).map(|key| Box::new(Unique { key, window: None }));
        if line.headers.is_some() || retry.is_some() || self.spec.sla.is_some() {
            let given = line.headers.map(|headers| *headers).unwrap_or_default();
            job.headers = RawHeaders::encode(&Headers { retry, sla: given.sla.or(self.spec.sla), ..given })?;
        }
        Ok(job.seal())
    }

    /// Forgets dead jobs at once: their rows are written.
    pub(super) async fn forget_the_dead(&self) {
        const AT_ONCE: usize = 1_000;
        if let Some(store) = self.store().filter(|_| !self.shared && !self.is_journaled()) {
            // What is left is for the maintenance.
            let _ = store.evict(&self.name, &self.spec.retention, AT_ONCE).await;
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
        let removed = match self.shared || self.is_journaled() {
            true => Ok(()),
            false => self.scheduler.provider().drop_queue(&self.name, false).await,
        };
        removed.and(self.scheduler.close().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_forgets_so_soon() {
        assert_eq!((retention("memory").count, retention("redis").count), (200, 1_000));
        assert_eq!(retention("kafka").age, retention("memory").age);
    }
}
