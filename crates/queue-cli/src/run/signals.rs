//! Ctrl-C and SIGTERM, and Ctrl-\.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// What somebody asked for, and how often. The counts outlive whoever is too busy to look.
#[derive(Debug)]
pub(super) struct Asked {
    /// The run to end: once drains, twice aborts.
    pub(super) end: watch::Receiver<u32>,
    /// To be told what the jobs wait for.
    pub(super) why: watch::Receiver<u32>,
}

/// Listens from now on.
pub(super) fn listen() -> io::Result<Asked> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    let (count, end) = watch::channel(0);
    let (questions, why) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = interrupt.recv() => {}
                Some(()) = terminate.recv() => {}
                Some(()) = quit.recv() => {
                    questions.send_modify(|count| *count += 1);
                    continue;
                }
                () = count.closed() => return,
                else => return,
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(Asked { end, why })
}
