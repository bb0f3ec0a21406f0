//! Keeps the signal of a child's end from waking threads for nothing.
//!
//! Where there are process descriptors nobody here waits for SIGCHLD, and the system drops a signal that does nothing. It does
//! not drop one that is blocked, though, and a thread that starts a program blocks all of them meanwhile. So when another
//! program that this thread started ends just then, the signal is kept, and wakes whichever thread takes signals: on two
//! processors, with four programs at once that live for a millisecond, at three ends of five. Where no thread takes it, it
//! wakes nobody.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_os = "linux")]
use nix::sys::signal::{SigSet, Signal};
#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// Threads of this process may have it blocked, and programs must not inherit that.
#[cfg(target_os = "linux")]
static BLOCKED: AtomicBool = AtomicBool::new(false);

/// Blocks SIGCHLD in this thread and in all that it starts from now on: to be called before a runtime is built. Programs
/// that this crate starts take it as ever.
///
/// Makes many short runs at once cheaper. Says whether it did anything: not where the system has no process descriptors, as
/// programs are waited for by SIGCHLD there, nor where it was blocked before.
///
/// Not in a process with a [`ProcessPool`](crate::ProcessPool) or that starts programs by other means than this crate:
/// tokio reaps some by SIGCHLD, and other programs would inherit the block.
pub fn block_sigchld() -> bool {
    #[cfg(target_os = "linux")]
    return block();
    #[cfg(not(target_os = "linux"))]
    return false;
}

#[cfg(target_os = "linux")]
fn block() -> bool {
    let possible = pidfd_open(getpid(), PidfdFlags::empty()).is_ok();
    let open = SigSet::thread_get_mask().is_ok_and(|mask| !mask.contains(Signal::SIGCHLD));
    let blocked = possible && open && SigSet::from(Signal::SIGCHLD).thread_block().is_ok();
    if blocked {
        BLOCKED.store(true, Ordering::Relaxed);
    }
    blocked
}

/// The signals that a program is to have blocked; `None` is those of this thread.
#[cfg(target_os = "linux")]
pub(crate) fn mask() -> Option<SigSet> {
    let mut mask = BLOCKED.load(Ordering::Relaxed).then(SigSet::thread_get_mask)?.ok()?;
    mask.remove(Signal::SIGCHLD);
    Some(mask)
}

/// Starts a program that gets the mask of this thread.
#[cfg(target_os = "linux")]
pub(crate) fn unblocked<T>(start: impl FnOnce() -> T) -> T {
    let Some(mask) = mask() else { return start() };
    let before = SigSet::thread_get_mask();
    // Where this fails, which it cannot, the program has SIGCHLD blocked.
    let _ = mask.thread_set_mask();
    let started = start();
    let _ = before.map(|before| before.thread_set_mask());
    started
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn unblocked<T>(start: impl FnOnce() -> T) -> T {
    start()
}
