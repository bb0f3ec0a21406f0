//! All of `queue run` that can be checked before a job runs, so that a mistake costs nothing.

use std::{fs::File, io, path::Path, sync::Arc, thread::available_parallelism};

use queue_core::RetryPolicy;
use queue_process::{LimitError, Limits, Program, StartError, reserve_descriptors};

use crate::{
    args::{ExecMode, RunArgs},
    input::JobText,
    output::{InUse, Output, OutputError},
    resume::{
        identity::From,
        notes::{Place, Read},
    },
    values,
};

/// Descriptors for everything but the programs: files, sockets to a broker, the runtime.
pub(crate) const OTHER_DESCRIPTORS: u64 = 200;

/// A run that can begin. Nothing was started; the output files were made.
#[derive(Debug)]
pub struct Plan {
    /// What runs for each attempt.
    pub program: Program,
    /// How lines are read.
    pub how: JobText,
    /// Where they come from.
    pub input: Input,
    /// How many programs run at once.
    pub concurrency: usize,
    /// For jobs that bring none.
    pub retry: RetryPolicy,
    /// The file of `--results`.
    pub results: Option<Output>,
    /// The file of `--dead`.
    pub dead: Option<Output>,
    /// The rest of what was asked for.
    pub args: RunArgs,
    in_use: Option<InUse>,
}

/// Where lines come from. Reading may block: do it on a thread of its own.
pub struct Input {
    /// The bytes.
    pub source: Box<dyn io::Read + Send>,
    /// How many there are, where that is known.
    pub length: Option<u64>,
    /// The file, where it is one, to be read at any place.
    pub file: Option<Arc<File>>,
}

/// Why a run cannot begin, for people.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The command of `--exec`.
    #[error("--exec: {0}")]
    CommandLine(#[from] queue_process::CommandLineError),
    /// The program it names.
    #[error("--exec: {0}{hint}", hint = shell_hint(*.1))]
    Program(queue_process::StartError, bool),
    /// A limit that cannot be kept here.
    #[error("{0}: {1}")]
    Limit(&'static str, queue_process::LimitError),
    /// An option of pool mode without it.
    #[error("--max-jobs is for --exec-mode pool: a one-shot process has one job")]
    OnlyInPool,
    /// Too many at once.
    #[error("--concurrency: {0}")]
    Concurrency(#[from] queue_process::DescriptorLimit),
    /// The retry options together.
    #[error("{}", .0.message())]
    Retry(queue_core::Error),
    /// The input.
    #[error("cannot read {0}: {1}")]
    Input(String, io::Error),
    /// The results or the dead file.
    #[error(transparent)]
    Output(#[from] OutputError),
}

fn shell_hint(looks_like_shell: bool) -> &'static str {
    if looks_like_shell { "; variables, pipes and redirections need --shell" } else { "" }
}

impl Plan {
    /// Checks everything, then opens the input and makes the outputs.
    ///
    /// # Errors
    /// What is wrong first. An existing file was not touched.
    pub fn new(args: RunArgs) -> Result<Self, Unusable> {
        let plan = Self::without_outputs(args)?;
        plan.check_outputs()?;
        plan.make_outputs()
    }

    /// Checks everything but the outputs, and opens the input.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn without_outputs(args: RunArgs) -> Result<Self, Unusable> {
        let program = program(&args)?;
        let retry = values::retry_policy(args.max_attempts.get(), args.backoff.clone());
        retry.validate().map_err(Unusable::Retry)?;
        let concurrency = args.concurrency.map_or_else(|| programs(args.exec_mode), |number| number as usize);
        reserve_descriptors(concurrency, OTHER_DESCRIPTORS)?;
        let (input, in_use) = Input::open(&args.file)?;
        let how = if args.lines { JobText::Lines } else { JobText::Objects };
        let (results, dead) = (None, None);
        Ok(Self { program, how, input, concurrency, retry, results, dead, args, in_use })
    }

    /// Looks at both outputs before either is made, so that a refusal leaves nothing behind.
    ///
    /// # Errors
    /// One of them exists or is in use.
    pub fn check_outputs(&self) -> Result<(), Unusable> {
        let in_use: Vec<InUse> = self.in_use.into_iter().collect();
        for path in [&self.args.results, &self.args.dead].into_iter().flatten() {
            Output::check(path, self.args.force, &in_use)?;
        }
        self.two_outputs()
    }

    fn two_outputs(&self) -> Result<(), Unusable> {
        match (&self.args.results, &self.args.dead) {
            (Some(results), Some(dead)) if results == dead => {
                Err(OutputError::Same { path: dead.clone(), what: "the file of --results" }.into())
            }
            _ => Ok(()),
        }
    }

    /// Makes the outputs.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn make_outputs(self) -> Result<Self, Unusable> {
        let force = self.args.force;
        self.with_outputs(|path, _, in_use| Output::create(path, force, in_use))
    }

    /// Goes on with the outputs of an earlier life of the run, so many bytes of each.
    ///
    /// # Errors
    /// They cannot be opened.
    pub fn resume_outputs(self, results: u64, dead: u64) -> Result<Self, Unusable> {
        self.two_outputs()?;
        self.with_outputs(|path, is_dead, in_use| Output::resume(path, if is_dead { dead } else { results }, in_use))
    }

    fn with_outputs(
        mut self,
        make: impl Fn(&Path, bool, &[InUse]) -> Result<Output, OutputError>,
    ) -> Result<Self, Unusable> {
        let mut in_use: Vec<InUse> = self.in_use.into_iter().collect();
        self.results = self.args.results.as_deref().map(|path| make(path, false, &in_use)).transpose()?;
        if let Some(results) = &self.results {
            in_use.push(results.in_use("the file of --results")?);
        }
        self.dead = self.args.dead.as_deref().map(|path| make(path, true, &in_use)).transpose()?;
        Ok(self)
    }
}

