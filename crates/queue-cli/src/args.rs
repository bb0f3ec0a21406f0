//! The command line.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueHint};
use queue_core::job::{Backoff, QueueName};

pub use crate::inspect::InspectArgs;
use crate::values;

/// Run jobs from a file, and see what the brokers can do.
#[derive(Debug, Parser)]
#[command(name = "queue", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every line of a file as a job, with retries, priorities and dead letters
    Run(Box<RunArgs>),
    /// Show the providers of this build, what they can do, whether they can be reached, and how to mend what is amiss
    Doctor(DoctorArgs),
    /// Look into the queues of a provider: how many jobs are in which state, which these are, who holds one and until when
    Inspect(InspectArgs),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// `queue run`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = RUN_HELP)]
pub struct RunArgs {
    /// The jobs, one a line; `-` is stdin
    #[arg(value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// The program to run for each attempt, with the payload on its stdin
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    pub exec: String,

    /// How it is run: once an attempt, or kept alive and handed one job after the other
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub exec_mode: ExecMode,

    /// Hand CMD to `sh -c` instead of splitting it into words
    #[arg(long)]
    pub shell: bool,

    /// Take each line as a text payload instead of as a JSON object
    #[arg(long)]
    pub lines: bool,

    /// Where the jobs go on their way
    #[arg(long, value_name = "URL", default_value = "memory:")]
    pub provider: String,

    /// Which queue of the provider to use, and keep [default: a private one, removed at the end]
    #[arg(long, value_name = "NAME", value_parser = queue_name)]
    pub queue: Option<QueueName>,

    /// How many programs run at once [default: the number of processors, and four more in one-shot mode]
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,

    /// How often a job is run before it is dead; 1 means no retry
    #[arg(long, value_name = "N", default_value = "4")]
    pub max_attempts: NonZeroU32,

    /// How long to wait between attempts: none, fixed:DUR or exp:DUR..DUR
    #[arg(long, value_name = "BACKOFF", value_parser = values::backoff, default_value = "exp:1s..30s")]
    pub backoff: Backoff,

    /// The longest an attempt may run; then its whole process group is killed
    #[arg(long, value_name = "DUR", value_parser = values::time_limit, default_value = "60s")]
    pub timeout: Duration,

    /// Write how each line ended, as NDJSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub results: Option<PathBuf>,

    /// Write the dead and invalid lines, to be mended and fed in again
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub dead: Option<PathBuf>,

    /// Overwrite the files of --results and --dead
    #[arg(long)]
    pub force: bool,

    /// The longest line, in bytes; a longer one is invalid
    #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = "1MiB")]
    pub max_line: usize,

    /// The most a program may write to stdout; more kills it, and it is not retried
    #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = "1MiB")]
    pub max_output: usize,

    /// The most address space of each process of the program [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub memory_limit: Option<usize>,

    /// The most processor time of each process, in whole seconds [default: unlimited]
    #[arg(long, value_name = "DUR", value_parser = values::time_limit)]
    pub cpu_limit: Option<Duration>,

    /// The most open files of each process [default: as here]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub max_open_files: Option<u32>,

    /// The most processes and threads of the program at once, itself included [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_processes: Option<u32>,

    /// Run the program as this user; only root can
    #[arg(long, value_name = "UID[:GID]", value_parser = values::user)]
    pub run_as: Option<(u32, u32)>,

    /// In pool mode, replace a process after so many jobs [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_jobs: Option<u64>,

    /// Keep the run in this directory: after a crash, a kill or Ctrl-C, the same command goes on where it was
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub journal: Option<PathBuf>,

    /// With --journal: forget the run that the directory holds, and begin anew
    #[arg(long, requires = "journal")]
    pub fresh: bool,

    /// Stop at the first invalid line
    #[arg(long)]
    pub strict: bool,

    /// Tell on stderr every so often what runs, and why what waits is waiting [default interval: 10s]
    #[arg(long, value_name = "EVERY", value_parser = values::time_limit, num_args = 0..=1, require_equals = true,
          default_missing_value = "10s")]
    pub explain: Option<Duration>,

    /// Print the summary as JSON, and no progress
    #[arg(long)]
    pub json: bool,

    /// Print neither progress nor a summary for people
    #[arg(long, short)]
    pub quiet: bool,
}

/// `--exec-mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExecMode {
    /// A process for each attempt: payload on stdin, result on stdout
    #[default]
    Oneshot,
    /// As many processes as --concurrency says, which stay and speak NDJSON: one job a line in, one answer a line out
    Pool,
}

