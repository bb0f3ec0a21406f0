//! What to run.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{fs::Access, process::Pid};
use tokio::process::Command;

#[cfg(target_os = "linux")]
use crate::prepared::Prepared;
use crate::{
    confine::Confinement,
    error::{CommandLineError, StartError},
    limits::{LimitError, Limits},
    pipes::Theirs,
    resolve,
    run::{self, Execution, Finished},
    sigchld::unblocked,
};

/// A program with its arguments, surroundings and limits. It can be run any number of times at once.
#[derive(Debug, Clone)]
pub struct Program {
    command: OsString,
    args: Vec<OsString>,
    environment: Environment,
    variables: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    user: Option<User>,
    limits: Limits,
    /// Made when it is first needed, and shared by its clones.
    confinement: Arc<OnceLock<Result<Confinement, LimitError>>>,
    /// What was found out about it when it first ran, and is used in every run.
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Where it was found in `PATH`.
    found: OnceLock<Option<PathBuf>>,
    /// Whether the last run wrote much.
    wrote_much: AtomicBool,
    /// The variables that it sees in every run.
    variables: OnceLock<BTreeMap<OsString, OsString>>,
    /// Where it can be started the cheap way.
    #[cfg(target_os = "linux")]
    prepared: OnceLock<Option<Prepared>>,
}

/// Which variables of this process a program sees, with the values that they have when it first runs. What is set on the
/// program or the execution comes on top.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Environment {
    /// All.
    #[default]
    Inherit,
    /// Only these, where they are set. Without `PATH`, programs are looked up in `/bin:/usr/bin`.
    Only(Vec<OsString>),
}

/// Whose rights a program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Whether rlimits bind it.
    pub(crate) fn is_dropped(self) -> bool {
        self.uid != 0 && self.uid != rustix::process::geteuid().as_raw()
    }
}

impl Program {
    /// A program by its path, or by a name to be looked up in `PATH`.
    #[must_use]
    pub fn new(command: impl Into<OsString>) -> Self {
        Self {
            command: command.into(),
            args: Vec::new(),
            environment: Environment::Inherit,
            variables: Vec::new(),
            directory: None,
            user: None,
            limits: Limits::default(),
            confinement: Arc::default(),
            kept: Arc::default(),
        }
    }

    /// A command line, split as a shell would split it (quotes and backslashes) and run without one: no variables, no
    /// globs, no pipes.
    ///
    /// # Errors
    /// Where it is empty or a quote is not closed.
    pub fn words(line: &str) -> Result<Self, CommandLineError> {
        let mut words = shell_words::split(line).map_err(|_| CommandLineError::Unclosed)?.into_iter();
        let command = words.next().filter(|command| !command.is_empty()).ok_or(CommandLineError::Empty)?;
        Ok(Self::new(command).args(words))
    }

    /// A command line for `sh -c`.
    ///
    /// # Errors
    /// Where it is blank, which a shell would take for success.
    pub fn shell(line: &str) -> Result<Self, CommandLineError> {
        match line.trim() {
            "" => Err(CommandLineError::Empty),
            _ => Ok(Self::new("sh").args(["-c", line])),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self.kept = Arc::default();
        self
    }

    /// Chooses what is passed on of this process's environment.
    #[must_use]
    pub fn environment(mut self, environment: Environment) -> Self {
        (self.environment, self.kept) = (environment, Arc::default());
        self
    }

    /// Sets a variable in every run.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self.kept = Arc::default();
        self
    }

