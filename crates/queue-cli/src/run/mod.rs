//! `queue run`: from a plan to an exit status.

mod attempt;
mod conductor;
mod connect;
mod look;
mod open;
mod queue;
mod reports;
mod resumed;
mod safety;
mod signals;
mod submit;
mod why;

use std::{
    fmt::Display,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use queue_core::JobScheduler;
use tokio::{sync::watch, time::Instant};

use crate::{
    args::{ExecMode, RunArgs},
    exit,
    plan::Plan,
    resume::start,
    summary::Summary,
};
use conductor::{Conductor, Outcome};
use signals::Asked;

/// After the second Ctrl-C, whatever still blocks (a pipe that nobody reads) has so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Runs the jobs and says how the process is to exit. Everything it started has ended by then.
#[must_use]
pub fn run(args: RunArgs) -> u8 {
    if args.exec_mode == ExecMode::Oneshot {
        // Before the first thread, so that none is woken by it.
        queue_process::block_sigchld();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(format_args!("cannot start: {error}")),
    };
    let status = runtime.block_on(supervise(args));
    // Drops the programs that were cut off, which kills them. The input may block its thread for ever.
    runtime.shutdown_timeout(PATIENCE);
    status
}

/// Says why nothing can be done.
pub fn refuse(reason: impl Display) -> u8 {
    say(format_args!("error: {reason}"));
    exit::UNUSABLE
}

/// To stderr; whether anybody reads it is not our business.
fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

async fn supervise(args: RunArgs) -> u8 {
    let Asked { end: asked, why } = match signals::listen() {
        Ok(asked) => asked,
        Err(error) => return refuse(format_args!("cannot listen for signals: {error}")),
    };
    let (json, quiet, journal) = (args.json, args.quiet, args.journal.clone());
    let begun = Instant::now();
    let prepared = tokio::select! {
        prepared = prepare(args, asked.clone(), why) => prepared,
        // Opening a pipe may wait for ever, and so may a broker.
        () = requested(asked.clone(), 1) => return exit::INTERRUPTED,
    };
    let conductor = match prepared {
        Ok(conductor) => conductor,
        Err(reason) => return refuse(reason),
    };
    // A task of its own, so that it may block while signals are still heard.
    let conducting = tokio::spawn(conductor.conduct());
    tokio::select! {
        ended = conducting => match ended {
            Ok(outcome) => {
                if let Some(directory) = journal.filter(|_| !quiet) {
                    tell_what_is_left(&outcome, &directory, json);
                }
                conclude(&outcome, begun.elapsed(), json, quiet)
            }
            Err(error) => refuse(format_args!("the run broke off: {error}; please report this")),
        },
        () = forced(asked) => {
            say("error: the output takes no more rows; the last ones are lost");
            exit::INTERRUPTED
        }
    }
}

async fn prepare(args: RunArgs, asked: watch::Receiver<u32>, why: watch::Receiver<u32>) -> Result<Conductor, String> {
    if let Some(directory) = args.journal.clone() {
        return prepare_journaled(args, &directory, asked, why).await;
    }
    // First, so that a broker which is away leaves no empty output file.
    let scheduler = connect::connect(&args.provider, args.queue.as_ref()).await;
    let scheduler = scheduler.map_err(|error| format!("--provider: {}", error.message()))?;
    match begin(args, &scheduler, asked, why).await {
        Ok(conductor) => Ok(conductor),
        Err(reason) => {
            let _ = scheduler.close().await;
            Err(reason)
        }
    }
}

async fn prepare_journaled(
    args: RunArgs,
    directory: &Path,
    asked: watch::Receiver<u32>,
    why: watch::Receiver<u32>,
) -> Result<Conductor, String> {
    start::check_options(&args).map_err(|error| error.to_string())?;
    // Before the journal, so that a mistake leaves no directory behind.
    let plan = tokio::task::spawn_blocking(|| Plan::without_outputs(args)).await.map_err(|error| error.to_string())?;
    let plan = plan.map_err(|error| error.to_string())?;
    let opened = connect::open_journal(directory).await;
    let (scheduler, journal) = opened.map_err(|error| format!("--journal: {}", error.message()))?;
    match resumed::begin(plan, &scheduler, journal, asked, why).await {
        Ok(conductor) => Ok(conductor),
        Err(reason) => {
            let _ = scheduler.close().await;
            Err(reason)
        }
    }
}

async fn begin(
    args: RunArgs,
    scheduler: &JobScheduler,
    asked: watch::Receiver<u32>,
    why: watch::Receiver<u32>,
) -> Result<Conductor, String> {
    let plan = tokio::task::spawn_blocking(|| Plan::new(args)).await.map_err(|error| error.to_string())?;
    let plan = plan.map_err(|error| error.to_string())?;
    let queue = queue::RunQueue::open(scheduler.clone(), &plan.args, plan.retry.clone(), None);
    let queue = queue.await.map_err(|error| format!("--provider: {}", error.message()))?;
    Conductor::new(plan, queue, asked, why, None, None)
}

/// Resolves when somebody has asked so often for the end.
async fn requested(mut asked: watch::Receiver<u32>, times: u32) {
    if asked.wait_for(|count| *count >= times).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Resolves some time after the second request to end.
async fn forced(asked: watch::Receiver<u32>) {
    requested(asked, 2).await;
    tokio::time::sleep(PATIENCE).await;
}

fn conclude(outcome: &Outcome, elapsed: Duration, json: bool, quiet: bool) -> u8 {
    let status = exit::exit_status(outcome.summary.counts(), outcome.ending);
    if json {
        return match print_json(&outcome.summary, elapsed, status) {
            Ok(()) => status,
            Err(error) => refuse(format_args!("cannot write the summary to stdout: {error}")),
        };
    }
    if !quiet {
        let _ = io::stderr().write_all(outcome.summary.for_people(elapsed).as_bytes());
    }
    status
}

/// How to go on with a run that was cut off.
fn tell_what_is_left(outcome: &Outcome, directory: &Path, json: bool) {
    let (lines, summary) = (outcome.left.unwrap_or_default(), &outcome.summary);
    if outcome.ending != exit::Ending::Finished {
        say(format_args!(
            "the run is kept in {directory:?}, with {lines} lines under way: the same command goes on where it was"
        ));
    } else if !json && summary.earlier() > 0 && summary.earlier() == summary.counts().total() {
        say("nothing was left to run: all of it was done before (--fresh begins anew)");
    }
}

fn print_json(summary: &Summary, elapsed: Duration, status: u8) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", summary.for_machines(elapsed, status))?;
    stdout.flush()
}
