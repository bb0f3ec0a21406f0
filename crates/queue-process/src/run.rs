//! One run, from the start to the reaped leader.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    pin::{Pin, pin},
    process::ExitStatus,
    time::Duration,
};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::{
    process::Child,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    bare::{self, Bare},
    cgroup::Cell,
    descriptors,
    error::StartError,
    exit::{self, Watch},
    group::Group,
    limits::Limit,
    output::{Reading, Tail},
    pipes::{Pipes, Theirs},
    program::Program,
};

/// How long a killed leader may take to be gone. Only one stuck inside the kernel, or running as another user, does.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// A program that is over by then is not waited for at its pipes. One that fills a pipe before is held up until then, once:
/// its next run is waited for from the start.
const FIRST_MOMENT: Duration = Duration::from_millis(10);
/// A program that writes that much may fill a pipe.
const MUCH: u64 = 16 << 10;

/// What one run gets.
#[derive(Debug, Clone, Default)]
pub struct Execution<'a> {
    /// What it reads from stdin.
    pub input: Bytes,
    /// Variables for this run, over those of the program.
    pub variables: &'a [(&'a str, String)],
    /// Instead of [`Limits::timeout`](crate::Limits::timeout).
    pub timeout: Option<Duration>,
}

impl Execution<'_> {
    /// A run with this input and nothing else.
    #[must_use]
    pub fn new(input: impl Into<Bytes>) -> Self {
        Self { input: input.into(), ..Self::default() }
    }
}

/// How a started program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal that this library did not send.
    Signalled(i32),
    /// Killed at its timeout.
    TimedOut,
    /// Killed because it wrote more than [`Limits::max_stdout`](crate::Limits::max_stdout). Another run would write as much.
    OutputTooLarge,
    /// Stopped on request, by itself within the grace or killed after it.
    Cancelled,
    /// It is over, and its status was taken by somebody else in this process.
    Lost,
}

/// What a run left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub end: End,
    /// What it wrote to stdout, at most [`Limits::max_stdout`](crate::Limits::max_stdout) bytes.
    pub stdout: Bytes,
    /// The end of what it wrote to stderr.
    pub stderr: Tail,
    /// The limit that it ran into, where the system tells: memory and open files show only in what the program does then.
    pub limit: Option<Limit>,
    /// Whether refused processes were counted: a cgroup does.
    pub(crate) counted: bool,
    /// From before its start to after its end.
    pub run_time: Duration,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Asked to stop.
    Stopping,
    /// Killed, and why.
    Killed(End),
}

pub(crate) async fn run(
    program: &Program,
    execution: Execution<'_>,
    cancel: impl Future<Output = ()>,
) -> Result<Finished, StartError> {
    let begun = Instant::now();
    let limits = program.limits();
    let timeout = execution.timeout.unwrap_or(limits.timeout);
    let exhausted = |source| StartError::Exhausted { program: program.name().into(), source };
    let (mut pipes, theirs) = Pipes::new(execution.input, limits).map_err(exhausted)?;
    let Started { group, watch, cell } = start_once(program, execution.variables, theirs)?;
    if pipes.must_flow() || program.wrote_much() {
        pipes.flow().map_err(exhausted)?;
    }
    let counted = cell.is_some();
    let run = Run { group, watch, pipes, grace: limits.grace, cpu_seconds: limits.cpu_seconds(), cell };
    let Ended { end, limit, pipes } = run.see_through(begun, timeout, pin!(cancel)).await.map_err(exhausted)?;
    let (stdout, stderr) = pipes.into_output();
    program.writes_much(stdout.len() as u64 + stderr.bytes.len() as u64 + stderr.dropped > MUCH);
    Ok(Finished { end, stdout, stderr, limit, counted, run_time: begun.elapsed() })
}

/// A program that was just started, limited and watched.
pub(crate) struct Started<C = Child> {
    pub(crate) group: Group<C>,
    pub(crate) watch: Watch,
    /// After the group, so that it is emptied when the group was killed.
    pub(crate) cell: Option<Cell>,
}

/// Starts one that stays.
pub(crate) fn start(program: &Program, variables: &[(&str, String)]) -> Result<Started, StartError> {
    start_by(program, |shim| {
        let mut command = program.to_command(shim);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Group::spawn(&mut command)
    })
}

/// Starts one for a single run, with these pipes.
fn start_once(program: &Program, variables: &[(&str, String)], ends: Theirs) -> Result<Started<Bare>, StartError> {
    bare::reap_the_left();
    start_by(program, |shim| program.spawn(shim, variables, ends).map(Group::led_by))
}

fn start_by<C>(
    program: &Program,
    spawn: impl FnOnce(Option<&str>) -> io::Result<Group<C>>,
) -> Result<Started<C>, StartError> {
    let confinement = program.confinement()?;
    let exhausted = |source| StartError::Exhausted { program: program.name().into(), source };
    let cell = confinement.enter().map_err(exhausted)?;
    descriptors::close_on_exec();
    let shim = confinement.shim(cell.as_ref());
    let group = spawn(shim.as_deref()).map_err(|error| explain(program, error))?;
    // Where anything fails from here on, dropping the group kills what was just started: it cannot be looked after.
    confinement
        .bind(group.leader())
        .map_err(|source| StartError::Unlimited { program: program.name().into(), source })?;
    let watch = Watch::new(group.leader()).map_err(exhausted)?;
    Ok(Started { group, watch, cell })
}

