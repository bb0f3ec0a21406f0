//! What a run may take.

use std::{fmt, time::Duration};

/// What a run may take. Default: time and output are bounded, the rest is as this process has it.
///
/// | limit | binds | by | reaching it |
/// |---|---|---|---|
/// | `timeout` | the group | SIGKILL | [`End::TimedOut`](crate::End::TimedOut) |
/// | `max_stdout` | the program | SIGKILL | [`End::OutputTooLarge`](crate::End::OutputTooLarge) |
/// | `memory` | each process | `RLIMIT_AS` | allocating fails, and the program ends by its own means |
/// | `cpu_time` | each process | `RLIMIT_CPU` | SIGXCPU, one second later SIGKILL |
/// | `open_files` | each process | `RLIMIT_NOFILE` | opening fails (`EMFILE`) |
/// | `processes` | all of a run together | cgroup `pids.max` | `fork` fails (`EAGAIN`) |
/// | `processes` of a [user](crate::Program::user) | all that the user runs | `RLIMIT_NPROC` | `fork` fails (`EAGAIN`) |
///
/// All bind root too, but the last, which therefore is not offered to root; where `processes` can be had neither way, the
/// program is refused ([`LimitError::Processes`]). They need Linux; elsewhere a program that sets one of the last five is
/// refused, not run without.
///
/// Memory, CPU time and open files are set from outside right after the start, on the program and on what it may have forked
/// by then; what it allocated or opened within those microseconds it keeps, and only a descendant that left the group
/// (`setsid`) within them escapes. With `processes` or a user, all limits stand before the program begins; this takes a
/// `/bin/sh` that becomes the program and halves the rate of starts. A process with `CAP_SYS_RESOURCE` can raise its own
/// rlimits again: they stop mistakes, and malice only together with a user without rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Then the whole process group is killed (SIGKILL). Default: 60 s.
    pub timeout: Duration,
    /// The most bytes of stdout; one more kills the process group. Default: 1 MiB.
    ///
    /// A [`ProcessPool`](crate::ProcessPool) takes it for the longest line.
    pub max_stdout: usize,
    /// How many bytes of the end of stderr are kept. Default: 8 KiB.
    pub max_stderr: usize,
    /// How long a cancelled program may take to stop after SIGTERM, within the timeout. Default: 5 s.
    pub grace: Duration,
    /// The most bytes of address space of each process. Default: as this process has it.
    pub memory: Option<u64>,
    /// The most processor time of each process, in whole seconds, rounded up. Default: as this process has it.
    pub cpu_time: Option<Duration>,
    /// The most open files of each process, 0, 1 and 2 among them. Default: as this process has it.
    pub open_files: Option<u64>,
    /// The most processes and threads at once, the program itself among them. Default: as this process has it.
    pub processes: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_stdout: 1 << 20,
            max_stderr: 8 << 10,
            grace: Duration::from_secs(5),
            memory: None,
            cpu_time: None,
            open_files: None,
            processes: None,
        }
    }
}

impl Limits {
    /// For a worker that runs small programs: 512 MiB of address space for each process, and 30 s for a run. The rest is as by
    /// default.
    ///
    /// A [`ProcessHandler`](crate::ProcessHandler) and a [`ProcessPool`](crate::ProcessPool) go by the timeout of their jobs
    /// instead: give the queue the same, `QueueSpec::timeout`.
    #[must_use]
    pub fn process_worker() -> Self {
        Self { timeout: Duration::from_secs(30), memory: Some(512 << 20), ..Self::default() }
    }

    /// The limits that a program may have run into without anybody knowing, for the message of its failure.
    ///
    /// Whether it was refused a process is known where a cgroup counts that.
    pub(crate) fn suspects(&self, counted: bool) -> String {
        let memory = self.memory.map(|bytes| format!("{} of memory", Size(bytes)));
        let files = self.open_files.map(|files| format!("{files} open files"));
        let processes =
            self.processes.filter(|_| !counted).map(|processes| format!("{processes} processes of its user"));
        let said: Vec<String> = memory.into_iter().chain(files).chain(processes).collect();
        if said.is_empty() { String::new() } else { format!(" (its limits: {})", said.join(", ")) }
    }

    /// As the system counts it.
    pub(crate) fn cpu_seconds(&self) -> Option<u64> {
        self.cpu_time.map(|time| (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1))
    }
}

/// A limit that a program ran into, as far as the system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// [`Limits::cpu_time`].
    CpuTime,
    /// [`Limits::processes`]: so many times it was refused another process. Of a [user](crate::Program::user) the system does
    /// not tell.
    Processes(u64),
}

/// A limit that cannot be kept here. The program was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// [`Limits::processes`], and nothing that could enforce it.
    #[error(
        "the number of processes cannot be limited here: {why}; rlimits count per user and do not bind root, so it takes a \
         cgroup with the pids controller that this process may write to (run under `systemd-run -p Delegate=yes`, or as \
         root outside a container with a read-only /sys/fs/cgroup), or root and a user of the program's own"
    )]
    Processes {
        /// What is missing.
        why: String,
    },
    /// Another user, and this process is not root.
    #[error(
        "only root can run a program as another user (user id {uid}): run this process as root, or leave the user out"
    )]
    User {
        /// The user asked for.
        uid: u32,
    },
    /// No `prlimit`, or no `/proc` to see by what the program forked meanwhile.
    #[error("limits on memory, CPU time, open files and processes need Linux with /proc mounted: leave them out here")]
    System,
}

/// `512 MiB`.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up_and_never_zero() {
        let seconds = |time| Limits { cpu_time: Some(time), ..Limits::default() }.cpu_seconds();
        assert_eq!(seconds(Duration::ZERO), Some(1));
        assert_eq!(seconds(Duration::from_secs(2)), Some(2));
        assert_eq!(seconds(Duration::from_millis(2_001)), Some(3));
        assert_eq!(Limits::default().cpu_seconds(), None);
    }

    #[test]
    fn a_worker_of_small_programs_has_512_mib_and_30_s() {
        let Limits { timeout, memory, max_stdout, cpu_time, open_files, processes, .. } = Limits::process_worker();
        assert_eq!((timeout, memory), (Duration::from_secs(30), Some(536_870_912)));
        assert_eq!((max_stdout, cpu_time, open_files, processes), (1 << 20, None, None, None));
    }

    #[test]
    fn suspects_are_those_that_are_set() {
        assert_eq!(Limits::default().suspects(false), "");
        let limits = Limits { memory: Some(512 << 20), open_files: Some(9), processes: Some(4), ..Limits::default() };
        assert_eq!(limits.suspects(true), " (its limits: 512 MiB of memory, 9 open files)");
        assert_eq!(limits.suspects(false), " (its limits: 512 MiB of memory, 9 open files, 4 processes of its user)");
        assert_eq!(Size(1_000).to_string(), "1000 bytes");
    }
}
