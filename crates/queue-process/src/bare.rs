//! A child of which nothing is known but its number. Until it is reaped the number belongs to it.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::runtime::Handle;

use crate::exit::Watch;

/// Killed, and nobody was left to wait for them: their runtime ended first. Reaped at the next start.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// To be reaped. Dropped before, it must have been killed, and is reaped when it is gone.
#[derive(Debug)]
pub(crate) struct Bare {
    pid: Option<Pid>,
    orphan: bool,
}

impl Bare {
    pub(crate) fn new(pid: Pid) -> Self {
        Self { pid: Some(pid), orphan: false }
    }

    /// Waits for its end and takes its status.
    pub(crate) async fn reap(&mut self) -> io::Result<ExitStatus> {
        let Some(pid) = self.pid else { return Err(io::ErrorKind::NotFound.into()) };
        loop {
            match try_reap(pid) {
                Ok(None) => Watch::by_signal(pid)?.exited().await,
                Ok(Some(status)) => {
                    self.pid = None;
                    return Ok(status);
                }
                Err(error) => {
                    self.pid = None;
                    return Err(error);
                }
            }
        }
    }

    async fn see_off(self) {
        if let Some(Ok(mut watch)) = self.pid.map(Watch::new) {
            watch.exited().await;
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let Some(pid) = self.pid.take().filter(|pid| is_left(*pid)) else { return };
        match Handle::try_current() {
            // Lives as long as the process, which was killed.
            Ok(runtime) if !self.orphan => drop(runtime.spawn(Self { pid: Some(pid), orphan: true }.see_off())),
            _ => LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(pid),
        }
    }
}

/// Reaps those that nobody waits for.
pub(crate) fn reap_the_left() {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| is_left(*pid));
}

/// Whether it is still to be reaped, after an attempt to.
fn is_left(pid: Pid) -> bool {
    matches!(try_reap(pid), Ok(None))
}

fn try_reap(pid: Pid) -> io::Result<Option<ExitStatus>> {
    let ended = waitpid(Some(pid), WaitOptions::NOHANG)?;
    Ok(ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Group;

    #[allow(clippy::zombie_processes, reason = "what is tested reaps it")]
    fn sleeper() -> Pid {
        use std::os::unix::process::CommandExt as _;
        let child = std::process::Command::new("sleep").arg("89").process_group(0).spawn().unwrap();
        Pid::from_raw(child.id() as i32).unwrap()
    }

    /// Whether anything, a zombie too, has this number; reaps nothing.
    fn is_there(pid: Pid) -> bool {
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[test]
    fn what_outlives_its_runtime_is_reaped_at_the_next_start() {
        let pid = sleeper();
        drop(Group::led_by(pid));
        for _ in 0..2_000 {
            reap_the_left();
            if !is_there(pid) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{pid:?} is there still");
    }

    #[tokio::test]
    async fn a_status_that_another_took_is_an_error() {
        let pid = sleeper();
        let mut group = Group::led_by(pid);
        group.kill();
        waitpid(Some(pid), WaitOptions::empty()).unwrap();
        assert!(group.finish().await.is_err());
    }

    #[tokio::test]
    async fn one_that_has_not_ended_is_waited_for() {
        let mut group = Group::led_by(sleeper());
        assert_eq!(group.finish().await.unwrap().signal(), Some(9));
    }
}
