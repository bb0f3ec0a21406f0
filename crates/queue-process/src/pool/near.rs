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

    /// To wherever it might run before, with the threads that it started meanwhile: they begin where it was. What has chosen
    /// other processors for itself keeps them.
    pub(super) fn let_go(&mut self, process: Pid) {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let Some(bound) = self.bound.take() else { return };
        let mut only = CpuSet::new();
        only.set(bound.processor);
        for thread in threads(process) {
            if sched_getaffinity(Some(thread)).is_ok_and(|now| now == only) {
                let _ = sched_setaffinity(Some(thread), &bound.allowed);
            }
        }
    }
}

/// Its threads; the first of them alone, where the system does not tell.
#[cfg(target_os = "linux")]
fn threads(process: Pid) -> Vec<Pid> {
    let of = |entry: std::io::Result<std::fs::DirEntry>| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?);
    match std::fs::read_dir(format!("/proc/{}/task", process.as_raw_pid())) {
        Ok(tasks) => tasks.filter_map(of).collect(),
        Err(_) => vec![process],
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::{gettid, sched_getaffinity};

    use super::*;

    /// This thread stands for the process, and one that it starts for the process's own.
    #[test]
    fn a_thread_that_was_started_nearby_may_go_anywhere_again() {
        let (me, before) = (gettid(), sched_getaffinity(None).unwrap());
        let mut nearness = Nearness::default();
        nearness.come_near(me);
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(gettid()).unwrap();
            let _ = ended.recv();
        });
        let thread_id = told.recv().unwrap();
        assert_eq!(sched_getaffinity(Some(thread_id)).unwrap().count(), 1);
        nearness.let_go(me);
        assert!(sched_getaffinity(None).unwrap() == before);
        assert!(sched_getaffinity(Some(thread_id)).unwrap() == before);
        drop(end);
        thread.join().unwrap();
    }
}
