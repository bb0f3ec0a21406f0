//! Knows when the leader has exited, and leaves it unreaped: until it is reaped its number belongs to it, so its group
//! can be killed without meeting a stranger.

use std::{io, time::Duration};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How late an exit is seen at most without a descriptor of the process, and with SIGCHLD blocked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) enum Watch {
    /// Wakes this run alone.
    #[cfg(target_os = "linux")]
    Descriptor(AsyncFd<std::os::fd::OwnedFd>),
    /// Every SIGCHLD wakes every run, each of which looks for itself: other systems, kernels before 5.3, and where descriptors
    /// have run out.
    Signal(Signal, Pid),
}

impl Watch {
    #[allow(deprecated, reason = "sound for an `OwnedFd`; what replaces it is unsafe for the sake of other types")]
    pub(crate) fn new(leader: Pid) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Ok(descriptor) = rustix::process::pidfd_open(leader, rustix::process::PidfdFlags::NONBLOCK)
            && let Ok(descriptor) = AsyncFd::with_interest(descriptor, tokio::io::Interest::READABLE)
        {
            return Ok(Self::Descriptor(descriptor));
        }
        Self::by_signal(leader)
    }

    pub(crate) fn by_signal(leader: Pid) -> io::Result<Self> {
        Ok(Self::Signal(signal(SignalKind::child())?, leader))
    }

    /// Whether the leader has exited, as far as is known without asking the system anew.
    pub(crate) fn has_seen_the_exit(&mut self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Descriptor(descriptor) => descriptor.try_io(tokio::io::Interest::READABLE, |_| Ok(())).is_ok(),
            Self::Signal(..) => {
                let exited = std::pin::pin!(self.exited());
                let mut nobody = std::task::Context::from_waker(std::task::Waker::noop());
                exited.poll(&mut nobody).is_ready()
            }
        }
    }

    /// Returns when the leader has exited. May be dropped and called again.
    pub(crate) async fn exited(&mut self) {
        match self {
            // An error means that nobody will ever tell; the reaper then waits by its own means.
            #[cfg(target_os = "linux")]
            Self::Descriptor(descriptor) => drop(descriptor.readable().await),
            Self::Signal(signal, leader) => {
                // Where it is blocked nobody hears it.
                while !has_exited(*leader) && !matches!(tokio::time::timeout(LOOK_EVERY, signal.recv()).await, Ok(None))
                {
                }
            }
        }
    }
}

/// Whether the leader has exited. A child that is not there (reaped by somebody else) has.
pub(crate) fn has_exited(leader: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(leader), look), Ok(None))
}

/// The processor time of a leader that has exited and was not reaped.
pub(crate) fn cpu_seconds(leader: Pid) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", leader.as_raw_pid())).ok()?;
    // The name in parentheses may hold anything; after it, user and system time are the 12th and 13th.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{group::Group, program::Program};

    /// Both ways must see the exit, say so again, and leave the leader to be reaped.
    async fn sees_the_exit(watch: impl Fn(Pid) -> io::Result<Watch>) {
        for script in ["exit 7", "sleep 0.2; exit 7"] {
            let mut group = Group::spawn(&mut Program::shell(script).unwrap().to_command(None)).unwrap();
            let mut watch = watch(group.leader()).unwrap();
            for _ in 0..2 {
                tokio::time::timeout(Duration::from_secs(5), watch.exited()).await.unwrap();
                assert!(has_exited(group.leader()));
            }
            assert_eq!(group.finish().await.unwrap().code(), Some(7));
        }
    }

    #[tokio::test]
    async fn by_descriptor() {
        sees_the_exit(Watch::new).await;
    }

    #[tokio::test]
    async fn by_signal() {
        sees_the_exit(Watch::by_signal).await;
    }

    /// As where SIGCHLD is blocked.
    #[tokio::test]
    async fn by_looking_where_no_signal_comes() {
        sees_the_exit(|leader| Ok(Watch::Signal(signal(SignalKind::user_defined2())?, leader))).await;
    }

    #[tokio::test]
    async fn a_running_leader_has_not_exited() {
        let group = Group::spawn(&mut Program::shell("sleep 91").unwrap().to_command(None)).unwrap();
        assert!(!has_exited(group.leader()));
        let mut watch = Watch::by_signal(group.leader()).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), watch.exited()).await.is_err());
    }
}
