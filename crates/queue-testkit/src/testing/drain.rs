//! Running what is due, to its end, where the test says so.

use std::time::Duration;

use queue_core::{
    Error, ErrorCode, Job, QueueName, Result,
    provider::Disposition,
    worker::{Handler, RunReport, WorkerBuilder},
};
use tokio::sync::mpsc;

use super::TestQueues;

/// What [`TestQueues::drain`] ran, in the order it ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Drained {
    /// One entry for each run; a job that was retried at once has several.
    pub runs: Vec<RunReport>,
}

/// Jobs that enqueue themselves never end.
const TOO_MANY: usize = 10_000;
/// Jobs may also leave without a run (expired): look again, though nobody reports.
const GLANCE: Duration = Duration::from_millis(10);

impl TestQueues {
    /// Runs every job of the handler's queue that is due, with this handler; see [`TestQueues::drain`].
    ///
    /// # Errors
    /// As [`TestQueues::drain`].
    pub async fn run<H: Handler<Args>, Args: 'static>(&self, handler: H) -> Result<Drained> {
        self.drain(<H::Job as Job>::QUEUE, |worker| worker.register(handler)).await
    }

    /// Runs every job of the queue that is due, one after the other and most urgent first, with a worker that `build` gives
    /// its handlers, state and layers. Jobs that become due by it (enqueued by a handler, retried at once) run too; delayed
    /// ones wait for [`TestQueues::advance`], except for a few milliseconds that pass while it works, and what the handlers
    /// themselves sleep.
    ///
    /// # Errors
    /// `CONFIG` and `VALIDATION` as [`WorkerBuilder::start`]; `CONFLICT` where the queue is paused, or after 10,000 runs: a
    /// job that enqueues itself has no end.
    pub async fn drain(
        &self,
        queue: impl AsRef<str>,
        build: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Result<Drained> {
        let queue = QueueName::new(queue)?;
        let (reports, mut ended) = mpsc::unbounded_channel();
        let worker = build(self.worker())
            .queue(queue.as_str(), 1)
            .prefetch(0)
            .heartbeat_on_runtime()
            // An error means that the draining was given up.
            .observe(move |report| drop(reports.send(report)))
            .start()
            .await?;
        let mut runs = Vec::new();
        let end = loop {
            let stats = match self.stats(&queue).await {
                Ok(stats) => stats,
                Err(error) => break Err(error),
            };
            if stats.pending == stats.parked && stats.running == 0 {
                break Ok(());
            }
            if stats.paused && stats.running == 0 {
                break Err(Error::new(ErrorCode::Conflict, "the queue is paused: its jobs do not run").on(&queue));
            }
            if runs.len() >= TOO_MANY {
                let message = format!("{TOO_MANY} runs and no end: does a job enqueue itself?");
                break Err(Error::new(ErrorCode::Conflict, message).at("drain").on(&queue));
            }
            if let Ok(Some(report)) = tokio::time::timeout(GLANCE, ended.recv()).await {
                runs.push(report);
            }
        };
        worker.stop().await;
        while let Ok(report) = ended.try_recv() {
            runs.push(report);
        }
        end.map(|()| Drained { runs })
    }
}

impl Drained {
    /// Runs that succeeded.
    #[must_use]
    pub fn completed(&self) -> usize {
        self.count(|disposition| matches!(disposition, Disposition::Complete { .. }))
    }

    /// Runs that failed and are followed by another.
    #[must_use]
    pub fn retried(&self) -> usize {
        self.count(|disposition| matches!(disposition, Disposition::Retry { .. }))
    }

    /// Runs that were the job's last and failed.
    #[must_use]
    pub fn dead(&self) -> usize {
        self.count(|disposition| matches!(disposition, Disposition::DeadLetter { .. }))
    }

    /// Runs that put the job off without spending an attempt: snoozed or parked.
    #[must_use]
    pub fn put_off(&self) -> usize {
        self.count(|disposition| matches!(disposition, Disposition::Release { .. } | Disposition::Park { .. }))
    }

    /// Runs after which the job was cancelled.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.count(|disposition| matches!(disposition, Disposition::Cancelled))
    }

    fn count(&self, is: impl Fn(&Disposition) -> bool) -> usize {
        self.runs.iter().filter_map(|run| run.disposition.as_ref()).filter(|disposition| is(disposition)).count()
    }
}
