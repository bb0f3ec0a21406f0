//! Which signals a program is to find as the system has them.
//!
//! What starts a program in the C library looks at each signal and sets back what is not ignored: in glibc 2.36 that is some
//! 120 calls in the new process, while the starting thread waits. It does not look at those that it is told to set back, which
//! halves them. What this process ignores must stay ignored, so those are all others.

use nix::sys::signal::{SigSet, Signal};

/// All that this process does not ignore now, and SIGPIPE, which it ignores as every Rust program does and a program expects
/// as it was. Where the system does not tell: SIGPIPE alone, which is as right, and slower.
pub(crate) fn to_set_back() -> SigSet {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status).and_then(all_but).unwrap_or_else(|| SigSet::from(Signal::SIGPIPE))
}

/// The lowest bit is signal 1.
fn ignored(status: &str) -> Option<u64> {
    let signals = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(signals.trim(), 16).ok()
}

/// Two that the C library keeps to itself, in no set of signals that it makes: it starts programs with one of them ignored.
const INTERNAL: u64 = 0b11 << 31;

/// `None` where one is ignored that has no name, as those for real time.
fn all_but(mut ignored: u64) -> Option<SigSet> {
    let mut all = SigSet::all();
    ignored &= !INTERNAL;
    for signal in Signal::iterator() {
        let bit = 1 << (signal as u32 - 1);
        if ignored & bit != 0 && signal != Signal::SIGPIPE {
            all.remove(signal);
        }
        ignored &= !bit;
    }
    (ignored == 0).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_status() {
        assert_eq!(ignored("SigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(0x1001));
        assert_eq!(ignored("SigBlk:\t0000000000000004\n"), None);
        assert_eq!(ignored("SigIgn:\tnone\n"), None);
    }

    #[test]
    fn all_are_set_back_but_those_that_are_ignored() {
        const HUP_PIPE_TERM: u64 = 1 | 1 << 12 | 1 << 14;
        let set = all_but(HUP_PIPE_TERM).unwrap();
        let left_out: Vec<Signal> = Signal::iterator().filter(|signal| !set.contains(*signal)).collect();
        assert_eq!(left_out, [Signal::SIGHUP, Signal::SIGTERM]);
        assert_eq!(all_but(0), Some(SigSet::all()));
        assert_eq!(all_but(INTERNAL), Some(SigSet::all()));
    }

    #[test]
    fn one_without_a_name_cannot_be_left_out() {
        assert_eq!(all_but(1 << 40), None);
    }
}
