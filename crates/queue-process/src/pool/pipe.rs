//! One end of a pipe that can be used at once, and waited for where that was not enough.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::{buffer::spare_capacity, io::Errno};
use tokio::io::{Interest, unix::AsyncFd};

const CHUNK: usize = 8 << 10;

/// It is registered with the runtime only once somebody had to wait: until then, what happens to it wakes nobody.
#[derive(Debug)]
pub(super) struct Pipe {
    registered: Option<AsyncFd<Arc<OwnedFd>>>,
    pub(super) end: Arc<OwnedFd>,
    interest: Interest,
}

impl Pipe {
    /// Makes an end that does not block of one that does.
    pub(super) fn new(end: OwnedFd, interest: Interest) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&end, true)?;
        Ok(Self { registered: None, end: Arc::new(end), interest })
    }

    /// What is there, if anything.
    pub(super) fn read_now(&self, into: &mut Vec<u8>) -> rustix::io::Result<usize> {
        into.reserve(CHUNK);
        rustix::io::read(&self.end, spare_capacity(into))
    }

    /// Tries, and waits until it can be done. May be dropped and called again.
    pub(super) async fn when_ready(
        &mut self,
        mut attempt: impl FnMut(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        if self.registered.is_none() {
            match attempt(&self.end) {
                Err(Errno::AGAIN | Errno::INTR) => self.register()?,
                done => return Ok(done?),
            }
        }
        let Some(registered) = &self.registered else { return Err(io::ErrorKind::NotConnected.into()) };
        registered.async_io(self.interest, |end| Ok(attempt(end)?)).await
    }

    /// Waits no longer by being registered.
    pub(super) fn unregister(&mut self) {
        self.registered = None;
    }

    #[allow(deprecated, reason = "sound for an `OwnedFd`; what replaces it is unsafe for the sake of other types")]
    fn register(&mut self) -> io::Result<()> {
        self.registered = Some(AsyncFd::with_interest(Arc::clone(&self.end), self.interest)?);
        Ok(())
    }
}
