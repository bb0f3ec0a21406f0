//! Programs that stay: N processes, one job each at a time, so that a start is paid once and not for every job.

mod child;
mod near;
mod pipe;
mod protocol;
mod seats;
mod tend;

use std::{
    borrow::{Borrow, Cow},
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
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::{Instant, sleep_until},
};
use tower::Service;

use self::{
    child::{AtOnce, Child, Reply},
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
        Ok(Self(Arc::new(Inner { seats, options, attendant, on_the_spot })))
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
        let seeking = seats.seek();
        let Ok(permits) = seats.permits.acquire_many(all).await else { return };
        seats.permits.close();
        drop((permits, seeking));
        self.0.attendant.dismiss().await;
        let grace = seats.program.limits().grace;
        let mut leaving = tokio::task::JoinSet::new();
        for child in seats.take_all() {
            leaving.spawn(child.leave(grace));
        }
        leaving.join_all().await;
    }

    /// As its [`Service::call`] does, which it needs neither be mutable for nor cloned.
    #[must_use]
    pub fn run(&self, request: JobRequest) -> Asking<'_> {
        Asking(Stage::New(Some((Cow::Borrowed(self), request.context))))
    }

    /// Asks a process that is ready and prompt, without waiting for anything but its answer. Otherwise says how far it came.
    fn at_once(&self, job: &JobContext) -> Result<Ended, Begun> {
        let not = || Begun::Not(self.clone());
        if !self.0.on_the_spot {
            return Err(not());
        }
        let seat = self.0.seats.take_ready().ok_or_else(not)?;
        let mut place = Place { pool: self, seat, asking: false };
        let request = match protocol::request(job) {
            Ok(request) => request,
            Err(error) => return Ok(Err(Failure::Never(error))),
        };
        match place.ask_at_once(job, &request) {
            AtOnce::Replied(Reply::Gone) | AtOnce::Not => Err(Begun::Seated(place.keep(), request)),
            AtOnce::Replied(reply) => {
                // Jobs that are answered on the spot would keep this thread from everybody else's.
                let turn = place.seat.child.as_ref().is_some_and(|child| child.answered().is_multiple_of(TURNS));
                let ended = place.settle(reply);
                if turn { Err(Begun::Ended(ended)) } else { Ok(ended) }
            }
            AtOnce::Begun { written, waited } => Err(Begun::Asked(place.keep(), request, written, waited)),
        }
    }

    /// Finds a process and asks it.
    async fn wait(job: JobContext, begun: Begun) -> Ended {
        let margin = match &begun {
            Begun::Not(pool) => pool.0.options.margin,
            Begun::Seated(place, ..) | Begun::Asked(place, ..) => place.pool.0.options.margin,
            Begun::Ended(_) => None,
        };
        let (timeout, now) = (job.timeout(), Instant::now());
        let limit = timeout.saturating_sub(margin.unwrap_or_else(|| margin_of(timeout)));
        let deadline = now.checked_add(limit).unwrap_or(now + FAR);
        let (mut place, request, mut begun) = match begun {
            Begun::Ended(ended) => {
                tokio::task::yield_now().await;
                return ended;
            }
            Begun::Asked(place, request, written, waited) => (place, request, Some((written, waited))),
            Begun::Seated(place, request) => (place, request, None),
            Begun::Not(pool) => {
                let request = protocol::request(&job).map_err(Failure::Never)?;
                // A closed pool has been shut down; whoever tries again may find another worker.
                let seeking = pool.0.seats.seek();
                match ready(&job, deadline, pool.0.seats.permits.acquire()).await? {
                    Ok(permit) => permit.forget(),
                    Err(_) => return Err(Failure::Snooze(PUT_OFF)),
                }
                drop(seeking);
                let seat = pool.0.seats.take().unwrap_or_default();
                (Place { pool, seat, asking: false }, request, None)
            }
        };
        loop {
            if begun.is_none() {
                place.provide(&job, deadline).await?;
            }
            match place.ask(&job, &request, begun.take(), deadline).await {
                // A fresh process has answered nobody, so this happens once.
                Reply::Gone => place.pool.0.seats.empty(&mut place.seat, true),
                reply => return place.settle(reply),
            }
        }
    }
}

type Ended = Result<Option<Bytes>, Failure>;

/// How far a job has come on its way to a process.
#[derive(Debug)]
enum Begun {
    Not(ProcessPool),
    /// It has a place.
    Seated(Place<ProcessPool>, Request),
    /// So much of its line is written, and whether its answer was waited for in vain.
    Asked(Place<ProcessPool>, Request, usize, bool),
    /// It is answered, and others are to have their turn first.
    Ended(Ended),
}

