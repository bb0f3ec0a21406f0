//! The cheap start: what is the same for every run is made once, and one `posix_spawn` is left to do.
//!
//! The standard library's `Command` collects, sorts and copies the environment at each start, which for a program that does
//! little is a noticeable part of its life.

use std::{
    ffi::{CStr, CString, OsStr, OsString},
    io,
    os::{
        fd::AsRawFd as _,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
};

use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::signal::SigSet,
};
use rustix::process::Pid;

use crate::{dispositions, pipes::Theirs, sigchld};

/// A command line and its environment as the system takes them.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: CString,
    args: Vec<CString>,
    /// `NAME=value`, each name once.
    environment: Vec<CString>,
    /// The signals that it finds as the system has them.
    set_back: SigSet,
}

impl Prepared {
    /// Runs this file. `None` where anything holds a NUL byte.
    pub(crate) fn new<'a>(
        file: &OsStr,
        words: impl Iterator<Item = &'a OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Option<Self> {
        let words: Result<Vec<CString>, _> = words.map(|word| CString::new(word.as_bytes())).collect();
        let variables = environment.into_iter().map(|(name, value)| variable(name.into_vec(), value.as_bytes()).ok());
        let environment = variables.collect::<Option<Vec<CString>>>()?;
        Some(Self {
            file: CString::new(file.as_bytes()).ok()?,
            args: words.ok()?,
            environment,
            set_back: dispositions::to_set_back(),
        })
    }

    /// Starts it as the leader of a process group of its own, with these variables over its own.
    ///
    /// As with the standard library: it takes SIGPIPE as a program expects, other signals that this process ignored when this
    /// was made are ignored, and the mask of signals is this thread's, but for a SIGCHLD that this crate blocked.
    pub(crate) fn spawn(&self, variables: &[(&str, String)], ends: &Theirs) -> io::Result<Pid> {
        let mut files = PosixSpawnFileActions::init()?;
        for (end, number) in [(&ends.stdin, 0), (&ends.stdout, 1), (&ends.stderr, 2)] {
            files.add_dup2(end.as_raw_fd(), number)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETPGROUP | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        if let Some(mask) = sigchld::mask() {
            flags |= PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK;
            attributes.set_sigmask(&mask)?;
        }
        attributes.set_flags(flags)?;
        attributes.set_pgroup(nix::unistd::Pid::from_raw(0))?;
        attributes.set_sigdefault(&self.set_back)?;
        let own = own(variables)?;
        let pid =
            posix_spawn(self.file.as_c_str(), &files, &attributes, &self.args, &self.environment(variables, &own))?;
        Pid::from_raw(pid.as_raw()).ok_or_else(|| io::Error::other("the child has no process id"))
    }

    fn environment<'a>(&'a self, variables: &[(&str, String)], own: &'a [CString]) -> Vec<&'a CStr> {
        let is_set = |name: &str, entry: &CStr| {
            entry.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
        };
        let mut all = Vec::with_capacity(self.environment.len() + own.len());
        all.extend(self.environment.iter().map(CString::as_c_str));
        all.retain(|entry| !variables.iter().any(|(name, _)| is_set(name, entry)));
        all.extend(own.iter().map(CString::as_c_str));
        all
    }
}

/// The variables of a run; of two with one name, the later.
fn own(variables: &[(&str, String)]) -> io::Result<Vec<CString>> {
    let is_last = |at: usize| !variables[at + 1..].iter().any(|(name, _)| *name == variables[at].0);
    let last = variables.iter().enumerate().filter(|(at, _)| is_last(*at));
    last.map(|(_, (name, value))| variable(name.as_bytes().to_vec(), value.as_bytes())).collect()
}

fn variable(mut entry: Vec<u8>, value: &[u8]) -> io::Result<CString> {
    entry.reserve_exact(value.len() + 2);
    entry.push(b'=');
    entry.extend_from_slice(value);
    Ok(CString::new(entry)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_sets_its_variables_over_those_of_the_program() {
        let base = [("A", "1"), ("AB", "2"), ("B", "3")].map(|(name, value)| (name.into(), value.into()));
        let prepared = Prepared::new(OsStr::new("/x"), std::iter::empty(), base).unwrap();
        let variables = [("A", "x".to_owned()), ("C", "y=z".to_owned()), ("A", "w".to_owned())];
        let own = own(&variables).unwrap();
        let all = prepared.environment(&variables, &own);
        assert_eq!(all, [c"AB=2", c"B=3", c"C=y=z", c"A=w"]);
    }

    #[test]
    fn a_nul_byte_is_no_part_of_anything() {
        assert!(Prepared::new(OsStr::new("/x"), [OsString::from("a\0b")].iter(), []).is_none());
        assert!(Prepared::new(OsStr::new("/x\0"), std::iter::empty(), []).is_none());
        assert_eq!(own(&[("A", "a\0b".to_owned())]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
