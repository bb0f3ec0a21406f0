//! A child that leads a process group, which never outlives the handle.

use std::{io, process::ExitStatus};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use crate::{bare::Bare, sigchld::unblocked};

/// Of a child that was started by tokio, or of one of which no more than its number is kept.
#[derive(Debug)]
pub(crate) struct Group<C = Child> {
    /// Dropped unreaped, it goes to somebody who reaps it.
    pub(crate) child: C,
    leader: Pid,
    reaped: bool,
}

impl Group {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = unblocked(|| command.spawn())?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        match leader {
            Some(leader) => Ok(Self { child, leader, reaped: false }),
            None => Err(io::Error::other("the child has no process id")),
        }
    }

    /// Kills what the leader left behind, then takes the status of the leader, which must have exited.
    pub(crate) async fn finish(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        let status = match self.child.try_wait() {
            Ok(None) => self.child.wait().await,
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(error),
        };
        self.reaped = true;
        status
    }
}

impl Group<Bare> {
    /// Of a child of this process that was started to lead a group, and that nobody else will reap.
    pub(crate) fn led_by(leader: Pid) -> Self {
        Self { child: Bare::new(leader), leader, reaped: false }
    }

    /// Kills what the leader left behind, then takes the status of the leader, which must have exited.
    pub(crate) async fn finish(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        let status = self.child.reap().await;
        self.reaped = true;
        status
    }
}

impl<C> Group<C> {
    pub(crate) fn leader(&self) -> Pid {
        self.leader
    }

    /// SIGTERM to all.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL to all.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if !self.reaped {
            // Nobody left, or nobody who may be signalled: there is nothing else to try.
            let _ = kill_process_group(self.leader, signal);
            // The leader too, should it have moved to another group.
            let _ = kill_process(self.leader, signal);
        }
    }
}

impl<C> Drop for Group<C> {
    fn drop(&mut self) {
        self.kill();
    }
}
