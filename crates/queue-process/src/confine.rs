//! Sets limits on a program, in one of two ways.
//!
//! **From outside**, so that it can be started the cheap way (`posix_spawn`): memory, CPU time and open files. The program
//! runs for some microseconds before these stand, and may have forked: its children then have none. They are found by their
//! numbers. Every process that was made since has a number between the leader's and the newest one (`/proc/loadavg` tells
//! it), so those numbers in the leader's group are limited too, round after round until a round finds nobody new. In nearly
//! every case there is no number in between, and this costs one read.
//!
//! **From within**, where a number of processes or another user is asked for: a few lines of `sh` take the limits on
//! themselves and become the program. What forks without end would be thousands before anybody could move it into a cgroup,
//! and another user's process may not be limited from outside without `CAP_SYS_RESOURCE`.

use std::{io, sync::Arc};

use rustix::{
    io::Errno,
    process::{Pid, Resource, Rlimit, geteuid, getrlimit},
};

use crate::{
    cgroup::{Cell, Room},
    limits::{LimitError, Limits},
    program::User,
};

/// A program that forks faster than that many rounds can follow is killed.
const MAX_ROUNDS: usize = 100;

/// The limits of a program, ready to be set.
#[derive(Debug)]
pub(crate) struct Confinement {
    rlimits: Vec<(Resource, Rlimit)>,
    room: Option<Arc<Room>>,
    from_within: bool,
}

impl Confinement {
    pub(crate) fn prepare(limits: &Limits, user: Option<User>) -> Result<Self, LimitError> {
        if let Some(user) = user.filter(|user| !geteuid().is_root() && user.uid != geteuid().as_raw()) {
            return Err(LimitError::User { uid: user.uid });
        }
        let mut rlimits = Vec::new();
        let mut set = |resource, soft: Option<u64>, hard: u64| {
            if let Some(soft) = soft {
                // What this process may not have, it cannot give.
                let allowed = getrlimit(resource).maximum.unwrap_or(u64::MAX);
                let limit = Rlimit { current: Some(soft.min(allowed)), maximum: Some(hard.min(allowed)) };
                rlimits.push((resource, limit));
            }
        };
        let cpu = limits.cpu_seconds();
        set(Resource::As, limits.memory, limits.memory.unwrap_or_default());
        // A second between the two is for the program to see SIGXCPU and say so.
        set(Resource::Cpu, cpu, cpu.unwrap_or_default().saturating_add(1));
        set(Resource::Nofile, limits.open_files, limits.open_files.unwrap_or_default());
        let mut room = None;
        if let Some(processes) = limits.processes {
            // A dropped user may not join a cgroup by itself.
            match user.is_some_and(User::is_dropped) {
                true => set(Resource::Nproc, Some(processes.into()), processes.into()),
                false => room = Some(Arc::new(Room::find(processes).map_err(|why| LimitError::Processes { why })?)),
            }
        }
        let from_within = room.is_some() || (user.is_some() && !rlimits.is_empty());
        let possible = rlimits.is_empty() || from_within || newest().is_ok();
        if possible { Ok(Self { rlimits, room, from_within }) } else { Err(LimitError::System) }
    }

    /// The script that takes the limits on itself and becomes the program, which is to follow as its arguments.
    pub(crate) fn shim(&self, cell: Option<&Cell>) -> Option<String> {
        if !self.from_within {
            return None;
        }
        let mut script = String::new();
        for (resource, limit) in &self.rlimits {
            let (soft, hard) = (limit.current.unwrap_or_default(), limit.maximum.unwrap_or_default());
            script += &match resource {
                Resource::As => format!("ulimit -v {}", soft.div_ceil(1 << 10)),
                Resource::Cpu => format!("ulimit -S -t {soft} && ulimit -H -t {hard}"),
                // The one letter is dash's and busybox's, the other bash's and zsh's.
                Resource::Nproc => format!("{{ ulimit -u {soft} 2>/dev/null || ulimit -p {soft}; }}"),
                _ => format!("ulimit -n {soft}"),
            };
            script += " || exit 125; ";
        }
        if let Some(cell) = cell {
            // 0 is whoever writes it.
            let join = cell.join();
            let join = shell_words::quote(&join);
            script += &format!("echo 0 > {join} || exit 125; ");
        }
        Some(script + "exec \"$@\"")
    }

