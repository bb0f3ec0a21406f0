//! A program as the handler of a worker.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use queue_core::{
    error::ErrorCode,
    job::JobError,
    worker::{Failure, JobContext, JobRequest},
};
use tower::Service;

use crate::{
    outcome::{failure_to_start, outcome},
    program::Program,
    run::Execution,
};

/// Runs a program once an attempt: what [`WorkerBuilder::service`](queue_core::worker::WorkerBuilder::service) and
/// `fallback` take.
///
/// The payload goes to its stdin as it is, its stdout becomes the result as JSON ([`crate::result_json`]), and it sees
/// `QUEUE_JOB_ID`, `QUEUE_NAME`, `QUEUE_KIND`, `QUEUE_ATTEMPT` (from 1) and `QUEUE_MAX_ATTEMPTS`. Exit 0 completes the job,
/// [`crate::NEVER_RETRY`] and too much output bury it, any other end is retried by its policy. Somebody who cancels the job
/// sends SIGTERM to the program's group, and SIGKILL after [`crate::Limits::grace`].
///
/// [`crate::Limits::timeout`] is not used: the job's own timeout holds.
#[derive(Debug, Clone)]
pub struct ProcessHandler {
    program: Arc<Program>,
    margin: Option<Duration>,
}

/// A program that was killed is usually gone, and its stderr read, within a few milliseconds.
const LONGEST_MARGIN: Duration = Duration::from_secs(1);

impl ProcessHandler {
    /// Runs this program.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self { program: Arc::new(program), margin: None }
    }

    /// How long before the job's timeout the program is killed. Default: a tenth of the timeout, at most 1 s.
    ///
    /// At the timeout itself the worker drops the handler, which kills the program too, but then nobody is left to say how
    /// long it ran and what it wrote to stderr. The margin leaves time for that.
    #[must_use]
    pub fn margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    fn time_limit(&self, timeout: Duration) -> Duration {
        timeout.saturating_sub(self.margin.unwrap_or_else(|| margin_of(timeout)))
    }
}

pub(crate) fn margin_of(timeout: Duration) -> Duration {
    (timeout / 10).min(LONGEST_MARGIN)
}

pub(crate) fn failure_of(error: JobError) -> Failure {
    match error {
        error if error.code == ErrorCode::Cancelled.as_str() => Failure::Cancel,
        error if error.retryable => Failure::Retry(error),
        error => Failure::Never(error),
    }
}

impl Service<JobRequest> for ProcessHandler {
    type Response = Option<Bytes>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Option<Bytes>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: JobRequest) -> Self::Future {
        let program = Arc::clone(&self.program);
        let limit = self.time_limit(request.context.timeout());
        Box::pin(async move { run(&program, &request.context, limit).await.map(Some) })
    }
}

async fn run(program: &Program, job: &JobContext, limit: Duration) -> Result<Bytes, Failure> {
    let envelope = job.envelope();
    let variables = [
        ("QUEUE_JOB_ID", job.id().to_string()),
        ("QUEUE_NAME", job.queue().to_string()),
        ("QUEUE_KIND", envelope.kind.to_string()),
        ("QUEUE_ATTEMPT", job.attempt().to_string()),
        ("QUEUE_MAX_ATTEMPTS", job.max_attempts().to_string()),
    ];
    let execution = Execution { input: envelope.payload.clone(), variables: &variables, timeout: Some(limit) };
    let error = match program.run(execution, job.cancelled()).await {
        Ok(finished) => match outcome(&finished, program.limits()) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        },
        Err(error) => failure_to_start(&error),
    };
    Err(failure_of(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_killed_a_little_before_the_worker_gives_up() {
        let handler = ProcessHandler::new(Program::new("cat"));
        let seconds = Duration::from_secs;
        assert_eq!(handler.time_limit(seconds(60)), seconds(59));
        assert_eq!(handler.time_limit(seconds(1)), Duration::from_millis(900));
        let handler = handler.margin(seconds(6));
        assert_eq!(handler.time_limit(seconds(66)), seconds(60));
        assert_eq!(handler.time_limit(seconds(5)), Duration::ZERO);
    }
}
