//! Hands jobs to the provider, and does not give up at its first hiccup.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, JobId,
    job::Envelope,
    provider::{OnFull, PublishOptions},
    scheduler::Submitted,
};
use tokio::sync::watch;

use super::queue::RunQueue;

/// A provider that is away is asked again so often,
const TRIES: u32 = 30;
/// with this pause.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Accepted, duplicate or refused for good.
    pub(super) known: Vec<(JobId, Submitted)>,
    /// Why the rest could not be submitted.
    pub(super) gave_up: Option<Error>,
}

/// Submits a batch. What is refused for now is tried again, until `stop` says that the run ends.
pub(super) async fn submit(queue: Arc<RunQueue>, mut jobs: Vec<Envelope>, mut stop: watch::Receiver<bool>) -> Answers {
    let options = PublishOptions { on_full: OnFull::Wait, ..PublishOptions::default() };
    let may_repeat = queue.scheduler.provider().capabilities(None).dedup_by_id.is_supported();
    let mut answers = Answers::default();
    for attempt in 1u32.. {
        let outcomes = queue.scheduler.submit_sealed(&queue.name, &jobs, &options).await;
        answers.known.reserve(outcomes.len());
        let mut again = Vec::new();
        let mut reason = None;
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            match outcome {
                Submitted::Rejected(error) if error.is_retryable() => {
                    reason = Some(error);
                    again.push(job);
                }
                Submitted::Unknown(_, error) if may_repeat => {
                    reason = Some(error);
                    again.push(job);
                }
                // It may run, and a second one would be another job.
                Submitted::Unknown(_, error) => answers.gave_up = Some(error),
                known => answers.known.push((job.id, known)),
            }
        }
        let Some(reason) = reason else { return answers };
        let stopped = async { stop.wait_for(|stop| *stop).await.is_ok() };
        // A journal goes on by itself when there is room on its disk again.
        let enough = attempt == TRIES && !queue.is_journaled();
        if enough || tokio::time::timeout(PAUSE, stopped).await.is_ok() {
            answers.gave_up = Some(reason);
            return answers;
        }
        jobs = again;
    }
    answers
}
