//! The one task that owns a run: lines come in, jobs go out, every line ends in a row.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    JobId,
    error::ErrorCode,
    job::{Envelope, JobError, Timestamp},
    scheduler::Submitted,
    worker::{AtWork, DrainReport, RunReport, Worker, WorkerBuilder},
};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use super::{
    attempt::{Attempt, Runner},
    look::{self, Found},
    open::{OpenJob, OpenJobs},
    queue::RunQueue,
    reports::{self, Fate, News, Reports},
    resumed::{self, Left},
    submit::{self, Answers},
    why,
};
use crate::{
    args::ExecMode,
    exit::Ending,
    feed::{self, Fed, FeedError, Lines, OpenLine, Reading, What},
    input::JobLine,
    ledger::Ledger,
    output::OutputError,
    plan::Plan,
    progress::Progress,
    results::{Row, Status},
    resume::life::Life,
    summary::Summary,
    window::Window,
};

/// So many lines are submitted at once.
const BATCH: usize = 64;
const TICK: Duration = Duration::from_millis(250);
/// A stream that pauses that long after its first line is not waited for before jobs start.
const STREAM_HEAD_START: Duration = Duration::from_millis(100);
/// Dead jobs are forgotten when so many bytes of them are remembered.
const DEAD_BYTES: usize = 8 << 20;
/// Running programs end at their own timeouts; nothing else hurries them.
const DRAIN: Duration = Duration::from_secs(365 * 24 * 3_600);

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// How a run went.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) summary: Summary,
    pub(super) ending: Ending,
    /// With a journal: how many lines are left in it.
    pub(super) left: Option<usize>,
}

/// The worker's life.
enum Crew {
    /// Not started: lines are still being lined up by priority.
    Waiting(Box<WorkerBuilder>),
    Working(Box<Worker>),
    /// Told to stop; `None` when it has.
    Leaving(Pending<DrainReport>),
}

pub(super) struct Conductor {
    queue: Arc<RunQueue>,
    pub(super) open: OpenJobs,
    pub(super) ledger: Ledger,
    pub(super) progress: Progress,
    /// With a journal: what the next life has to know.
    pub(super) life: Option<Life>,
    pub(super) troubled: bool,
    /// Rows wait for room on their disk.
    pub(super) full: bool,
    quiet: bool,
    window: Window,
    feed: Lines,
    /// Whether the input may give more lines.
    reading: bool,
    /// Whether it is a stream, and when it is waited for no longer.
    stream: bool,
    head_start: Option<Instant>,
    bytes_read: u64,
    crew: Crew,
    runner: Runner,
    reports: Reports,
    reported: bool,
    unstartable: watch::Receiver<Option<String>>,
    submitting: Pending<Answers>,
    looking: Pending<Vec<Found>>,
    next_look: Instant,
    dead_bytes: usize,
    stop: watch::Sender<bool>,
    asked: watch::Receiver<u32>,
    /// Somebody wants to know what the jobs wait for: who asked, how often it is told unasked, and the answer under way.
    why: watch::Receiver<u32>,
    explain: Option<Interval>,
    explaining: Pending<Vec<String>>,
    interrupted: bool,
    pub(super) failed: bool,
    /// Whether the run is to end, and whether that has begun.
    leaving: bool,
    pub(super) drained: bool,
}

