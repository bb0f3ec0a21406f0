//! Ctrl-C and SIGTERM.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How often somebody asked the run to end: once drains, twice aborts. The count outlives whoever is too busy to look.
pub(super) fn listen() -> io::Result<watch::Receiver<u32>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (count, asked) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => {}
                Some(()) = terminate.recv() => {}
                () = count.closed() => return,
                else => return,
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(asked)
}