/// A look at the file says more than the system's error, unless the system is out of something.
fn explain(program: &Program, error: io::Error) -> StartError {
    let name = PathBuf::from(program.name());
    if StartError::is_exhaustion(&error) {
        return StartError::Exhausted { program: name, source: error };
    }
    match program.check() {
        Err(explained) => explained,
        Ok(found) => StartError::from_spawn(name, found, error),
    }
}

/// A started program and what is needed to see it through.
struct Run {
    group: Group<Bare>,
    watch: Watch,
    pipes: Pipes,
    grace: Duration,
    cpu_seconds: Option<u64>,
    cell: Option<Cell>,
}

struct Ended {
    end: End,
    limit: Option<Limit>,
    pipes: Pipes,
}

impl Run {
    async fn see_through(
        mut self,
        begun: Instant,
        timeout: Duration,
        mut cancel: Pin<&mut impl Future<Output = ()>>,
    ) -> io::Result<Ended> {
        let deadline = far(begun, timeout);
        let mut alarm = pin!(sleep_until(deadline.min(far(begun, FIRST_MOMENT))));
        let mut phase = Phase::Running;
        loop {
            // In this order: an exit beats the alarm that rings with it, and output cannot keep either from being seen.
            tokio::select! {
                biased;
                () = self.watch.exited() => break,
                () = alarm.as_mut() => match phase {
                    // It may have exited while this task waited for its turn.
                    Phase::Running | Phase::Stopping if exit::has_exited(self.group.leader()) => break,
                    Phase::Running if alarm.deadline() < deadline => {
                        self.pipes.flow()?;
                        alarm.as_mut().reset(deadline);
                    }
                    Phase::Running => phase = self.kill(End::TimedOut, alarm.as_mut()),
                    Phase::Stopping => phase = self.kill(End::Cancelled, alarm.as_mut()),
                    Phase::Killed(end) => return Ok(Ended { end, limit: None, pipes: self.pipes }),
                },
                () = cancel.as_mut(), if phase == Phase::Running => {
                    phase = Phase::Stopping;
                    self.group.terminate();
                    self.pipes.flow()?;
                    let until = far(Instant::now(), self.grace).min(deadline);
                    alarm.as_mut().reset(until);
                }
                reading = self.pipes.move_on() => if reading == Reading::TooMuch && phase == Phase::Running {
                    phase = self.kill(End::OutputTooLarge, alarm.as_mut());
                },
            }
        }
        let cpu_time = self.cpu_seconds.and_then(|_| exit::cpu_seconds(self.group.leader()));
        let status = self.group.finish().await;
        let reading = self.pipes.close();
        let end = match (phase, status) {
            (Phase::Killed(end), _) => end,
            (Phase::Stopping, _) => End::Cancelled,
            (Phase::Running, _) if reading == Reading::TooMuch => End::OutputTooLarge,
            (Phase::Running, Ok(status)) => by_itself(status),
            (Phase::Running, Err(_)) => End::Lost,
        };
        let refused = self.cell.as_ref().map_or(0, Cell::refused);
        Ok(Ended { end, limit: limit_of(end, cpu_time.zip(self.cpu_seconds), refused), pipes: self.pipes })
    }

    fn kill(&self, end: End, alarm: Pin<&mut Sleep>) -> Phase {
        self.group.kill();
        alarm.reset(far(Instant::now(), KILL_WAIT));
        Phase::Killed(end)
    }
}

/// So late, or as late as there is.
fn far(from: Instant, after: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    from.checked_add(after.min(YEAR)).unwrap_or(from)
}

/// Which limit explains an end, by the CPU time that was used and allowed, and how often a process was refused.
pub(crate) fn limit_of(end: End, cpu_time: Option<(f64, u64)>, refused: u64) -> Option<Limit> {
    let spent = cpu_time.is_some_and(|(used, allowed)| used >= allowed as f64);
    match end {
        // A shell says it so of a program that it waited for.
        End::Signalled(SIGXCPU) => Some(Limit::CpuTime),
        End::Exited(code) if code == 128 + SIGXCPU && cpu_time.is_some() => Some(Limit::CpuTime),
        End::Signalled(SIGKILL) if spent => Some(Limit::CpuTime),
        End::Exited(0) => None,
        _ => (refused > 0).then_some(Limit::Processes(refused)),
    }
}

const SIGXCPU: i32 = Signal::XCPU.as_raw();
const SIGKILL: i32 = Signal::KILL.as_raw();

pub(crate) fn by_itself(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, Some(signal)) => End::Signalled(signal),
        (None, None) => End::Lost,
    }
}
