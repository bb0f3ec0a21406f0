//! Keeps a prompt process on the processor of the thread that waits for it.
//!
//! The two take turns and never run at once, so one processor is enough for both; to wake the other one's costs more than the
//! whole conversation, many times more in a virtual machine. A process that takes its time goes where it likes.

use rustix::process::Pid;

#[derive(Debug, Default)]
pub(super) struct Nearness {
    #[cfg(target_os = "linux")]
    bound: Option<Bound>,
    #[cfg(target_os = "linux")]
    refused: bool,
}

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Bound {
    processor: usize,
    /// Where it might run before.
    allowed: rustix::thread::CpuSet,
}

#[cfg(target_os = "linux")]
impl Nearness {
    /// To the processor of this thread.
    pub(super) fn come_near(&mut self, process: Pid) {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let here = here();
        if self.refused || self.is_at(here) {
            return;
        }
        let allowed = match self.bound.take() {
            Some(bound) => Ok(bound.allowed),
            None => sched_getaffinity(Some(process)),
        };
        let mut only = CpuSet::new();
        only.set(here);
        match allowed.and_then(|allowed| sched_setaffinity(Some(process), &only).map(|()| allowed)) {
            Ok(allowed) => self.bound = Some(Bound { processor: here, allowed }),
            Err(_) => self.refused = true,
        }
    }

    pub(super) fn is_at(&self, processor: usize) -> bool {
        self.bound.as_ref().is_some_and(|bound| bound.processor == processor)
    }

    /// To wherever it might run before.
    pub(super) fn let_go(&mut self, process: Pid) {
        if let Some(bound) = self.bound.take() {
            let _ = rustix::thread::sched_setaffinity(Some(process), &bound.allowed);
        }
    }
}

/// The processor of this thread.
#[cfg(target_os = "linux")]
pub(super) fn here() -> usize {
    rustix::thread::sched_getcpu()
}

#[cfg(not(target_os = "linux"))]
impl Nearness {
    pub(super) fn come_near(&mut self, _: Pid) {}

    pub(super) fn let_go(&mut self, _: Pid) {}

    pub(super) fn is_at(&self, _: usize) -> bool {
        false
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn here() -> usize {
    0
}
