//! `--journal`: from a plan to a conductor, by way of what an earlier life of the run has left.

use std::sync::Arc;

use queue_core::{Error, ErrorCode, JobScheduler, job::JobRef};
use tokio::{sync::watch, time::Instant};

use super::{
    conductor::Conductor,
    open::{OpenJob, OpenJobs},
    queue::RunQueue,
};
use crate::{
    feed::{OpenLine, Past, weight},
    ledger::Ledger,
    output::OutputError,
    plan::Plan,
    resume::{
        journal::Journal,
        life::Life,
        notes::{BEGUN, Begun, Notes, Rows},
        recover::{self, Recovered},
        start::{self, Refused, Start},
        tail,
    },
    summary::Counts,
    window::Window,
};

/// What an earlier life has left, to be taken over.
#[derive(Debug)]
pub(super) struct Left {
    rows: Rows,
    recovered: Recovered,
}

/// Begins the run, or goes on with it.
///
/// # Errors
/// For people. Nothing was started, and nothing was changed that the run had.
pub(super) async fn begin(
    mut plan: Plan,
    scheduler: &JobScheduler,
    journal: Arc<dyn Journal>,
    asked: watch::Receiver<u32>,
    why: watch::Receiver<u32>,
) -> Result<Conductor, String> {
    if plan.args.fresh && journal.notes().iter().any(|(key, _)| key == BEGUN) {
        // An empty note: what follows may be cut off, and the next life is to do it again.
        journal.note(BEGUN, Vec::new()).map_err(said)?;
    }
    let others = scheduler.admin().queues("", None, 1).await.map_err(said)?;
    let Some(file) = plan.input.file.clone() else { return Err(Refused::NoFile("no file").to_string()) };
    let start = blocking({
        let (journal, args, file) = (Arc::clone(&journal), plan.args.clone(), Arc::clone(&file));
        move || start::look(&*journal, &args, &file, !others.items.is_empty())
    });
    match start.await? {
        Start::Begin(begun) => {
            plan.check_outputs().map_err(|error| error.to_string())?;
            drop_what_is_left(scheduler, &begun).await?;
            let life = Life::begin(journal, begun).map_err(said)?;
            // Returns when it is on disk, and then so is what was noted before it.
            let queue = open(&plan, scheduler, &life).await?;
            let plan = blocking(move || plan.make_outputs()).await?;
            Conductor::new(plan, queue, asked, why, Some(life), None)
        }
        Start::Resume(notes) => {
            let store = scheduler.store().map_err(said)?;
            let records = recover::records(&**store, &notes.begun.queue).await.map_err(said)?;
            let read = {
                let (notes, results, dead) = (notes.clone(), plan.args.results.clone(), plan.args.dead.clone());
                move || -> Result<Recovered, Refused> {
                    let rows = results.map(|path| tail::read(&path, &notes.rows.results.unwrap_or_default()));
                    if let Some(path) = dead {
                        tail::check(&path, &notes.rows.dead.unwrap_or_default())?;
                    }
                    Ok(recover::recover(&notes, &file, records, rows.transpose()?.unwrap_or_default())?)
                }
            };
            let mut recovered = blocking(read).await?;
            let rows = notes.rows.clone();
            plan = blocking(move || plan.resume_outputs(length(rows.results), length(rows.dead))).await?;
            plan.input.skip(&notes.read, recovered.place, plan.args.strict);
            let rows = notes.rows.clone();
            let life = Life::resume(journal, Notes::clone(&notes), &mut recovered);
            let queue = open(&plan, scheduler, &life).await?;
            Conductor::new(plan, queue, asked, why, Some(life), Some(Left { rows, recovered }))
        }
    }
}

async fn open(plan: &Plan, scheduler: &JobScheduler, life: &Life) -> Result<RunQueue, String> {
    let opened = RunQueue::open(scheduler.clone(), &plan.args, plan.retry.clone(), Some(life.begun())).await;
    opened.map_err(said)
}

fn said(error: Error) -> String {
    format!("--journal: {}", error.message())
}

/// A run that was begun anew and cut off may have left its jobs.
async fn drop_what_is_left(scheduler: &JobScheduler, begun: &Begun) -> Result<(), String> {
    match scheduler.provider().drop_queue(&begun.queue, false).await {
        Err(error) if error.code() != ErrorCode::NotFound => Err(said(error)),
        _ => Ok(()),
    }
}

fn length(written: Option<crate::resume::notes::Written>) -> u64 {
    written.map_or(0, |written| written.length)
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

/// Takes over what is left: rows that are missing are written, lines whose jobs go on are open again. Says where reading goes on.
///
/// # Errors
/// A row cannot be written.
pub(super) fn take_over(
    left: Left,
    queue: &RunQueue,
    open: &OpenJobs,
    ledger: &mut Ledger,
    window: &Window,
) -> Result<Past, OutputError> {
    let Left { rows, recovered } = left;
    ledger.count_on(Counts::new(rows.counts), rows.attempts);
    for ended in &recovered.ended {
        ledger.adopt(&ended.text, &ended.row, ended.written.as_deref())?;
    }
    ledger.begin_this_life();
    for again in recovered.open {
        let slot = window.admit(weight(&again.line.text));
        let line = OpenLine::new(again.line.number, again.line.text, slot);
        let id = queue.job_of(&line);
        open.open(OpenJob::new(line, id, Instant::now(), again.job.delay, again.job.ttl));
        open.accepted(&JobRef::new(queue.name.clone(), id));
        let record = again.record;
        open.change(id, |open| open.attempted(if record.started_at.is_some() { record.attempt } else { 0 }));
        if let Some(error) = record.error {
            open.change(id, |open| open.failed(error));
        }
    }
    Ok(Past { line: recovered.place.line, offset: recovered.place.offset, seen: recovered.seen })
}
