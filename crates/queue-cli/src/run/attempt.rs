//! What the run wants to know of each attempt: when it starts, how long it takes, and whether programs start at all.

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
    worker::{Failure, JobRequest},
};
use queue_process::ProcessHandler;
use tokio::sync::watch;
use tower::Service;

use super::open::OpenJobs;

/// Runs the program and keeps the books.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    handler: ProcessHandler,
    open: OpenJobs,
    unstartable: Arc<watch::Sender<Option<String>>>,
}

/// A job whose program cannot be started is put off until the run has stopped: the job is not to blame.
const PUT_OFF: Duration = Duration::from_secs(60);

impl Attempt {
    /// `unstartable` is told why programs cannot be started, if so.
    pub(super) fn new(handler: ProcessHandler, open: OpenJobs, unstartable: watch::Sender<Option<String>>) -> Self {
        Self { handler, open, unstartable: Arc::new(unstartable) }
    }
}

impl Service<JobRequest> for Attempt {
    type Response = Option<Bytes>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Option<Bytes>, Failure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.handler.poll_ready(context)
    }

    fn call(&mut self, request: JobRequest) -> Self::Future {
        let (open, unstartable) = (self.open.clone(), Arc::clone(&self.unstartable));
        let (id, attempt) = (request.context.id(), request.context.attempt());
        let run = self.handler.call(request);
        Box::pin(async move {
            let running = open.start(id, attempt);
            match run.await {
                Err(Failure::Never(error)) if error.code == ErrorCode::Config.as_str() => {
                    running.never_mind();
                    unstartable.send_replace(Some(error.message));
                    Err(Failure::Snooze(PUT_OFF))
                }
                ended => ended,
            }
        })
    }
}
