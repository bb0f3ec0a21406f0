//! Ctrl-C, SIGTERM and SIGHUP: noted, so that what was started is stopped before this process ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Somebody asked this process to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// From now on signals are counted and no longer end the process.
pub(crate) fn listen() -> Result<()> {
    let count = || {
        ASKED.fetch_add(1, Ordering::SeqCst);
    };
    ctrlc::set_handler(count).context("signals cannot be handled")
}

/// How often it was asked for. The second time, nothing is waited for.
pub(crate) fn asked() -> usize {
    ASKED.load(Ordering::SeqCst)
}

/// An error once it was asked for: for loops that wait.
pub(crate) fn check() -> Result<()> {
    if asked() > 0 { Err(Interrupted.into()) } else { Ok(()) }
}
