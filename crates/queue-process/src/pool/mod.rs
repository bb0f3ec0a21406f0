//! Programs that stay: N processes, one job each at a time, so that a start is paid once and not for every job.

mod child;
mod near;
mod pipe;
mod protocol;
mod seats;
mod tend;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use queue_core::{
    error::ErrorCode,
    job::JobError,
    worker::{Failure, JobContext, JobRequest},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::{Instant, sleep_until},
};
use tower::Service;

use self::{
    child::{Child, Reply},
    protocol::Request,
    seats::{Seat, Seats},
    tend::Attendant,
};
use crate::{
    error::StartError,
    handler::{failure_of, margin_of},
    outcome::failure_to_start,
    program::Program,
};

/// How a [`ProcessPool`] is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOptions {
    /// How many processes: as many as jobs are to run at once. At least 1. Default: 1.
    pub size: usize,
    /// A process that has answered so many jobs is replaced by a fresh one. Default: never.
    pub max_jobs: Option<u64>,
    /// How long before the job's timeout the process is killed, as with
    /// [`ProcessHandler::margin`](crate::ProcessHandler::margin). Default: a tenth of the timeout, at most 1 s.
    pub margin: Option<Duration>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { size: 1, max_jobs: None, margin: None }
    }
}

/// What a pool has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Processes that were started.
    pub started: u64,
    /// Those that ended before they were to, or broke the protocol.
    pub broken: u64,
}

/// Keeps processes alive and hands them jobs: what
/// [`WorkerBuilder::service`](queue_core::worker::WorkerBuilder::service) and `fallback` take. Clones share the processes.
///
/// A process reads a job from stdin, one line of JSON, and writes its answer to stdout, one line of JSON, before it is given
/// another:
///
/// ```text
/// ← {"id":"0199…","queue":"mail","kind":"email.send","attempt":1,"max_attempts":4,"payload":{"to":"a@example.org"}}
/// → {"id":"0199…","progress":{"percent":50,"message":"rendered"}}      any number, before the answer
/// → {"id":"0199…","log":"used the fallback relay"}                      any number, before the answer
/// → {"id":"0199…","result":{"sent":true}}                               the answer, or
/// → {"id":"0199…","error":{"code":"NO_SUCH_USER","message":"…","retryable":false,"detail":"…"}}
/// ```
///
/// A JSON payload stands there as it is, a text as a string; any other, and a text that is not UTF-8, as base64, and the
/// line has `"encoding":"base64"`. Of an error only `message` is required; it is retryable unless it says otherwise.
/// Its stdin ends when it is to go. `QUEUE_EXEC_MODE` is `pool` in its environment.
///
/// A process that ends, closes stdin or stdout, writes anything but such a line, a line about another job, or one longer than
/// [`Limits::max_stdout`](crate::Limits::max_stdout), is killed with its whole group and replaced; its job fails, to be
/// retried by its policy, with what the process wrote to stderr meanwhile. The same at the job's timeout. A cancel sends SIGTERM, and SIGKILL
/// after [`Limits::grace`](crate::Limits::grace): an answer within it counts, and the process is replaced. Where processes break one after the
/// other, a new one waits: at most 5 s, and never longer than its job may.
///
/// The [`Limits`](crate::Limits) hold for each process, not for each job: CPU time adds up over its jobs, so give
/// [`PoolOptions::max_jobs`] with it. Its `timeout` is not used: the job's own holds.
///
/// Dropping the last clone kills every process; [`ProcessPool::shutdown`] lets them end.
#[derive(Debug, Clone)]
pub struct ProcessPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seats: Arc<Seats>,
    options: PoolOptions,
    attendant: Attendant,
    /// Whether there are threads for all processes, so that one may be held up for microseconds without holding up another.
    on_the_spot: bool,
    /// Jobs so far.
    turns: AtomicU64,
}

impl ProcessPool {
    /// Checks the program and begins to start its processes. Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// What [`Program::check`] says.
    pub fn new(program: Program, options: PoolOptions) -> Result<Self, StartError> {
        program.check()?;
        let seats = Arc::new(Seats::new(program, options.size.max(1)));
        let attendant = Attendant::start(&seats);
        let runtime = Handle::current();
        let on_the_spot =
            runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() >= options.size;
        Ok(Self(Arc::new(Inner { seats, options, attendant, on_the_spot, turns: AtomicU64::new(0) })))
    }