    /// Runs it there. A relative program path with a slash is then taken from there too.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        (self.directory, self.kept) = (Some(directory.into()), Arc::default());
        self
    }

    /// Changes what a run may take.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        (self.limits, self.confinement) = (limits, Arc::default());
        self
    }

    /// Runs it as another user, without supplementary groups: only root can. With it, starting is slower (`fork` instead of
    /// `posix_spawn`).
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        (self.user, self.confinement) = (Some(User { uid, gid }), Arc::default());
        self
    }

    /// What a run may take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it can be started, without starting it: the directory exists, the program is found, is an executable
    /// file, and so is the interpreter of its `#!` line, and its limits can be kept here. Returns the file that would run.
    ///
    /// A missing dynamic loader, a foreign architecture or a security module shows only at the start.
    ///
    /// # Errors
    /// What [`Program::run`] would fail with.
    pub fn check(&self) -> Result<PathBuf, StartError> {
        let found = self.look_up()?;
        self.confinement()?;
        Ok(found)
    }

    /// What keeps its limits.
    pub(crate) fn confinement(&self) -> Result<&Confinement, StartError> {
        let confinement = self.confinement.get_or_init(|| Confinement::prepare(&self.limits, self.user));
        confinement.as_ref().map_err(|error| StartError::Limit(error.clone()))
    }

    /// Runs it to its end. `cancel` asks it to stop: SIGTERM to its group, and SIGKILL after [`Limits::grace`].
    ///
    /// Dropping the future kills the whole group at once. Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// Only where it could not be started; every end of a started program is in [`Finished::end`].
    pub async fn run(
        &self,
        execution: Execution<'_>,
        cancel: impl Future<Output = ()>,
    ) -> Result<Finished, StartError> {
        run::run(self, execution, cancel).await
    }

    pub(crate) fn wrote_much(&self) -> bool {
        self.kept.wrote_much.load(Ordering::Relaxed)
    }

    pub(crate) fn writes_much(&self, much: bool) {
        // Written only where it changes: many runs at once read it.
        if self.wrote_much() != much {
            self.kept.wrote_much.store(much, Ordering::Relaxed);
        }
    }

    /// The program as it was named, for messages.
    pub(crate) fn name(&self) -> &OsStr {
        &self.command
    }

    /// Everything but the execution's own variables. A shim is a script that becomes the program.
    pub(crate) fn to_command(&self, shim: Option<&str>) -> Command {
        let mut command = match shim {
            None => match self.found() {
                Some(found) => {
                    let mut command = Command::new(found);
                    command.arg0(&self.command);
                    command
                }
                None => Command::new(&self.command),
            },
            Some(script) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", script, "sh"]).arg(&self.command);
                command
            }
        };
        command.args(&self.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.env_clear().envs(self.all_variables());
        command
    }

    fn all_variables(&self) -> &BTreeMap<OsString, OsString> {
        self.kept.variables.get_or_init(|| {
            let mut all: BTreeMap<_, _> = match &self.environment {
                Environment::Inherit => std::env::vars_os().collect(),
                Environment::Only(names) => {
                    names.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect()
                }
            };
            all.extend(self.variables.iter().cloned());
            all
        })
    }

    /// Starts it for one run, with these variables of the run's own and these pipes, as the leader of a process group.
    pub(crate) fn spawn(&self, shim: Option<&str>, variables: &[(&str, String)], ends: Theirs) -> io::Result<Pid> {
        #[cfg(target_os = "linux")]
        if let Some(prepared) = self.prepared().filter(|_| shim.is_none()) {
            match prepared.spawn(variables, &ends) {
                // It is not where it was found, and may be elsewhere now.
                Err(error) if !self.is_path() && is_gone(&error) => {}
                started => return started,
            }
        }
        let mut command = self.to_command(shim).into_std();
        command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let pid = unblocked(|| command.spawn())?.id();
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| io::Error::other("the child has no process id"))
    }

    /// `None` where it is not a matter of one file and its words.
    #[cfg(target_os = "linux")]
    fn prepared(&self) -> Option<&Prepared> {
        if self.directory.is_some() || self.user.is_some() {
            return None;
        }
        let file = match self.is_path() {
            true => Path::new(&self.command),
            false => self.was_found()?,
        };
        let words = || std::iter::once(&self.command).chain(&self.args);
        let variables = || self.all_variables().iter().map(|(name, value)| (name.clone(), value.clone()));
        self.kept.prepared.get_or_init(|| Prepared::new(file.as_os_str(), words(), variables())).as_ref()
    }

    fn is_path(&self) -> bool {
        self.command.as_encoded_bytes().contains(&b'/')
    }

    /// The file that was found in `PATH`, if it is there still: looking it up each time costs the system a failed start for each
    /// directory before its own.
    fn found(&self) -> Option<&Path> {
        self.was_found().filter(|found| rustix::fs::access(*found, Access::EXEC_OK).is_ok())
    }

    /// The file that was found in `PATH`, when this first ran.
    fn was_found(&self) -> Option<&Path> {
        let look = || {
            let found = (!self.is_path()).then(|| self.look_up().ok()).flatten();
            found.filter(|found| found.is_absolute())
        };
        self.kept.found.get_or_init(look).as_deref()
    }

    fn look_up(&self) -> Result<PathBuf, StartError> {
        resolve::resolve(&self.command, self.directory.as_deref(), self.search_path().as_deref())
    }

    /// The `PATH` that the program itself will see, by which it is looked up.
    fn search_path(&self) -> Option<OsString> {
        if let Some((_, value)) = self.variables.iter().rev().find(|(name, _)| name == "PATH") {
            return Some(value.clone());
        }
        match &self.environment {
            Environment::Only(names) if !names.iter().any(|name| name == "PATH") => None,
            _ => std::env::var_os("PATH"),
        }
    }
}

/// Whether a start failed for want of its file. A script without its interpreter fails so too, and then again.
#[cfg(target_os = "linux")]
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_splits_it() {
        let program = Program::words(r#"python3 -c 'print("a b")' "two words" back\ slash $HOME *"#).unwrap();
        assert_eq!(program.command, "python3");
        assert_eq!(program.args, ["-c", r#"print("a b")"#, "two words", "back slash", "$HOME", "*"]);

        assert_eq!(Program::words("echo 'open").unwrap_err(), CommandLineError::Unclosed);
        for empty in ["", "   ", "''"] {
            assert_eq!(Program::words(empty).unwrap_err(), CommandLineError::Empty, "{empty:?}");
        }
        assert_eq!(Program::shell(" \n").unwrap_err(), CommandLineError::Empty);
        assert_eq!(Program::shell("a | b").unwrap().args, ["-c", "a | b"]);
    }

    #[test]
    fn the_lookup_uses_the_path_that_the_program_will_see() {
        let own = Program::new("x").variable("PATH", "/first").variable("PATH", "/second");
        assert_eq!(own.search_path().unwrap(), "/second");
        let none = Program::new("x").environment(Environment::Only(vec!["HOME".into()]));
        assert_eq!(none.search_path(), None);
        let kept = Program::new("x").environment(Environment::Only(vec!["PATH".into()]));
        assert_eq!(kept.search_path(), std::env::var_os("PATH"));
    }
}