/// `queue doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Look at this provider, and see whether it can be reached [default: as the environment says, else memory]
    #[arg(long, value_name = "URL")]
    pub provider: Option<String>,
}

const RUN_HELP: &str = r#"INPUT
  One JSON object a line; blank lines are skipped:
    {"payload": {"to": "a@example.org"}, "priority": 10, "delay": "2s", "unique_key": "mail-1"}
  payload          any JSON (required); the program reads it from stdin exactly as it is written
  priority         1 to 15, the higher the sooner; 5 unless given
  delay, ttl       not started before, not after: "500ms", "2s", "1m30s"; no ttl unless given
  timeout          the longest an attempt may run, instead of --timeout
  max_attempts     how often it is run at most, instead of --max-attempts
  backoff          instead of --backoff
  unique_key       a later line with the same key is a duplicate and not run, for the whole run
  kind             what the program sees in QUEUE_KIND; "exec" unless given
  content_type     "application/json", or "text/plain": the payload is a string and is read without its quotes
  correlation_id, user, project, tags (strings), metadata (an object of strings)
  Other keys are errors, keys that begin with `_` are ignored. With --lines, each line that is not blank is a text payload.
  The file is streamed: priority and delay act within a window of 10,000 jobs or 64 MiB, which is filled before the first
  job starts. A pipe that pauses is not waited for.

PROGRAM
  CMD is split into words and run without a shell, once an attempt, with the payload on stdin and these variables:
  QUEUE_JOB_ID QUEUE_NAME QUEUE_KIND QUEUE_ATTEMPT (from 1) QUEUE_MAX_ATTEMPTS
  Exit 0: completed, and stdout is the result (JSON if it is JSON, else text). Exit 65: dead, not retried.
  Any other end: retried. Whatever it started is killed when it exits or reaches its timeout.
  A CMD that cannot be started ends the run, and no job is blamed for it.

POOL
  With --exec-mode pool, CMD is started as often as --concurrency says and stays. Each process reads one line of JSON for
  a job and answers it with one, before it gets the next; a start is paid once:
    <- {"id":"...","queue":"...","kind":"exec","attempt":1,"max_attempts":4,"payload":...}
    -> {"id":"...","result":...}   or   {"id":"...","error":{"message":"...","code":"...","retryable":false}}
  Before the answer it may write {"id":"...","progress":{"percent":50}} and {"id":"...","log":"..."}, any number. A handler
  in Python (flush each line!):
    import json, sys
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps({"id": job["id"], "result": len(str(job["payload"]))}), flush=True)
  Its stdin ends when it is to go. A process that ends, times out or writes anything else is killed and replaced, and its
  job is retried.

LIMITS
  --memory-limit, --cpu-limit and --max-open-files bind each process, root's too. --max-processes takes a cgroup that may
  be written to, or --run-as; where there is neither, the run is refused. In pool mode they hold for the whole life of a
  process: give --max-jobs with --cpu-limit. A job whose program runs into a limit fails, and says so.

RESULTS
  {"id","line","status","attempts","result"|"error","wait_ms","run_ms"}, one for every line that was read, in the order
  they ended; status is completed, dead, invalid, duplicate, cancelled, expired or aborted. A file that exists is not
  overwritten without --force. wait_ms is from the submission to the first start, without an asked delay; run_ms sums the
  attempts.

RESUME
  With --journal DIR the run outlives a crash, a kill -9, a power cut and Ctrl-C: give the same command again, and it goes on.
  What has completed or died is not run again; what was running is (at most twice --concurrency jobs a kill), so programs
  should bear being run twice. --results and --dead hold every line once at the end. The input must be a file; lines may be
  appended to it. --exec, --concurrency, limits and the like may change, and act on what has not started; --lines, --max-line,
  --queue and whether there are --results and --dead may not; jobs that were read keep the timeout and the attempts that they were
  read with. A directory belongs to one input and one process at a time; --fresh forgets what it holds.

EXIT STATUS
  0  all completed or duplicate          2    unusable arguments, input or output
  1  some dead, invalid or not run       130  interrupted: Ctrl-C drains, a second one aborts

STUCK?
  Ctrl-\ (SIGQUIT) tells on stderr what runs, and why what waits is waiting; --explain tells it every 10 s.