impl Conductor {
    /// Starts to read, and processes that stay; no job.
    pub(super) fn new(
        plan: Plan,
        queue: RunQueue,
        asked: watch::Receiver<u32>,
        why: watch::Receiver<u32>,
        life: Option<Life>,
        left: Option<Left>,
    ) -> Result<Self, String> {
        let Plan { program, how, input, concurrency, results, dead, args, .. } = plan;
        let open = OpenJobs::new(queue.name.clone(), queue.run);
        let (told, unstartable) = watch::channel(None);
        let runner = Runner::new(program, concurrency, &args).map_err(|error| format!("--exec: {error}"))?;
        let handler = Attempt::new(runner.clone(), told);
        let (tell, reports) = reports::channel();
        let mut builder = queue.scheduler.worker().queue(queue.name.as_str(), concurrency).fallback_any(handler);
        builder = builder.observe(tell).drain_deadline(DRAIN);
        if queue.is_journaled() {
            // What is fetched may have run when the process dies, and then runs again: twice the programs at most.
            builder = builder.prefetch(concurrency);
        } else if !queue.shared {
            builder = builder.prefetch(prefetch(args.exec_mode, concurrency));
            if args.exec_mode == ExecMode::Pool {
                builder = builder.prefetch_while_brief((concurrency * 64).clamp(128, 512));
            }
        }
        let window = Window::default();
        let mut ledger = Ledger::new(how, results, dead);
        if life.is_some() {
            ledger.be_patient();
        }
        let past = left.map(|left| resumed::take_over(left, &queue, &open, &mut ledger, &window));
        let past = past.transpose().map_err(|error| error.to_string())?.unwrap_or_default();
        let bytes_read = past.offset;
        let reading = Reading { how, max_line: args.max_line, strict: args.strict };
        let feed = feed::start(input.source, reading, past, window.clone(), tokio::runtime::Handle::current())
            .map_err(|error| format!("cannot read the input: {error}"))?;
        Ok(Self {
            queue: Arc::new(queue),
            open,
            ledger,
            progress: Progress::new(input.length, !args.quiet && !args.json),
            life,
            troubled: false,
            full: false,
            quiet: args.quiet,
            window,
            feed,
            reading: true,
            stream: input.length.is_none(),
            head_start: None,
            bytes_read,
            crew: Crew::Waiting(Box::new(builder)),
            runner,
            reports,
            reported: false,
            unstartable,
            submitting: None,
            looking: None,
            next_look: Instant::now() + look::EVERY,
            dead_bytes: 0,
            stop: watch::Sender::new(false),
            asked,
            why,
            explain: args.explain.map(every),
            explaining: None,
            interrupted: false,
            failed: false,
            leaving: false,
            drained: false,
        })
    }

