//! The three pipes of a run. A program that is over within a moment costs the reactor nothing: what it reads is in its pipe
//! before it starts, and what it wrote is taken from its pipes when it has ended. Only one that stays, or reads more than a
//! pipe holds, is waited for at its pipes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _, ReadBuf},
    net::unix::pipe::{Receiver, Sender},
};

use crate::{
    limits::Limits,
    output::{Keep, Reader, Reading, Tail},
};

/// An empty pipe takes so many bytes at once, whatever its size.
const AT_ONCE: usize = 4096;

/// The program's ends. To be closed when it has them.
#[derive(Debug)]
pub(crate) struct Theirs {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// This process's ends, moved on together so that none can block another.
#[derive(Debug)]
pub(crate) struct Pipes {
    stdin: Option<Inlet>,
    input: Bytes,
    stdout: Reader<Outlet>,
    stderr: Reader<Outlet>,
    flowing: bool,
}

#[derive(Debug)]
enum Inlet {
    Quiet(OwnedFd),
    Flowing(Sender),
}

/// Where output comes out: not before it flows.
#[derive(Debug)]
pub(crate) enum Outlet {
    Quiet(OwnedFd),
    Flowing(Receiver),
}

impl Pipes {
    /// Makes them, and writes what fits of the input.
    pub(crate) fn new(input: Bytes, limits: &Limits) -> io::Result<(Self, Theirs)> {
        let (their_stdin, stdin) = pipe()?;
        let (stdout, their_stdout) = pipe()?;
        let (stderr, their_stderr) = pipe()?;
        let mut pipes = Self {
            stdin: Some(Inlet::Quiet(stdin)),
            input,
            stdout: Reader::new(Some(Outlet::Quiet(stdout)), limits.max_stdout, Keep::Head),
            stderr: Reader::new(Some(Outlet::Quiet(stderr)), limits.max_stderr, Keep::Tail),
            flowing: false,
        };
        pipes.write_what_fits()?;
        let (stdin, stdout) = (not_standard(their_stdin)?, not_standard(their_stdout)?);
        Ok((pipes, Theirs { stdin, stdout, stderr: not_standard(their_stderr)? }))
    }

    fn write_what_fits(&mut self) -> io::Result<()> {
        if let (Some(Inlet::Quiet(pipe)), false) = (&self.stdin, self.input.is_empty()) {
            if self.input.len() > AT_ONCE {
                rustix::io::ioctl_fionbio(pipe, true)?;
            }
            self.input.advance(rustix::io::write(pipe, &self.input)?);
        }
        self.close_spent_stdin();
        Ok(())
    }

    /// Whether the program cannot have all it is to read unless they flow.
    pub(crate) fn must_flow(&self) -> bool {
        !self.input.is_empty() && !self.flowing
    }

    /// From now on output is read as it comes, and the rest of the input written as it is read.
    pub(crate) fn flow(&mut self) -> io::Result<()> {
        self.stdout.change_pipe(Outlet::flow)?;
        self.stderr.change_pipe(Outlet::flow)?;
        self.stdin = self.stdin.take().map(Inlet::flow).transpose()?;
        self.flowing = true;
        Ok(())
    }

    /// One step on any of them; never returns once all are closed, or before they flow. Loses nothing if it is dropped.
    pub(crate) async fn move_on(&mut self) -> Reading {
        if !self.flowing {
            return std::future::pending().await;
        }
        tokio::select! {
            reading = self.stdout.read() => reading,
            reading = self.stderr.read() => reading,
            written = write(self.stdin.as_mut(), &self.input) => {
                match written {
                    Ok(written) => self.input.advance(written),
                    // It does not want (the rest of) its input, which is its right.
                    Err(_) => self.input.clear(),
                }
                self.close_spent_stdin();
                Reading::Fine
            }
        }
    }

    fn close_spent_stdin(&mut self) {
        if self.input.is_empty() {
            self.stdin = None;
        }
    }

    /// Takes what is left in the pipes and closes them.
    pub(crate) fn close(&mut self) -> Reading {
        self.stdin = None;
        self.stderr.close();
        self.stdout.close()
    }

    /// What it wrote to stdout and stderr.
    pub(crate) fn into_output(self) -> (Bytes, Tail) {
        (self.stdout.into_head(), self.stderr.into_tail())
    }
}

async fn write(pipe: Option<&mut Inlet>, input: &[u8]) -> io::Result<usize> {
    match pipe {
        Some(Inlet::Flowing(pipe)) => pipe.write(input).await,
        _ => std::future::pending().await,
    }
}

impl Inlet {
    fn flow(self) -> io::Result<Self> {
        match self {
            Self::Quiet(pipe) => Sender::from_owned_fd(pipe).map(Self::Flowing),
            flowing => Ok(flowing),
        }
    }
}

impl Outlet {
    fn flow(self) -> io::Result<Self> {
        match self {
            Self::Quiet(pipe) => Receiver::from_owned_fd(pipe).map(Self::Flowing),
            flowing => Ok(flowing),
        }
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Quiet(pipe) => pipe.as_fd(),
            Self::Flowing(pipe) => pipe.as_fd(),
        }
    }
}

impl AsyncRead for Outlet {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quiet(_) => Poll::Pending,
            Self::Flowing(pipe) => Pin::new(pipe).poll_read(context, into),
        }
    }
}

/// The end to read from, and the one to write to. Neither is inherited.
#[cfg(not(target_vendor = "apple"))]
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// There is no way to have both at once.
#[cfg(target_vendor = "apple")]
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe()?;
    rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::CLOEXEC)?;
    Ok((reader, writer))
}

/// An end that would be overwritten when it becomes 0, 1 or 2 of the program: where this process has closed one of its own.
fn not_standard(end: OwnedFd) -> io::Result<OwnedFd> {
    match end.as_raw_fd() {
        0..=2 => Ok(rustix::io::fcntl_dupfd_cloexec(&end, 3)?),
        _ => Ok(end),
    }
}
