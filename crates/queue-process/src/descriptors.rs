//! Enough descriptors for many runs at once, and none of them handed to a program.

use rustix::process::{Resource, getrlimit, setrlimit};

/// How many descriptors a run may hold at once in this process: three pipes, both ends while it starts, two handles on
/// the process.
pub const DESCRIPTORS_PER_RUN: u64 = 8;

/// More runs at once than the system allows this process descriptors for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{runs} runs at once need {needed} open files and the system allows {allowed}: run fewer, or raise `ulimit -Hn`"
)]
pub struct DescriptorLimit {
    /// The runs asked for.
    pub runs: usize,
    /// What they need.
    pub needed: u64,
    /// The hard limit.
    pub allowed: u64,
}

/// How many files this process may have open; `None` is as many as the system has room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DescriptorLimits {
    /// Now.
    pub soft: Option<u64>,
    /// The most it may allow itself.
    pub hard: Option<u64>,
}

/// The limits of this process.
#[must_use]
pub fn descriptor_limits() -> DescriptorLimits {
    let limit = getrlimit(Resource::Nofile);
    DescriptorLimits { soft: limit.current, hard: limit.maximum }
}

/// Makes room for so many runs at once beside `others` descriptors, by raising this process's soft limit if need be.
/// Programs inherit the raised limit.
///
/// # Errors
/// Where the hard limit does not allow it.
pub fn reserve_descriptors(runs: usize, others: u64) -> Result<(), DescriptorLimit> {
    let needed = (runs as u64).saturating_mul(DESCRIPTORS_PER_RUN).saturating_add(others);
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    limit.current = Some(needed);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) if needed <= allowed => Ok(()),
        _ => Err(DescriptorLimit { runs, needed, allowed }),
    }
}

/// Marks every descriptor but 0, 1 and 2 close-on-exec. Those that Rust opens are; this catches what this process
/// inherited and what a C library opened.
pub(crate) fn close_on_exec() {
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
}