    /// Takes a cgroup for a run, where one is needed.
    pub(crate) fn enter(&self) -> io::Result<Option<Cell>> {
        self.room.as_ref().map(Room::take).transpose()
    }

    /// Sets the limits on a program that has just been started, and on what it forked meanwhile.
    pub(crate) fn bind(&self, leader: Pid) -> io::Result<()> {
        if self.rlimits.is_empty() || self.from_within {
            return Ok(());
        }
        self.bind_one(leader)?;
        let mut seen = leader.as_raw_pid();
        for _ in 0..MAX_ROUNDS {
            let newest = newest()?;
            if newest == seen {
                return Ok(());
            }
            let mut found = false;
            for pid in between(seen, newest) {
                if let Some(pid) = Pid::from_raw(pid).filter(|pid| group_of(*pid) == Some(leader)) {
                    found |= self.bind_one(pid)?;
                }
            }
            // Whoever forked before its limits stood was found in this round or before; so nobody is left who has none.
            if !found {
                return Ok(());
            }
            seen = newest;
        }
        Err(io::Error::other("it starts processes faster than they can be limited"))
    }

    /// Whether it was without them.
    fn bind_one(&self, pid: Pid) -> io::Result<bool> {
        let mut fresh = false;
        for (resource, limit) in &self.rlimits {
            match prlimit(pid, *resource, *limit) {
                Ok(old) => fresh |= old != *limit,
                Err(Errno::SRCH) => return Ok(fresh),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(fresh)
    }
}

/// The numbers that were given out after one, up to another; they begin again after the largest.
fn between(after: i32, until: i32) -> impl Iterator<Item = i32> {
    let (last, wrapped) = if until > after { (until, 0) } else { (largest(), until) };
    (after + 1..=last).chain(1..=wrapped)
}

fn largest() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse().unwrap_or(1 << 22)
}

/// From `/proc`: asked by `getpgid`, a thread of the kernel has none.
fn group_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The name in parentheses may hold anything; after it come the state, the parent and the group.
    let group: i32 = stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()?;
    // One that is about to be gone has the group -1.
    Pid::from_raw(group.max(0))
}

/// The number of the newest process or thread.
fn newest() -> io::Result<i32> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let last = text.split_ascii_whitespace().last().and_then(|word| word.parse().ok());
    last.ok_or_else(|| io::Error::other("/proc/loadavg names no newest process"))
}

#[cfg(target_os = "linux")]
fn prlimit(pid: Pid, resource: Resource, limit: Rlimit) -> rustix::io::Result<Rlimit> {
    rustix::process::prlimit(Some(pid), resource, limit)
}

#[cfg(not(target_os = "linux"))]
fn prlimit(_: Pid, _: Resource, _: Rlimit) -> rustix::io::Result<Rlimit> {
    Err(Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{group::Group, program::Program};

    #[test]
    fn numbers_begin_again_after_the_largest() {
        assert_eq!(between(5, 8).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(between(largest() - 1, 2).collect::<Vec<_>>(), [largest(), 1, 2]);
        assert_eq!(between(largest(), 1).collect::<Vec<_>>(), [1]);
    }

    /// What was forked before the limits stood has them too, orphans among it.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn children_of_the_first_moment_are_limited() {
        use tokio::io::{AsyncBufReadExt as _, BufReader};
        let limits = Limits { open_files: Some(77), ..Limits::default() };
        let confinement = Confinement::prepare(&limits, None).unwrap();
        let script = "sleep 50 & echo $!; sh -c 'sleep 51 & echo $!'; echo; read line";
        let mut group = Group::spawn(&mut Program::shell(script).unwrap().to_command(None)).unwrap();
        let mut lines = BufReader::new(group.child.stdout.take().unwrap()).lines();
        let mut pids = vec![group.leader().as_raw_pid()];
        while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
            pids.push(line.parse().unwrap());
        }
        assert_eq!(pids.len(), 3);
        confinement.bind(group.leader()).unwrap();
        for pid in &pids {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            assert_eq!(files.split_whitespace().filter(|word| *word == "77").count(), 2, "{files}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_newest_process_is_known() {
        let child = std::process::Command::new("true").spawn().unwrap();
        assert!(between(child.id() as i32 - 1, newest().unwrap()).take(10_000).any(|pid| pid == child.id() as i32));
        drop(child.wait_with_output());
    }
}