fn program(args: &RunArgs) -> Result<Program, Unusable> {
    let program = if args.shell { Program::shell(&args.exec) } else { Program::words(&args.exec) }?;
    if args.max_jobs.is_some() && args.exec_mode != ExecMode::Pool {
        return Err(Unusable::OnlyInPool);
    }
    let mut program = program.with_limits(limits(args));
    if let Some((uid, gid)) = args.run_as {
        program = program.user(uid, gid);
    }
    match program.check() {
        Ok(_) => Ok(program),
        Err(StartError::Limit(error)) => Err(Unusable::Limit(option_of(&error), error)),
        Err(error) => {
            Err(Unusable::Program(error, !args.shell && args.exec.contains(['$', '|', '<', '>', '&', ';', '='])))
        }
    }
}

fn limits(args: &RunArgs) -> Limits {
    Limits {
        timeout: args.timeout,
        max_stdout: args.max_output,
        memory: args.memory_limit.map(|bytes| bytes as u64),
        cpu_time: args.cpu_limit,
        open_files: args.max_open_files.map(u64::from),
        processes: args.max_processes,
        ..Limits::default()
    }
}

fn option_of(error: &LimitError) -> &'static str {
    match error {
        LimitError::Processes { .. } => "--max-processes",
        LimitError::User { .. } => "--run-as",
        _ => "--memory-limit, --cpu-limit, --max-open-files",
    }
}

/// As many as keep the processors busy. Between the end of a program and the start of its successor a processor has nothing to do but
/// for others: on two processors, starts a second grow until there are four more. Processes that stay have their next job at once.
fn programs(mode: ExecMode) -> usize {
    let processors = available_parallelism().map_or(1, usize::from);
    match mode {
        ExecMode::Oneshot => processors + 4,
        ExecMode::Pool => processors,
    }
}

