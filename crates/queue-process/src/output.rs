//! What a program wrote, within bounds.

use std::{borrow::Cow, io, os::fd::AsFd};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

const CHUNK: usize = 8 << 10;

/// A pipe being read, until its end or until nobody wants more.
#[derive(Debug)]
pub(crate) struct Reader<P> {
    pipe: Option<P>,
    data: BytesMut,
    limit: usize,
    keep: Keep,
    dropped: u64,
}

/// What to do with more than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Keep the first bytes, close the pipe and say so.
    Head,
    /// Keep the last bytes and go on.
    Tail,
}

/// Whether the limit was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Fine,
    TooMuch,
}

impl<P: AsyncRead + AsFd + Unpin> Reader<P> {
    pub(crate) fn new(pipe: Option<P>, limit: usize, keep: Keep) -> Self {
        Self { pipe, data: BytesMut::new(), limit, keep, dropped: 0 }
    }

    /// Makes another of the pipe, if it is open.
    pub(crate) fn change_pipe(&mut self, change: impl FnOnce(P) -> io::Result<P>) -> io::Result<()> {
        self.pipe = self.pipe.take().map(change).transpose()?;
        Ok(())
    }

    /// One read. Never returns once the pipe is closed; loses nothing if it is dropped.
    pub(crate) async fn read(&mut self) -> Reading {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        self.data.reserve(CHUNK);
        match pipe.read_buf(&mut self.data).await {
            // A pipe that cannot be read is at its end.
            Ok(0) | Err(_) => self.pipe = None,
            Ok(_) => {}
        }
        self.trim()
    }

    /// Takes what was in the pipe when this was called, and closes it: whoever else still writes is not waited for.
    pub(crate) fn close(&mut self) -> Reading {
        let Some(pipe) = self.pipe.take() else { return Reading::Fine };
        let mut left = usize::try_from(rustix::io::ioctl_fionread(&pipe).unwrap_or(0)).unwrap_or(usize::MAX);
        // Whoever opens the pipe by its name in /proc may take from it what was there.
        if left > 0 && rustix::io::ioctl_fionbio(&pipe, true).is_err() {
            return Reading::Fine;
        }
        let mut chunk = vec![0; left.min(CHUNK)];
        while left > 0 {
            let wanted = left.min(CHUNK);
            match rustix::io::read(&pipe, &mut chunk[..wanted]).map_err(io::Error::from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    self.data.extend_from_slice(&chunk[..read]);
                    left -= read;
                    if self.trim() == Reading::TooMuch {
                        return Reading::TooMuch;
                    }
                }
            }
        }
        Reading::Fine
    }

    fn trim(&mut self) -> Reading {
        let surplus = self.data.len().saturating_sub(self.limit);
        match self.keep {
            Keep::Head if surplus > 0 => {
                self.data.truncate(self.limit);
                self.dropped += surplus as u64;
                self.pipe = None;
                return Reading::TooMuch;
            }
            // Only now and then: dropping bytes from the front makes the buffer move the rest.
            Keep::Tail if surplus > CHUNK.max(self.limit) => self.drop_front(surplus),
            _ => {}
        }
        Reading::Fine
    }

    fn drop_front(&mut self, surplus: usize) {
        self.data.advance(surplus);
        self.dropped += surplus as u64;
    }

    /// Where more may come from.
    pub(crate) fn pipe(&self) -> Option<&P> {
        self.pipe.as_ref()
    }

    /// Keeps nothing of what was written so far.
    pub(crate) fn forget(&mut self) {
        self.take_what_is_there();
        self.clear();
    }

    /// Keeps nothing of what was read so far.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.dropped = 0;
    }

    /// Reads what was in the pipe when this was called.
    fn take_what_is_there(&mut self) {
        let there = self.pipe.as_ref().and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok()).unwrap_or(0);
        let mut left = usize::try_from(there).unwrap_or(0);
        let mut chunk = vec![0; left.min(CHUNK)];
        while let Some(pipe) = self.pipe.as_ref().filter(|_| left > 0) {
            let wanted = left.min(CHUNK);
            let Ok(read @ 1..) = rustix::io::read(pipe, &mut chunk[..wanted]) else { return };
            self.data.extend_from_slice(&chunk[..read]);
            left -= read;
            self.trim();
        }
    }

    /// What is kept now, with what is in the pipe.
    pub(crate) fn so_far(&mut self) -> Tail {
        self.take_what_is_there();
        let surplus = self.data.len().saturating_sub(self.limit);
        let bytes = Bytes::copy_from_slice(&self.data[surplus..]);
        Tail { bytes, dropped: self.dropped + surplus as u64 }
    }

    pub(crate) fn into_head(self) -> Bytes {
        self.data.freeze()
    }

    pub(crate) fn into_tail(mut self) -> Tail {
        self.drop_front(self.data.len().saturating_sub(self.limit));
        Tail { bytes: self.data.freeze(), dropped: self.dropped }
    }
}

/// The end of what a program wrote to stderr.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last bytes.
    pub bytes: Bytes,
    /// How many came before them and were not kept.
    pub dropped: u64,
}

impl Tail {
    /// As text, without white space at its end. Where something was dropped it begins with `…` and with a whole line,
    /// if there is one. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        let kept = if self.dropped == 0 { &self.bytes[..] } else { whole_lines(&self.bytes) };
        let text = match String::from_utf8_lossy(kept) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim_end()),
            Cow::Owned(text) => Cow::Owned(text.trim_end().to_owned()),
        };
        if self.dropped == 0 { text } else { Cow::Owned(format!("…{text}")) }
    }
}

/// From the first line break on, if that leaves anything; else from the first byte that can begin a character.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let after_break = bytes.iter().position(|byte| *byte == b'\n').map(|at| &bytes[at + 1..]);
    match after_break {
        Some(rest) if !rest.trim_ascii().is_empty() => rest,
        _ => {
            let continuation = bytes.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
            &bytes[continuation..]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(bytes: &'static [u8], dropped: u64) -> String {
        Tail { bytes: Bytes::from_static(bytes), dropped }.text().into_owned()
    }

    #[test]
    fn a_tail_reads_well() {
        assert_eq!(tail(b"all of it\n\n", 0), "all of it");
        assert_eq!(tail(b"f a line\nlast line\n", 9), "…last line");
        assert_eq!(tail(b"one long line\n", 9), "…one long line");
        assert_eq!(tail(b"\xBC\xC3\xBC", 1), "…ü");
        assert_eq!(tail(b"a\xFFb", 0), "a\u{FFFD}b");
        assert_eq!(tail(b"", 0), "");
    }
}