EXAMPLES
  Resize pictures, four at a time:
    ls *.jpg | queue run - --lines --shell --exec 'read -r f; convert "$f" -resize 50% "small/$f"' -j 4
  Call a service for each job, and keep what came back:
    queue run jobs.ndjson --exec 'curl -sf --json @- https://api.example.org/v1/things' --results out.ndjson
  Pay the start of an interpreter once, and let no job take the machine:
    queue run jobs.ndjson --exec 'python3 handler.py' --exec-mode pool --memory-limit 512MiB --max-processes 32
  Go on after a crash, however often:
    queue run jobs.ndjson --exec ./work --results out.ndjson --journal jobs.journal
  Run again what failed, once mended:
    queue run jobs.ndjson --exec ./work --dead dead.ndjson
    queue run dead.ndjson --exec ./work --dead still-dead.ndjson
"#;

pub(crate) fn queue_name(text: &str) -> Result<QueueName, String> {
    QueueName::new(text).map_err(|error| error.message().to_owned())
}

impl Cli {
    /// Writes a shell's completion script.
    pub fn completions(shell: clap_complete::Shell, out: &mut dyn std::io::Write) {
        clap_complete::generate(shell, &mut Self::command(), "queue", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rest: &str) -> Result<RunArgs, clap::Error> {
        let words = format!("queue run jobs.ndjson --exec cat {rest}");
        match Cli::try_parse_from(words.split_whitespace())?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let args = run("").unwrap();
        assert_eq!(args.provider, "memory:");
        assert_eq!((args.timeout, args.max_attempts.get()), (Duration::from_secs(60), 4));
        assert_eq!((args.max_line, args.max_output), (1 << 20, 1 << 20));
        assert_eq!(values::retry_policy(4, args.backoff), queue_core::RetryPolicy::default());
        assert_eq!(args.exec_mode, ExecMode::Oneshot);
        assert!(!(args.shell || args.lines || args.force || args.strict || args.json || args.quiet));
    }

    #[test]
    fn every_option_of_run_is_understood() {
        let args = run("--shell --lines --provider redis://h --queue q -j 3 --max-attempts 2 --backoff fixed:1s \
                        --timeout 5s --results r --dead d --force --max-line 2MiB --max-output 64KiB --strict --explain=3s --json \
                        --quiet --exec-mode pool --memory-limit 512MiB --cpu-limit 2s --max-open-files 64 \
                        --max-processes 16 --run-as 65534:65533 --max-jobs 100")
        .unwrap();
        assert_eq!((args.exec_mode, args.memory_limit), (ExecMode::Pool, Some(512 << 20)));
        assert_eq!((args.cpu_limit, args.max_open_files), (Some(Duration::from_secs(2)), Some(64)));
        assert_eq!((args.max_processes, args.run_as, args.max_jobs), (Some(16), Some((65_534, 65_533)), Some(100)));
        assert!(args.shell && args.lines && args.force && args.strict && args.json && args.quiet);
        assert_eq!(args.explain, Some(Duration::from_secs(3)));
        assert_eq!(run("--explain --json").unwrap().explain, Some(Duration::from_secs(10)));
        assert_eq!((args.concurrency, args.max_attempts.get()), (Some(3), 2));
        assert_eq!((args.max_line, args.max_output), (2 << 20, 64 << 10));
        assert_eq!(args.queue.unwrap().as_str(), "q");
    }

    #[test]
    fn bad_values_are_named_and_end_with_status_2() {
        let cases = [
            ("--timeout 5", "with a unit"),
            ("--timeout 0s", "zero"),
            ("--max-line lots", "is not a size"),
            ("--backoff exp:1s", "is not a backoff"),
            ("--max-attempts 0", "max-attempts"),
            ("--concurrency 0", "1..=10000"),
            ("--queue a\u{7}b", "control character"),
            ("--exec-mode forever", "oneshot, pool"),
            ("--memory-limit much", "is not a size"),
            ("--cpu-limit 0s", "zero"),
            ("--max-open-files 2", "2 is not in 3.."),
            ("--max-processes 0", "0 is not in 1.."),
            ("--run-as nobody", "a user id"),
            ("--unknown", "--unknown"),
        ];
        for (option, said) in cases {
            let error = run(option).unwrap_err();
            assert!(error.to_string().contains(said), "{option}: {error}");
            assert_eq!(error.exit_code(), 2, "{option}");
        }
        assert_eq!(Cli::try_parse_from(["queue", "run", "file"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn completions_know_the_options() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            Cli::completions(shell, &mut script);
            assert!(String::from_utf8(script).unwrap().contains("max-output"), "{shell}");
        }
    }
}
