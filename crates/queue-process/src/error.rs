//! Why a program did not start.

use std::{io, path::PathBuf};

use rustix::io::Errno;

use crate::limits::LimitError;

/// A command line that names no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// Nothing to run.
    #[error("the command is empty: name a program")]
    Empty,
    /// A quotation mark without its partner, or a backslash at the end.
    #[error("the command has a quotation mark that is not closed")]
    Unclosed,
}

/// Why a program could not be started. No part of it ran, except where [`StartError::Unlimited`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Nothing by this name in `PATH`.
    #[error("{program:?} is not in PATH: check the spelling, give its full path, or run it through a shell")]
    NotInPath {
        /// As it was named.
        program: PathBuf,
    },
    /// No such file.
    #[error("{path:?} does not exist")]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A file that may not be executed, or a directory.
    #[error("{path:?} is not an executable file: `chmod +x` it, or name its interpreter before it")]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// The `#!` line, or the binary, names a program that cannot be run.
    #[error("{path:?} needs {}, which cannot be run", interpreter.as_ref().map_or("an interpreter or loader".into(), |path| format!("{path:?}")))]
    Interpreter {
        /// The file.
        path: PathBuf,
        /// What its first line asks for, where it is a script.
        interpreter: Option<PathBuf>,
    },
    /// Neither a binary for this machine nor a script with a `#!` line.
    #[error("{path:?} is no program for this machine: give it a `#!` line, or name its interpreter before it")]
    NotAProgram {
        /// The file.
        path: PathBuf,
    },
    /// The working directory does not exist or may not be entered.
    #[error("the working directory {path:?} cannot be entered")]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The machine is out of processes, descriptors or memory for now, or the file is being written.
    #[error("{program:?} cannot be started now: {source}")]
    Exhausted {
        /// As it was named.
        program: PathBuf,
        /// What is missing.
        source: io::Error,
    },
    /// A limit that cannot be kept here.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// It was started, could not be limited, and was killed: it changed its user, or forked without end.
    #[error("{program:?} was started and killed at once: its limits could not be set: {source}")]
    Unlimited {
        /// As it was named.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else: too large an environment, a NUL byte, a security module.
    #[error("{program:?} cannot be started: {source}")]
    Other {
        /// As it was named.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// Whether the same start may succeed later without anything being mended.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Exhausted { .. })
    }

    pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
        matches!(
            error.raw_os_error().map(Errno::from_raw_os_error),
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::TXTBSY | Errno::NOBUFS)
        )
    }

    /// What an error amounts to that a look at `found`, the file that was to run, does not explain.
    pub(crate) fn from_spawn(program: PathBuf, found: PathBuf, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            // The file is there, so what is missing is what it asks for.
            Some(Errno::NOENT) => Self::Interpreter { path: found, interpreter: None },
            Some(Errno::ACCESS) => Self::NotExecutable { path: found },
            Some(Errno::NOEXEC) => Self::NotAProgram { path: found },
            _ => Self::Other { program, source },
        }
    }
}
