//! One process of a pool: it is given a line and answers it, and after anything else it is not used again.

use std::{io, pin::pin, process::ExitStatus, time::Duration};

use bytes::Bytes;
use memchr::memchr;
use queue_core::{error::ErrorCode, job::JobError, worker::JobContext};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::{
    io::Interest,
    process::ChildStderr,
    time::{Instant, sleep_until, timeout},
};

use super::{
    near::{self, Nearness, Turns},
    pipe::Pipe,
    protocol::{self, Request, Said},
};
use crate::{
    cgroup::Cell,
    error::StartError,
    exit::{self, Watch},
    group::Group,
    limits::{Limit, Limits},
    outcome::{at_limit, refusals},
    output::{Keep, Reader},
    program::Program,
    run::{self, End, Started},
};

/// How long a process whose stdout has ended may take to exit, for its status to be told.
const LAST_BREATH: Duration = Duration::from_millis(500);
/// A process that answers within this time is waited for on the spot: being put to sleep and woken takes as long.
const PROMPT: Duration = Duration::from_micros(50);
const MAX_CREDIT: u8 = 8;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How long a killed process may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);
const CHUNK: usize = 8 << 10;

#[derive(Debug)]
pub(crate) struct Child {
    group: Group,
    watch: Watch,
    cell: Option<Cell>,
    stdin: Option<Pipe>,
    stdout: Option<Pipe>,
    stderr: Reader<ChildStderr>,
    /// What was read and not understood yet: less than a line, unless it says too much.
    heard: Vec<u8>,
    /// So much of it holds no line break.
    searched: usize,
    /// Earned by prompt answers and lost by others: whoever has any left is waited for on the spot.
    credit: u8,
    nearness: Nearness,
    turns: Turns,
    answered: u64,
}

/// How a job under way ended.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The process may have the next job.
    Answered(Result<Bytes, JobError>),
    /// It answered, and must go: it was asked to stop, it ended, or it said more than its answer.
    AnsweredLast(Result<Bytes, JobError>),
    /// It stopped, or was killed, on request.
    Cancelled,
    /// It had answered others and was gone, or spoke out of turn, before it could be given this one.
    Gone,
    /// It was killed at the job's timeout.
    TimedOut(JobError),
    /// It broke, and so did the job.
    Broken(JobError),
}

/// What came of handing a job over on the spot.
#[derive(Debug)]
pub(crate) enum AtOnce {
    Replied(Reply),
    /// It has this much of its line, and did not answer soon enough: see [`Child::ask`].
    Begun {
        written: usize,
        waited: bool,
    },
    /// It knows of nothing.
    Not,
}

/// What came of one step.
enum Step {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Exited,
    Cancelled,
    Alarm,
    Other,
}

impl Child {
    pub(crate) fn start(program: &Program) -> Result<Self, StartError> {
        let Started { mut group, watch, cell } = run::start(program, &[("QUEUE_EXEC_MODE", "pool".to_owned())])?;
        let stdin = group.child.stdin.take().map(|pipe| Pipe::new(pipe.into_owned_fd()?, Interest::WRITABLE));
        let stdout = group.child.stdout.take().map(|pipe| Pipe::new(pipe.into_owned_fd()?, Interest::READABLE));
        let exhausted = |source| StartError::Exhausted { program: program.name().into(), source };
        let stdin = stdin.transpose().map_err(exhausted)?;
        let stdout = stdout.transpose().map_err(exhausted)?;
        let stderr = Reader::new(group.child.stderr.take(), program.limits().max_stderr, Keep::Tail);
        let (heard, searched) = (Vec::new(), 0);
        Ok(Self {
            group,
            watch,
            cell,
            stdin,
            stdout,
            stderr,
            heard,
            searched,
            credit: MAX_CREDIT / 2,
            nearness: Nearness::default(),
            turns: Turns::default(),
            answered: 0,
        })
    }

