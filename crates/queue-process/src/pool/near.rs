//! Keeps a prompt process on the processor of the thread that waits for it.
//!
//! The two take turns and never run at once, so one processor is enough for both; to wake the other one's costs more than the
//! whole conversation, many times more in a virtual machine. A process that takes its time goes where it likes.

use std::time::Duration;

use rustix::process::Pid;
use tokio::time::Instant;

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

/// Times the turns that a thread gives to whoever shares its processor, at one look at the clock for each while they follow each
/// other closely.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// When the last one ended, if it was short.
    last: Option<Instant>,
}

impl Turns {
    /// Gives one. False where it is known to have taken longer than `short`: others than the process took theirs. The first one
    /// after a pause cannot be told from the pause: then the one after it is timed alone.
    pub(super) fn give(&mut self, short: Duration, clock: impl Fn() -> Instant, turn: impl FnOnce()) -> bool {
        let last = self.last.take();
        let begun = last.unwrap_or_else(&clock);
        turn();
        let now = clock();
        let was_short = now.saturating_duration_since(begun) <= short;
        self.last = was_short.then_some(now);
        was_short || last.is_some()
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

    #[test]
    fn a_long_turn_is_told_from_a_pause_at_one_look_at_the_clock_each() {
        use std::cell::Cell;
        let (short, long) = (Duration::from_micros(50), Duration::from_millis(4));
        let (now, looks, mut turns) = (Cell::new(Instant::now()), Cell::new(0), Turns::default());
        let pass = |time| now.set(now.get() + time);
        let mut give = |turn: Duration| {
            looks.set(0);
            let clock = || {
                looks.set(looks.get() + 1);
                now.get()
            };
            (turns.give(short, clock, || pass(turn)), looks.get())
        };
        assert_eq!((give(long), give(short / 2), give(short / 2)), ((false, 2), (true, 2), (true, 1)));
        pass(long);
        assert_eq!((give(short), give(short)), ((true, 1), (true, 2)), "a pause is no turn");
        assert_eq!((give(long), give(long)), ((true, 1), (false, 2)), "a long one may be a pause, but not twice");
    }

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
