//! Handlers that are programs.
//!
//! A [`Program`] runs once an attempt: the payload goes to its stdin, its stdout is the result, its exit says how it
//! went. What a run guarantees, whatever the program does:
//!
//! - It leads a **process group of its own**, and the whole group is killed at the timeout, when the output is too
//!   large, when the future is dropped, and when the program has exited: nothing it started outlives it. Only a
//!   descendant that leaves the group on purpose (`setsid`, a daemon) escapes. If this process itself is killed with
//!   SIGKILL, running programs go on.
//! - The group is signalled only while its leader has not been reaped, so the signal cannot meet a stranger that was
//!   given the same number.
//! - **Pipes are closed at the exit**: what the program had written by then is read, and a descendant that still holds
//!   a pipe open delays nothing.
//! - Payload and output flow at the same time, so neither side can block the other: from the start where the payload is larger
//!   than a pipe or the last run wrote much, else once a run is 10 ms old. A program that does not read its stdin is no error.
//! - Memory is bounded: stdout by [`Limits::max_stdout`] (more kills the program), stderr by [`Limits::max_stderr`]
//!   (its tail is kept).
//! - The program inherits no descriptor but 0, 1 and 2.
//! - What it takes beyond that is bounded where [`Limits`] say so, and a limit that cannot be kept is refused.
//!
//! [`ProcessHandler`] makes a worker's handler of it. Where starting a program costs more than its work, [`ProcessPool`] keeps
//! some alive and hands them jobs, one line of JSON each, with the same guarantees for each process.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use queue_process::{End, Execution, Program};
//!
//! let program = Program::words("jq -c .total")?;
//! program.check()?;
//! let finished = program.run(Execution::new(r#"{"total": 7}"#), std::future::pending()).await?;
//! assert_eq!(finished.end, End::Exited(0));
//! assert_eq!(&finished.stdout[..], b"7\n");
//! # Ok(()) }
//! ```

#[cfg(not(unix))]
compile_error!("queue-process needs process groups and signals: it builds on Unix only");

// What to run, and whether it can be.
mod descriptors;
#[cfg(target_os = "linux")]
mod dispositions;
mod error;
mod limits;
#[cfg(target_os = "linux")]
mod prepared;
mod program;
mod resolve;

// One run: who is killed, when it is over, what it said.
mod bare;
mod cgroup;
mod confine;
mod exit;
mod group;
mod output;
mod pipes;
mod run;
mod sigchld;

// What the run means for the job.
mod handler;
mod outcome;
mod pool;
mod result;

pub use descriptors::{DESCRIPTORS_PER_RUN, DescriptorLimit, DescriptorLimits, descriptor_limits, reserve_descriptors};
pub use error::{CommandLineError, StartError};
pub use handler::ProcessHandler;
pub use limits::{Limit, LimitError, Limits};
pub use outcome::{CPU_TIME_LIMIT, NEVER_RETRY, PROCESS_LIMIT, failure_to_start, outcome};
pub use output::Tail;
pub use pool::{Asking, PoolOptions, PoolStats, ProcessPool};
pub use program::{Environment, Program};
pub use result::result_json;
pub use run::{End, Execution, Finished};
pub use sigchld::block_sigchld;