impl Input {
    fn open(path: &Path) -> Result<(Self, Option<InUse>), Unusable> {
        if path == Path::new("-") {
            return Ok((Self { source: Box::new(io::stdin()), length: None, file: None }, None));
        }
        let failed = |error| Unusable::Input(format!("{path:?}"), error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let length = metadata.is_file().then_some(metadata.len());
        let file = Arc::new(file);
        let source = Box::new(Arc::clone(&file));
        let file = metadata.is_file().then_some(file);
        Ok((Self { source, length, file }, Some(InUse::new(&metadata, "the input"))))
    }

    /// Goes on where an earlier life of the run was; not at all where that has met the line that a strict reading ends with.
    pub fn skip(&mut self, read: &Read, place: Place, strict: bool) {
        if strict && read.invalid {
            self.source = Box::new(io::empty());
        } else if let Some(file) = &self.file {
            self.source = Box::new(From::new(Arc::clone(file), place.offset));
        }
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    /// `@` stands for the directory.
    fn plan(directory: &Path, words: &[&str]) -> Result<Plan, String> {
        let words = words.iter().map(|word| word.replace('@', &directory.display().to_string()));
        let Command::Run(args) =
            Cli::try_parse_from(["queue".into(), "run".into()].into_iter().chain(words)).unwrap().command
        else {
            panic!("not a run")
        };
        Plan::new(*args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_run_is_ready_to_begin() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("jobs"), "{}\n").unwrap();
        let words =
            ["@/jobs", "--exec", "cat -", "--max-output", "10", "--timeout", "5s", "--results", "@/r", "-j", "3"];
        let mut plan = plan(directory.path(), &words).unwrap();
        assert_eq!((plan.input.length, plan.concurrency, plan.how), (Some(3), 3, JobText::Objects));
        assert_eq!((plan.program.limits().max_stdout, plan.program.limits().timeout.as_secs()), (10, 5));
        let mut text = String::new();
        plan.input.source.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}\n");
        assert!(directory.path().join("r").exists() && plan.dead.is_none());
    }

    #[test]
    fn four_programs_more_than_processors_unless_they_stay() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("jobs"), "").unwrap();
        let processors = available_parallelism().unwrap().get();
        let concurrency =
            |mode| plan(directory.path(), &["@/jobs", "--exec", "cat", "--exec-mode", mode]).unwrap().concurrency;
        assert_eq!((concurrency("oneshot"), concurrency("pool")), (processors + 4, processors));
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (jobs, old) = (directory.path().join("jobs"), directory.path().join("old"));
        fs::write(&jobs, "{}\n").unwrap();
        fs::write(&old, "old").unwrap();
        let cases: [(&[&str], &str); 11] = [
            (&["@/jobs", "--exec", "cat", "--max-jobs", "3"], "--exec-mode pool"),
            (&["@/jobs", "--exec", "no-such-program"], "--exec: \"no-such-program\" is not in PATH"),
            (&["@/jobs", "--exec", "A=1 cat | wc"], "--shell"),
            (&["@/jobs", "--exec", "'"], "not closed"),
            (&["@/jobs", "--exec", " "], "--exec: the command is empty"),
            (&["@/none", "--exec", "cat"], "none"),
            (&["@", "--exec", "cat"], "directory"),
            (&["@/jobs", "--exec", "cat", "--results", "@/old"], "--force"),
            (&["@/jobs", "--exec", "cat", "--results", "@/new", "--dead", "@/old"], "--force"),
            (&["@/jobs", "--exec", "cat", "--dead", "@/jobs", "--force"], "also the input"),
            (
                &["@/jobs", "--exec", "cat", "--dead", "@/x", "--results", "@/x", "--force"],
                "also the file of --results",
            ),
        ];
        for (words, said) in cases {
            let error = plan(directory.path(), words).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        }
        assert_eq!(fs::read(&jobs).unwrap(), b"{}\n");
        assert_eq!(fs::read(&old).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing was made");
    }

    #[test]
    fn one_file_by_two_names_is_not_written_twice() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("jobs"), "{}\n").unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        let words = ["@/jobs", "--exec", "cat", "--results", "@/x", "--dead", "@/sub/../x", "--force"];
        let error = plan(directory.path(), &words).unwrap_err();
        assert!(error.contains("also the file of --results"), "{error}");
    }
}
