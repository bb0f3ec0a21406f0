//! Whether a run begins or goes on, and whether it may.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use queue_core::QueueName;

use super::{
    identity::InputId,
    journal::Journal,
    notes::{BEGUN, Begun, Notes, Unreadable},
    recover::Unrecoverable,
    tail::NotContinued,
};
use crate::args::RunArgs;

/// The queue of the jobs, unless `--queue` names another.
const QUEUE: &str = "run";

/// Why a run with `--journal` is refused, for people.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The input can be read only once.
    #[error(
        "--journal: the input is {0}, which cannot be read again after a crash: write it to a file first, and give that file"
    )]
    NoFile(&'static str),
    /// Another provider than the embedded one.
    #[error("--journal: a broker keeps its jobs itself; leave out --provider, or --journal")]
    Broker,
    /// An output that cannot be read back.
    #[error("--journal: {option} {path:?} is no file, so nobody can tell after a crash which rows it has; give a file")]
    NoRows {
        /// Which option.
        option: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// The journal is somebody else's.
    #[error("--journal: {0:?} holds other queues and no run; give another directory")]
    NoRun(PathBuf),
    /// The run in the journal has another input.
    #[error(
        "--journal: {journal:?} belongs to the run of {input:?}, and this input begins otherwise; \
         give each input a directory of its own, or begin anew with --fresh"
    )]
    OtherInput {
        /// The directory.
        journal: PathBuf,
        /// The input it belongs to.
        input: PathBuf,
    },
    /// An option that cannot change.
    #[error(
        "--journal: {option} was {then} when the run began, and now is {now}; give it as it was, or begin anew with --fresh"
    )]
    Changed {
        /// Which option.
        option: &'static str,
        /// As the run began with it.
        then: String,
        /// As it is given now.
        now: String,
    },
    /// The notes of another version.
    #[error("--journal: {0:?}: {1}; or begin anew with --fresh")]
    Unreadable(PathBuf, Unreadable),
    /// The input cannot be read.
    #[error("cannot read {0:?}: {1}")]
    Input(PathBuf, io::Error),
    /// An output cannot be continued.
    #[error("--journal: {0}")]
    NotContinued(#[from] NotContinued),
    /// The input was changed.
    #[error("--journal: {0}")]
    Unrecoverable(#[from] Unrecoverable),
}

/// What a journal says of a run.
#[derive(Debug)]
pub enum Start {
    /// It begins.
    Begin(Begun),
    /// It goes on.
    Resume(Box<Notes>),
}

/// What can be told from the command line alone.
///
/// # Errors
/// The options make no sense together.
pub fn check_options(args: &RunArgs) -> Result<(), Refused> {
    if args.file == Path::new("-") {
        return Err(Refused::NoFile("stdin"));
    }
    if !matches!(args.provider.as_str(), "memory:" | "memory://") {
        return Err(Refused::Broker);
    }
    if fs::metadata(&args.file).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return Err(Refused::NoFile("a pipe or a device"));
    }
    for (option, path) in [("--results", &args.results), ("--dead", &args.dead)] {
        if let Some(path) = path
            && fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
        {
            return Err(Refused::NoRows { option, path: path.clone() });
        }
    }
    Ok(())
}

/// The queue of the jobs.
///
/// # Errors
/// None that can happen.
pub fn queue_name(args: &RunArgs) -> QueueName {
    args.queue.clone().unwrap_or_else(|| QueueName::from_static(QUEUE))
}

/// Looks into a journal that has these queues: whether a run is in it, and whether it is this one. Blocks; changes nothing.
///
/// # Errors
/// It is another one.
pub fn look(journal: &dyn Journal, args: &RunArgs, file: &File, others: bool) -> Result<Start, Refused> {
    let directory = || args.journal.clone().unwrap_or_default();
    let failed = |error| Refused::Input(args.file.clone(), error);
    let notes = Notes::parse(&journal.notes()).map_err(|error| Refused::Unreadable(directory(), error))?;
    let Some(notes) = notes else {
        let ours = journal.notes().iter().any(|(key, _)| key == BEGUN);
        if others && !ours {
            return Err(Refused::NoRun(directory()));
        }
        let mut begun = Begun::new(InputId::of(file).map_err(failed)?, args.file.clone(), queue_name(args));
        (begun.lines, begun.max_line) = (args.lines, args.max_line);
        (begun.results, begun.dead) = (args.results.clone(), args.dead.clone());
        return Ok(Start::Begin(begun));
    };
    if !notes.begun.input.is(file).map_err(failed)? {
        return Err(Refused::OtherInput { journal: directory(), input: notes.begun.path });
    }
    unchanged(&notes.begun, args)?;
    Ok(Start::Resume(Box::new(notes)))
}

/// What decides which lines are jobs, what their ids are, and where their rows are.
fn unchanged(begun: &Begun, args: &RunArgs) -> Result<(), Refused> {
    let given = |given: bool| if given { "given" } else { "not given" }.to_owned();
    let file = |path: &Option<PathBuf>| path.as_ref().map_or_else(|| given(false), |path| format!("{path:?}"));
    let same = |option, then: String, now: String| match then == now {
        true => Ok(()),
        false => Err(Refused::Changed { option, then, now }),
    };
    same("--lines", given(begun.lines), given(args.lines))?;
    same("--max-line", begun.max_line.to_string(), args.max_line.to_string())?;
    same("--queue", begun.queue.to_string(), queue_name(args).to_string())?;
    for (option, then, now) in [("--results", &begun.results, &args.results), ("--dead", &begun.dead, &args.dead)] {
        // It may have been moved: what it holds tells.
        if then.is_some() != now.is_some() {
            same(option, file(then), file(now))?;
        }
    }
    Ok(())
}