    /// Conducts the run to its end.
    pub(super) async fn conduct(mut self) -> Outcome {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut fed, mut told) = (Vec::with_capacity(BATCH), Vec::new());
        while self.goes_on().await {
            tokio::select! {
                biased;
                Ok(()) = self.asked.changed() => if !self.interrupt() { break },
                Ok(()) = self.why.changed() => self.explain(),
                () = turn(&mut self.explain) => self.explain(),
                Ok(()) = self.unstartable.changed() => self.cannot_start(),
                heard = self.reports.hear(&mut told), if self.hears() => {
                    self.reported = heard == 0;
                    self.hear(&mut told);
                }
                // Before the input, which may always have more.
                _ = tick.tick() => self.tick(),
                answers = done(&mut self.submitting) => self.submitted(answers),
                found = done(&mut self.looking) => self.found(found),
                told = done(&mut self.explaining) => told.iter().for_each(|line| self.progress.say(line)),
                _ = left(&mut self.crew) => {}
                () = until(self.head_start), if self.is_lining_up() => self.start().await,
                lines = self.feed.recv_many(&mut fed, BATCH), if self.reads() => {
                    self.reading = lines > 0;
                    let fed = std::mem::take(&mut fed);
                    self.take_in(fed);
                }
                () = self.window.filled(), if self.is_lining_up() && !self.window.was_full() => {}
            }
        }
        self.end().await
    }

    /// What follows from the state things are in; false at the end.
    async fn goes_on(&mut self) -> bool {
        if self.dead_bytes > DEAD_BYTES {
            self.dead_bytes = 0;
            self.queue.forget_the_dead().await;
        }
        let submitted = self.submitting.is_none();
        // Jobs of one window start by their priority: so the window is filled before the first of them starts.
        let lined_up = !self.reading || (self.window.was_full() && self.feed.is_empty());
        if self.is_lining_up() && submitted && lined_up && !self.leaving {
            self.start().await;
        }
        let nothing_left = !self.reading && submitted && self.open.is_empty() && self.rows_are_out();
        if (nothing_left || self.leaving) && !self.drained {
            self.drain().await;
        }
        !(matches!(self.crew, Crew::Leaving(None)) && submitted && self.reported)
    }

    /// While no row can be written, reports wait, and with them the worker; but not its end.
    fn hears(&self) -> bool {
        !self.reported && (self.leaving || !self.full)
    }

    fn reads(&self) -> bool {
        self.reading && self.submitting.is_none() && !self.full
    }

    fn is_lining_up(&self) -> bool {
        matches!(self.crew, Crew::Waiting(_))
    }

    async fn start(&mut self) {
        match std::mem::replace(&mut self.crew, Crew::Leaving(None)) {
            Crew::Waiting(builder) => match builder.start().await {
                Ok(worker) => self.crew = Crew::Working(Box::new(worker)),
                Err(error) => self.fail(format_args!("cannot start the worker: {error}")),
            },
            other => self.crew = other,
        }
    }

    /// Lines that were read.
    fn take_in(&mut self, fed: Vec<Result<Fed, FeedError>>) {
        let mut jobs = Vec::with_capacity(fed.len());
        let now = (self.queue.scheduler.env().now(), Instant::now());
        self.note_lines(&fed);
        for fed in fed {
            match fed {
                Ok(Fed { line, offset, what }) => {
                    self.bytes_read = offset;
                    match what {
                        What::Job(job) => jobs.extend(self.open_line(line, *job, now)),
                        What::Invalid(invalid) => self.refused(line, Status::Invalid, invalid.into()),
                        What::Duplicate(error) => self.refused(line, Status::Duplicate, error),
                    }
                }
                Err(error) => self.fail(error),
            }
        }
        if self.stream && self.head_start.is_none() {
            self.head_start = Some(Instant::now() + STREAM_HEAD_START);
        }
        if jobs.is_empty() {
            self.note_submitted();
        } else {
            self.submitting = Some(Box::pin(submit::submit(Arc::clone(&self.queue), jobs, self.stop.subscribe())));
        }
    }

    fn open_line(&mut self, line: OpenLine, job: JobLine, (now, instant): (Timestamp, Instant)) -> Option<Envelope> {
        let id = self.queue.job_of(&line);
        self.open.open(OpenJob::new(line, id, instant, job.delay, job.ttl));
        match self.queue.envelope(id, job, now) {
            Ok(envelope) => Some(envelope),
            Err(error) => {
                self.ended(id, Fate::failed(Status::Invalid, JobError::new(error.code(), error.message())));
                None
            }
        }
    }

    fn submitted(&mut self, answers: Answers) {
        for (id, answer) in answers.known {
            match answer {
                Submitted::Accepted(job) => self.open.accepted(&job),
                Submitted::Duplicate(existing) => {
                    let message = format!("its unique_key is held by the job {existing}");
                    self.ended(id, Fate::failed(Status::Duplicate, JobError::new(ErrorCode::Duplicate, message)));
                }
                Submitted::Rejected(error) | Submitted::Unknown(_, error) => {
                    let error = JobError::new(error.code(), error.message());
                    self.ended(id, Fate::failed(Status::Invalid, error));
                }
            }
        }
        match answers.gave_up {
            None => self.note_submitted(),
            Some(error) => {
                // Some of the batch may be in, and the notes cannot say which.
                self.life.iter_mut().for_each(Life::be_unsure);
                self.fail(format_args!("jobs cannot be submitted: {error}"));
            }
        }
    }

    fn hear(&mut self, told: &mut Vec<RunReport>) {
        let (now, monotonic) = (Instant::now(), self.queue.scheduler.env().clock.monotonic());
        for report in told.drain(..) {
            let ran = report.begun.filter(|_| reports::ran(&report)).map(|begun| {
                let begun = now.checked_sub(monotonic.saturating_sub(begun)).unwrap_or(now);
                (report.attempt, begun, report.run)
            });
            let count =
                |open: &mut OpenJob| ran.into_iter().for_each(|(attempt, begun, run)| open.ran(attempt, begun, run));
            match reports::news(report) {
                (id, News::Ended(fate)) => self.ended_after(id, fate, count),
                (id, News::Failed(error)) => self.open.change(id, |open| {
                    count(open);
                    open.failed(error);
                }),
                (id, News::Waits) => self.open.change(id, count),
                (id, News::Doubtful) => self.open.change(id, |open| {
                    count(open);
                    open.doubtful = true;
                }),
            }
        }
    }

    fn found(&mut self, found: Vec<Found>) {
        if found.len() > look::MANY {
            // Where so many ended unreported, there may be more.
            self.next_look = Instant::now();
        }
        for Found { job, fate, attempts } in found {
            self.open.change(job.id, |open| open.attempted(attempts));
            self.ended(job.id, fate);
        }
    }

    /// A job is over. Who hears of it twice, hears nothing new.
    fn ended(&mut self, id: JobId, fate: Fate) {
        self.ended_after(id, fate, |_| ());
    }

    /// The same, after this.
    fn ended_after(&mut self, id: JobId, fate: Fate, last: impl FnOnce(&mut OpenJob)) {
        if let Some(mut open) = self.open.take(id) {
            last(&mut open);
            let (line, row) = open.end(fate.status, fate.result, fate.error);
            if row.status == Status::Dead {
                self.dead_bytes += line.text.len();
            }
            self.write(line, row);
        }
    }

    fn refused(&mut self, line: OpenLine, status: Status, error: JobError) {
        let row = Row::not_run(line.number, status, error);
        self.write(line, row);
    }

    fn write(&mut self, line: OpenLine, row: Row) {
        if let Some(life) = &mut self.life {
            let held = line.text.len() + row.result.as_ref().map_or(0, Bytes::len);
            life.ended(line.number, row.status, held);
        }
        let written = self.ledger.end(line, row);
        self.heed(written);
    }

    /// A row that is lost here is written by the next life, if there is one.
    pub(super) fn heed(&mut self, written: Result<(), OutputError>) {
        self.full = self.life.is_some() && self.ledger.is_full().is_some();
        if let Err(error) = written {
            self.life.iter_mut().for_each(Life::be_unsure);
            self.fail(error);
        }
    }

    fn tick(&mut self) {
        self.window.give_back();
        self.progress.update(self.bytes_read, self.running(), self.ledger.summary().counts());
        self.look_for_room();
        if self.next_look > Instant::now() {
            return;
        }
        self.next_look = Instant::now() + look::EVERY;
        let flushed = self.ledger.flush();
        self.heed(flushed);
        self.make_safe_if_due();
        self.watch_the_disk();
        match self.queue.store() {
            // What ended cannot be told from what was not reported, while reports are not heard.
            Some(store) if self.looking.is_none() && self.hears() => {
                let journal = self.life.as_ref().map(Life::journal);
                self.looking = Some(Box::pin(look::look_and_wait(store, self.open.clone(), journal)));
            }
            Some(_) => {}
            // Without records nobody can tell what expired; the broker drops it silently.
            None => {
                for id in self.open.overdue(look::OVERDUE, &self.at_work()) {
                    self.ended(id, Fate::expired());
                }
            }
        }
    }

    /// Somebody wants the run to end; false where it shall end now.
    fn interrupt(&mut self) -> bool {
        let once = *self.asked.borrow_and_update() < 2;
        self.interrupted = true;
        if once {
            if !self.quiet {
                let running = self.running();
                self.progress.say(&format!("stopping: {running} running programs may finish; Ctrl-C again kills them"));
            }
            self.leaving = true;
        }
        once
    }

    /// What runs, and what ran and was not reported.
    fn at_work(&self) -> Vec<AtWork> {
        self.queue.scheduler.at_work()
    }

    fn running(&self) -> usize {
        self.at_work().iter().filter(|at_work| at_work.ended_after.is_none()).count()
    }

    fn explain(&mut self) {
        let open = self.open.look_over(&self.at_work(), why::MANY);
        if self.explaining.is_none() {
            self.explaining = Some(Box::pin(why::explain(self.queue.scheduler.clone(), open)));
        }
    }

    fn cannot_start(&mut self) {
        let reason = self.unstartable.borrow_and_update().clone();
        if let Some(reason) = reason {
            self.fail(format_args!("--exec: {reason}"));
        }
    }

    /// The run cannot go on: what runs may finish. The first reason is told.
    pub(super) fn fail(&mut self, reason: impl std::fmt::Display) {
        if !std::mem::replace(&mut self.failed, true) {
            self.progress.say(&format!("error: {reason}"));
            self.leaving = true;
        }
    }

    /// Reads no more, starts no more, and lets finish what runs.
    async fn drain(&mut self) {
        (self.drained, self.reading) = (true, false);
        self.stop.send_replace(true);
        self.window.close();
        self.feed.close();
        self.crew = match std::mem::replace(&mut self.crew, Crew::Leaving(None)) {
            Crew::Working(worker) => Crew::Leaving(Some(Box::pin(worker.stop()))),
            // Dropping the builder closes the reports.
            Crew::Waiting(_) => Crew::Leaving(None),
            leaving => leaving,
        };
        // What was read and not taken yet ends here.
        while let Some(fed) = self.feed.recv().await {
            if let Ok(Fed { line, what, .. }) = fed {
                match what {
                    // It is read again in the next life.
                    _ if self.life.is_some() => line.close(),
                    What::Job(_) => self.refused(line, Status::Aborted, aborted(None)),
                    What::Invalid(invalid) => self.refused(line, Status::Invalid, invalid.into()),
                    What::Duplicate(error) => self.refused(line, Status::Duplicate, error),
                }
            }
        }
    }

    /// Whatever is still open ends as aborted; then the books are closed.
    async fn end(mut self) -> Outcome {
        if !matches!(self.crew, Crew::Leaving(None)) {
            // Cut off: dropping it kills the programs.
            self.drain().await;
            let at_work = self.at_work();
            self.crew = Crew::Leaving(None);
            let mut told = self.reports.close();
            // A job's last attempt may be told while its next one runs.
            let ended: HashSet<(JobId, u32)> = told.iter().map(|report| (report.job.id, report.attempt)).collect();
            self.hear(&mut told);
            self.open.cut_off(at_work.iter().filter(|at_work| !ended.contains(&(at_work.job, at_work.attempt))));
        } else {
            self.runner.shutdown().await;
        }
        let back = self.open.all();
        let finished = !(self.failed || self.interrupted);
        let left = self.leave_in_the_journal(finished);
        for open in self.open.take_all() {
            let (line, mut row) = open.end(Status::Aborted, None, None);
            row.error = Some(aborted(row.error));
            self.write(line, row);
        }
        let flushed = self.ledger.flush();
        self.heed(flushed);
        self.progress.finish();
        if let Err(error) = self.queue.take_back(&back).await {
            self.progress.say(&format!("warning: jobs of this run may still run from {}: {error}", self.queue.name));
        }
        if let Err(error) = self.queue.close().await {
            self.progress.say(&format!("warning: the queue {} may be left: {error}", self.queue.name));
        }
        let ending = match (self.failed, self.interrupted) {
            (true, _) => Ending::Failed,
            (_, true) => Ending::Interrupted,
            _ => Ending::Finished,
        };
        Outcome { summary: self.ledger.into_summary(), ending, left }
    }
}

/// Rings that often, but leaves time for the rest of the run.
fn every(period: Duration) -> Interval {
    let period = period.max(TICK);
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What is fetched ahead cannot be overtaken by what is more urgent. So it is little: as much as keeps the programs busy while
/// what they finished is settled, a few jobs each; and more only while they take microseconds.
fn prefetch(mode: ExecMode, concurrency: usize) -> usize {
    match mode {
        ExecMode::Oneshot => concurrency.min(8),
        ExecMode::Pool => (concurrency * 16).clamp(32, 128),
    }
}

fn aborted(last: Option<JobError>) -> JobError {
    let error = JobError::new(ErrorCode::Cancelled, "the run ended first");
    match last {
        Some(last) => error.with_detail(format!("the last attempt: {last}")),
        None => error,
    }
}

/// Waits for what is under way, if anything is.
async fn done<T>(pending: &mut Pending<T>) -> T {
    let Some(work) = pending else { return std::future::pending().await };
    let output = work.await;
    *pending = None;
    output
}

async fn left(crew: &mut Crew) -> DrainReport {
    match crew {
        Crew::Leaving(leaving) => done(leaving).await,
        _ => std::future::pending().await,
    }
}

async fn turn(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
