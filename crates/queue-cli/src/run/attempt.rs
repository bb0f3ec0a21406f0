//! An attempt of a job, and whether programs start at all.

use std::time::Duration;

use queue_core::{
    error::ErrorCode,
    worker::{Failure, JobRequest, JobResult, RunAny},
};
use queue_process::{PoolOptions, ProcessHandler, ProcessPool, Program, StartError};
use tokio::sync::watch;
use tower::Service;

use super::queue::MARGIN;
use crate::args::{ExecMode, RunArgs};

/// How the program is run.
#[derive(Debug, Clone)]
pub(super) enum Runner {
    OneShot(ProcessHandler),
    Pool(ProcessPool),
}

impl Runner {
    /// As the plan wants it, with so many programs at once.
    ///
    /// # Errors
    /// What [`Program::check`] says.
    pub(super) fn new(program: Program, concurrency: usize, args: &RunArgs) -> Result<Self, StartError> {
        match args.exec_mode {
            ExecMode::Oneshot => Ok(Self::OneShot(ProcessHandler::new(program).margin(MARGIN))),
            ExecMode::Pool => {
                let options = PoolOptions { size: concurrency, max_jobs: args.max_jobs, margin: Some(MARGIN) };
                ProcessPool::new(program, options).map(Self::Pool)
            }
        }
    }

    /// Whether a failure with `CONFIG` says that the program cannot be started. A process that stays may answer so too.
    fn cannot_start(&self) -> bool {
        match self {
            Self::OneShot(_) => true,
            Self::Pool(pool) => pool.was_unstartable(),
        }
    }

    /// Lets processes that stay end. After the worker has.
    pub(super) async fn shutdown(&self) {
        if let Self::Pool(pool) = self {
            pool.shutdown().await;
        }
    }
}

/// Runs the program.
#[derive(Debug)]
pub(super) struct Attempt {
    runner: Runner,
    unstartable: watch::Sender<Option<String>>,
}

/// A job whose program cannot be started is put off until the run has stopped: the job is not to blame.
const PUT_OFF: Duration = Duration::from_secs(60);

impl Attempt {
    /// `unstartable` is told why programs cannot be started, if so.
    pub(super) fn new(runner: Runner, unstartable: watch::Sender<Option<String>>) -> Self {
        Self { runner, unstartable }
    }
}

impl RunAny for Attempt {
    async fn run(&self, request: JobRequest) -> JobResult {
        let ended = match &self.runner {
            Runner::OneShot(handler) => handler.clone().call(request).await,
            Runner::Pool(pool) => pool.run(request).await,
        };
        match ended {
            Err(Failure::Never(error)) if error.code == ErrorCode::Config.as_str() && self.runner.cannot_start() => {
                self.unstartable.send_replace(Some(error.message));
                Err(Failure::Snooze(PUT_OFF))
            }
            ended => ended,
        }
    }
}