/// A job that was given to a [`ProcessPool`]. The first poll may wait for a prompt answer on the spot: some microseconds, and
/// where its processor is wanted by others, up to their turn on it, now and then. It does so only while there are threads for
/// all processes of the pool, and the process has answered promptly of late.
pub struct Asking<'a>(Stage<'a>);

enum Stage<'a> {
    New(Option<(Cow<'a, ProcessPool>, JobContext)>),
    Under(Pin<Box<dyn Future<Output = Ended> + Send>>),
}

impl std::fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asking")
    }
}

impl Future for Asking<'_> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        loop {
            match &mut self.0 {
                Stage::Under(way) => return way.as_mut().poll(context),
                Stage::New(new) => {
                    let Some((pool, job)) = new.take() else { return Poll::Pending };
                    match pool.at_once(&job) {
                        Ok(ended) => return Poll::Ready(ended),
                        Err(begun) => self.0 = Stage::Under(Box::pin(ProcessPool::wait(job, begun))),
                    }
                }
            }
        }
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
    type Future = Asking<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: JobRequest) -> Self::Future {
        Asking(Stage::New(Some((Cow::Owned(self.clone()), request.context))))
    }
}

/// A job comes back that much later to a pool that has been shut down.
const PUT_OFF: Duration = Duration::from_secs(1);
/// After so many jobs of a process its thread looks after other tasks.
const TURNS: u64 = 16;
const FAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A seat in use, with its permit; both go back when it is dropped. Who holds up a thread needs no pool of his own for it.
#[derive(Debug)]
struct Place<P: Borrow<ProcessPool>> {
    pool: P,
    seat: Seat,
    /// Whoever drops it now leaves a process that is in the middle of a job.
    asking: bool,
}

impl Place<&ProcessPool> {
    /// The same, for longer than a call.
    fn keep(mut self) -> Place<ProcessPool> {
        let (pool, seat, asking) = (self.pool.clone(), std::mem::take(&mut self.seat), self.asking);
        std::mem::forget(self);
        Place { pool, seat, asking }
    }
}

impl<P: Borrow<ProcessPool>> Place<P> {
    /// Sees to it that there is a process.
    async fn provide(&mut self, job: &JobContext, deadline: Instant) -> Result<(), Failure> {
        if self.seat.child.as_mut().is_some_and(|child| child.is_dead()) {
            // It ended while nobody asked it anything: no job is to blame.
            self.pool.borrow().0.seats.empty(&mut self.seat, true);
        }
        if self.seat.child.is_some() {
            return Ok(());
        }
        if let Some(time) = self.seat.not_before() {
            ready(job, deadline, sleep_until(time)).await?;
        }
        self.pool.borrow().0.seats.fill(&mut self.seat).map_err(|error| failure_of(failure_to_start(&error)))
    }

    fn ask_at_once(&mut self, job: &JobContext, request: &Request) -> AtOnce {
        let Some(child) = &mut self.seat.child else { return AtOnce::Not };
        if child.is_dead() {
            return AtOnce::Not;
        }
        self.asking = true;
        let reply = child.ask_at_once(job, request, self.pool.borrow().0.seats.program.limits());
        self.asking = matches!(reply, AtOnce::Begun { .. });
        reply
    }

    async fn ask(
        &mut self,
        job: &JobContext,
        request: &Request,
        begun: Option<(usize, bool)>,
        deadline: Instant,
    ) -> Reply {
        self.asking = true;
        let reply = match &mut self.seat.child {
            Some(child) => child.ask(job, request, begun, deadline, self.pool.borrow().0.seats.program.limits()).await,
            None => Reply::Cancelled,
        };
        self.asking = false;
        reply
    }

    /// What the reply means for the seat and for the job.
    fn settle(mut self, reply: Reply) -> Ended {
        let Inner { seats, options, .. } = &*self.pool.borrow().0;
        let seat = &mut self.seat;
        let answer = match reply {
            Reply::Answered(answer) => {
                seat.has_answered();
                let done = |child: &mut Box<Child>| options.max_jobs.is_some_and(|max| child.answered() >= max);
                if let Some(child) = seat.child.take_if(done) {
                    seats.retire(*child);
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

impl<P: Borrow<ProcessPool>> Drop for Place<P> {
    fn drop(&mut self) {
        let Inner { seats, on_the_spot, .. } = &*self.pool.borrow().0;
        if self.asking {
            seats.empty(&mut self.seat, false);
        }
        let seat = std::mem::take(&mut self.seat);
        if *on_the_spot { seats.keep_at_hand(seat) } else { seats.give_back(seat) }
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
