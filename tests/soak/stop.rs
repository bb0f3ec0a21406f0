//! Ctrl-C and SIGTERM: noted, so that the figures so far are shown and the servers taken down.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

pub(crate) fn listen() {
    ctrlc::set_handler(|| ASKED.store(true, Ordering::SeqCst)).expect("signals can be handled");
}

pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