    /// How many jobs it has answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    pub(crate) fn is_dead(&mut self) -> bool {
        self.watch.has_seen_the_exit()
    }

    /// Hands it a job and waits for the answer on the spot, if it has earned that: this holds up the thread for some
    /// microseconds. Where others than the two want this processor, giving the process its turn may give them theirs, which is
    /// as long as the system's scheduler makes it, some milliseconds: it loses what it has earned once that is seen, which is
    /// the second time at the latest. What was begun must be asked on.
    pub(crate) fn ask_at_once(&mut self, job: &JobContext, request: &Request, limits: &Limits) -> AtOnce {
        if self.credit == 0 || job.is_cancelled() || self.speaks_out_of_turn() {
            return AtOnce::Not;
        }
        if self.credit == MAX_CREDIT {
            self.nearness.come_near(self.group.leader());
        }
        let written = self.hand_over(request.line());
        if written < request.line().len() {
            return AtOnce::Begun { written, waited: false };
        }
        if !self.wait_on_the_spot() {
            return AtOnce::Begun { written, waited: true };
        }
        match self.understood(job, request.id(), limits) {
            Some(Ok(answer)) => {
                // It may have lost all of it while it answered.
                if self.credit > 0 {
                    self.credit = MAX_CREDIT.min(self.credit + 1);
                }
                AtOnce::Replied(self.has_answered(answer, true))
            }
            Some(Err(why)) => AtOnce::Replied(self.nonsense(&why)),
            None => AtOnce::Begun { written, waited: false },
        }
    }

    /// Hands it a job and hears what it says of it, until the deadline or a cancel. Where that was begun on the spot, goes on
    /// with it.
    pub(crate) async fn ask(
        &mut self,
        job: &JobContext,
        request: &Request,
        begun: Option<(usize, bool)>,
        deadline: Instant,
        limits: &Limits,
    ) -> Reply {
        if begun.is_none() && self.speaks_out_of_turn() {
            // An answer to an earlier job, be it this one's last attempt, must not be taken for this one's.
            return Reply::Gone;
        }
        let (written, waited) = begun.unwrap_or_default();
        self.nearness.let_go(self.group.leader());
        let begun = Instant::now();
        let reply = self.hear(job, request, &request.line()[written..], begun, deadline, limits).await;
        match !waited && begun.elapsed() < PROMPT {
            true => {
                self.credit = MAX_CREDIT.min(self.credit + 1);
                self.stdin.iter_mut().chain(&mut self.stdout).for_each(Pipe::unregister);
            }
            false => self.credit = self.credit.saturating_sub(2),
        }
        reply
    }

    /// Whether it is kept on that processor.
    pub(crate) fn is_at(&self, processor: usize) -> bool {
        self.nearness.is_at(processor)
    }

    /// Whether it wrote something that nobody asked for, since it answered. What it wrote to stderr is about no job, and
    /// forgotten. Both are asked for at once, and before every job.
    fn speaks_out_of_turn(&mut self) -> bool {
        let out = self.stdout.as_ref().map(|pipe| PollFd::new(&pipe.end, PollFlags::IN));
        let err = self.stderr.pipe().map(|pipe| PollFd::new(pipe, PollFlags::IN));
        let (spoke, complained) = match (out, err) {
            (Some(out), Some(err)) => {
                let mut both = [out, err];
                (poll(&mut both, Some(&NOW)).map(|_| both[0].revents()), !both[1].revents().is_empty())
            }
            (Some(out), None) => {
                let mut one = [out];
                (poll(&mut one, Some(&NOW)).map(|_| one[0].revents()), false)
            }
            (None, _) => (Ok(PollFlags::empty()), true),
        };
        // A poll that was interrupted has seen nothing.
        match complained || spoke.is_err() {
            true => self.stderr.forget(),
            false => self.stderr.clear(),
        }
        self.answered > 0 && spoke.is_ok_and(|spoke| spoke.contains(PollFlags::IN))
    }

    /// As much of a line as goes into the pipe at once.
    fn hand_over(&self, line: &[u8]) -> usize {
        self.stdin.as_ref().and_then(|pipe| rustix::io::write(&pipe.end, line).ok()).unwrap_or(0)
    }

    /// Whether it said something before a thread may be held up no longer.
    fn wait_on_the_spot(&mut self) -> bool {
        let Some(pipe) = &self.stdout else { return false };
        // On one processor it often had its turn as soon as it was given its job, and has answered by now. If not, it is given
        // its turn: that is cheaper by far than a timer, which only a process elsewhere, or a slow one, is worth.
        let near = self.nearness.is_at(near::here());
        for turn in 0..=usize::from(near) {
            if turn > 0 && !self.turns.give(PROMPT, Instant::now, std::thread::yield_now) {
                self.credit = 0;
            }
            match pipe.read_now(&mut self.heard) {
                Ok(read) => return read > 0,
                Err(Errno::AGAIN) if self.credit > 0 => {}
                Err(_) => return false,
            }
        }
        let patience = Timespec { tv_sec: 0, tv_nsec: PROMPT.subsec_nanos().into() };
        let ready = poll(&mut [PollFd::new(&pipe.end, PollFlags::IN)], Some(&patience));
        ready == Ok(1) && matches!(pipe.read_now(&mut self.heard), Ok(1..))
    }

    fn has_answered(&mut self, answer: Result<Bytes, JobError>, well: bool) -> Reply {
        self.answered += 1;
        // What comes after the answer is about no job: the next one must not be blamed for it.
        let well = well && self.heard.is_empty();
        if well { Reply::Answered(answer) } else { Reply::AnsweredLast(answer) }
    }

    async fn hear(
        &mut self,
        job: &JobContext,
        request: &Request,
        mut left: &[u8],
        begun: Instant,
        deadline: Instant,
        limits: &Limits,
    ) -> Reply {
        let mut cancelled = pin!(job.cancelled());
        let mut alarm = pin!(sleep_until(deadline));
        let mut stopping = false;
        loop {
            // Reading comes before the exit: what was said in time counts.
            let step = tokio::select! {
                biased;
                written = write(self.stdin.as_mut(), left), if !left.is_empty() => Step::Written(written),
                read = read(self.stdout.as_mut(), &mut self.heard) => Step::Read(read),
                _ = self.stderr.read() => Step::Other,
                () = self.watch.exited() => Step::Exited,
                () = cancelled.as_mut(), if !stopping => Step::Cancelled,
                () = alarm.as_mut() => Step::Alarm,
            };
            match step {
                Step::Written(Ok(written)) => {
                    left = &left[written..];
                    continue;
                }
                Step::Other => continue,
                Step::Read(Ok(read)) if read > 0 => {}
                Step::Cancelled => {
                    stopping = true;
                    self.group.terminate();
                    let grace = begun.elapsed().checked_add(limits.grace).and_then(|grace| begun.checked_add(grace));
                    alarm.as_mut().reset(grace.unwrap_or(deadline).min(deadline));
                    continue;
                }
                Step::Exited if !stopping => self.hear_the_rest(limits.max_stdout),
                Step::Exited | Step::Written(_) | Step::Read(_) | Step::Alarm if stopping => return Reply::Cancelled,
                Step::Written(_)
                    if left.len() == request.line().len() && self.answered > 0 && self.is_dying().await =>
                {
                    return Reply::Gone;
                }
                Step::Written(_) => return self.broken("closed its stdin", limits).await,
                Step::Read(_) => return self.broken("closed its stdout", limits).await,
                Step::Alarm => return self.timed_out(begun.elapsed(), limits).await,
                Step::Exited => {}
            }
            match self.understood(job, request.id(), limits) {
                Some(Ok(answer)) => {
                    // Before it has read all of its job it cannot know the answer, and the rest would be taken for another.
                    return self.has_answered(answer, !stopping && left.is_empty() && !matches!(step, Step::Exited));
                }
                Some(Err(why)) => return self.nonsense(&why),
                None if matches!(step, Step::Exited) => return self.broken("ended", limits).await,
                None => {}
            }
        }
    }

    /// Goes through the lines that were heard, up to the answer.
    fn understood(&mut self, job: &JobContext, id: &str, limits: &Limits) -> Option<Heard> {
        loop {
            let end = memchr(b'\n', &self.heard[self.searched..]);
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.heard.len();
                return (self.heard.len() > limits.max_stdout).then(|| Err(too_long(limits)));
            };
            self.searched = 0;
            if end > limits.max_stdout {
                return Some(Err(too_long(limits)));
            }
            let said = protocol::read(&self.heard[..end], id);
            self.heard.drain(..=end);
            match said {
                Ok(Said::Result(result)) => return Some(Ok(Ok(result))),
                Ok(Said::Error(error)) => return Some(Ok(Err(self.with_stderr(error)))),
                Ok(Said::Progress(progress)) => job.report(&progress),
                Ok(Said::Log(line)) => job.log(line),
                Err(why) => return Some(Err(why)),
            }
        }
    }

    /// What it wrote before it exited.
    fn hear_the_rest(&mut self, limit: usize) {
        let Some(pipe) = self.stdout.take() else { return };
        while self.heard.len() <= limit && matches!(pipe.read_now(&mut self.heard), Ok(1..)) {}
    }

    /// Whether it exits by itself, now that it reads no more.
    async fn is_dying(&mut self) -> bool {
        timeout(LAST_BREATH, self.watch.exited()).await.is_ok()
    }

    /// It will not answer any more: says how it ended, if it does.
    async fn broken(&mut self, what: &str, limits: &Limits) -> Reply {
        let by_itself = self.is_dying().await;
        let allowed = limits.cpu_seconds();
        let used = allowed.and_then(|_| exit::cpu_seconds(self.group.leader()));
        let status = timeout(KILL_WAIT, self.group.finish()).await;
        let Some(Ok(status)) = status.ok().filter(|_| by_itself) else {
            let message = format!("the process {what} before it answered, and was killed");
            return Reply::Broken(self.with_stderr(JobError::new(ErrorCode::HandlerFailed, message)));
        };
        let end = run::by_itself(status);
        let limit = run::limit_of(end, used.zip(allowed), self.refused());
        let what = format!("the process ended before it answered, {}", described(status));
        let error = at_limit(&what, limit, self.cell.is_some(), limits);
        Reply::Broken(self.with_stderr(error))
    }

    async fn timed_out(&mut self, after: Duration, limits: &Limits) -> Reply {
        self.group.kill();
        // Its last words are in the pipe once it is gone.
        let _ = timeout(LAST_BREATH, self.watch.exited()).await;
        let refused = (self.refused() > 0).then(|| Limit::Processes(self.refused()));
        let message = format!("killed at its timeout, after {:.1} s{}", after.as_secs_f64(), refusals(refused, limits));
        Reply::TimedOut(self.with_stderr(JobError::new(ErrorCode::Timeout, message)))
    }

    fn nonsense(&mut self, why: &str) -> Reply {
        self.group.kill();
        let message = format!("the process was killed: it wrote {why}");
        Reply::Broken(self.with_stderr(JobError::new(ErrorCode::HandlerFailed, message)))
    }

    fn refused(&self) -> u64 {
        self.cell.as_ref().map_or(0, Cell::refused)
    }

    /// Adds what it wrote to stderr since it got the job, unless it told more by itself.
    fn with_stderr(&mut self, error: JobError) -> JobError {
        let said = self.stderr.so_far();
        let said = said.text();
        if said.is_empty() || error.detail.is_some() { error } else { error.with_detail(said) }
    }

    /// Lets it end by itself, which the end of its stdin asks it to, and kills it after the grace.
    pub(crate) async fn leave(mut self, grace: Duration) {
        self.stdin = None;
        let gone = async {
            loop {
                // It may say what it likes; a full pipe must not hold it.
                self.heard.clear();
                tokio::select! {
                    biased;
                    () = self.watch.exited() => return,
                    read = read(self.stdout.as_mut(), &mut self.heard) => if !matches!(read, Ok(1..)) { self.stdout = None },
                    _ = self.stderr.read() => {}
                }
            }
        };
        let _ = timeout(grace, gone).await;
        let _ = timeout(KILL_WAIT, self.group.finish()).await;
    }
}

/// An answer, or why what was heard is none.
type Heard = Result<Result<Bytes, JobError>, String>;

fn too_long(limits: &Limits) -> String {
    format!("a line of more than {} bytes", limits.max_stdout)
}

fn described(status: ExitStatus) -> String {
    match run::by_itself(status) {
        End::Signalled(signal) => format!("killed by signal {signal}"),
        End::Exited(code) => format!("exit status {code}"),
        _ => "in a way that is not known".to_owned(),
    }
}

async fn write(pipe: Option<&mut Pipe>, line: &[u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.when_ready(|end| rustix::io::write(end, line)).await,
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

async fn read(pipe: Option<&mut Pipe>, heard: &mut Vec<u8>) -> io::Result<usize> {
    let Some(pipe) = pipe else { return std::future::pending().await };
    heard.reserve(CHUNK);
    pipe.when_ready(|end| rustix::io::read(end, spare_capacity(heard))).await
}