    /// What it has been through so far.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let (started, broken) = self.0.seats.counts();
        PoolStats { started, broken }
    }

    /// Whether the program could not be started, for a reason that does not pass. A job that fails with `CONFIG` may also have
    /// been answered so.
    #[must_use]
    pub fn was_unstartable(&self) -> bool {
        self.0.seats.was_unstartable()
    }

    /// Waits for the jobs under way, ends the input of every process, and kills what has not ended after
    /// [`Limits::grace`](crate::Limits::grace). A job that comes later is put off.
    pub async fn shutdown(&self) {
        let seats = &self.0.seats;
        let all = u32::try_from(self.0.options.size.max(1)).unwrap_or(u32::MAX);
        // An error means that somebody else has shut it down.
        let Ok(permits) = seats.permits.acquire_many(all).await else { return };
        seats.permits.close();
        drop(permits);
        self.0.attendant.dismiss().await;
        let grace = seats.program.limits().grace;
        let mut leaving = tokio::task::JoinSet::new();
        for child in seats.take_all() {
            leaving.spawn(child.leave(grace));
        }
        leaving.join_all().await;
    }

    async fn run(self, job: JobContext) -> Result<Option<Bytes>, Failure> {
        let timeout = job.timeout();
        let begun = Instant::now();
        let limit = timeout.saturating_sub(self.0.options.margin.unwrap_or_else(|| margin_of(timeout)));
        let deadline = begun.checked_add(limit).unwrap_or(begun + FAR);
        let request = protocol::request(&job).map_err(Failure::Never)?;
        let seats = &*self.0.seats;
        // A closed pool has been shut down; whoever tries again may find another worker.
        let permit = ready(&job, deadline, seats.permits.acquire()).await?;
        let Ok(_permit) = permit else { return Err(Failure::Snooze(PUT_OFF)) };
        let mut place = Place { seats, seat: seats.take().unwrap_or_default(), asking: false };
        let ended = loop {
            place.provide(&job, deadline).await?;
            match place.ask(&job, &request, deadline, self.0.on_the_spot).await {
                // A fresh process has answered nobody, so this happens once.
                Reply::Gone => seats.empty(&mut place.seat, true),
                reply => break place.settle(reply, self.0.options.max_jobs),
            }
        };
        // Jobs that are answered on the spot would keep this thread from everybody else's.
        if self.0.on_the_spot && self.0.turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
        }
        ended
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task may hold the seats a little longer.
        drop(self.seats.take_all());
    }
}

impl Service<JobRequest> for ProcessPool {
    type Response = Option<Bytes>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Option<Bytes>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: JobRequest) -> Self::Future {
        Box::pin(self.clone().run(request.context))
    }
}

/// A job comes back that much later to a pool that has been shut down.
const PUT_OFF: Duration = Duration::from_secs(1);
/// After so many jobs a thread looks after other tasks.
const TURNS: u64 = 64;
const FAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A seat in use; it goes back when it is dropped.
struct Place<'a> {
    seats: &'a Seats,
    seat: Seat,
    /// Whoever drops it now leaves a process that is in the middle of a job.
    asking: bool,
}

impl Place<'_> {
    /// Sees to it that there is a process.
    async fn provide(&mut self, job: &JobContext, deadline: Instant) -> Result<(), Failure> {
        if self.seat.child.as_mut().is_some_and(Child::is_dead) {
            // It ended while nobody asked it anything: no job is to blame.
            self.seats.empty(&mut self.seat, true);
        }
        if self.seat.child.is_some() {
            return Ok(());
        }
        if let Some(time) = self.seat.not_before() {
            ready(job, deadline, sleep_until(time)).await?;
        }
        self.seats.fill(&mut self.seat).map_err(|error| failure_of(failure_to_start(&error)))
    }

    async fn ask(&mut self, job: &JobContext, request: &Request, deadline: Instant, on_the_spot: bool) -> Reply {
        self.asking = true;
        let reply = match &mut self.seat.child {
            Some(child) => child.ask(job, request, deadline, self.seats.program.limits(), on_the_spot).await,
            None => Reply::Cancelled,
        };
        self.asking = false;
        reply
    }

    /// What the reply means for the seat and for the job.
    fn settle(mut self, reply: Reply, max_jobs: Option<u64>) -> Result<Option<Bytes>, Failure> {
        let (seats, seat) = (self.seats, &mut self.seat);
        let answer = match reply {
            Reply::Answered(answer) => {
                seat.has_answered();
                let done = max_jobs.is_some_and(|max| seat.child.as_ref().is_some_and(|child| child.answered() >= max));
                if let Some(child) = seat.child.take_if(|_| done) {
                    seats.retire(child);
                }
                answer
            }
            Reply::AnsweredLast(answer) => {
                seats.empty(seat, false);
                answer
            }
            Reply::TimedOut(error) => {
                seats.empty(seat, false);
                Err(error)
            }
            Reply::Broken(error) => {
                seats.empty(seat, true);
                Err(error)
            }
            Reply::Cancelled | Reply::Gone => {
                seats.empty(seat, false);
                return Err(Failure::Cancel);
            }
        };
        answer.map(Some).map_err(failure_of)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.asking {
            self.seats.empty(&mut self.seat, false);
        }
        self.seats.put_back(std::mem::take(&mut self.seat));
    }
}

/// Waits, but neither beyond the job's time nor against somebody's wish.
async fn ready<T>(job: &JobContext, deadline: Instant, what: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        biased;
        ready = what => Ok(ready),
        () = job.cancelled() => Err(Failure::Cancel),
        () = sleep_until(deadline) => {
            let message = "no process was ready for it within its timeout: too few, or they break one after the other";
            Err(Failure::Retry(JobError::new(ErrorCode::Timeout, message)))
        }
    }
}
