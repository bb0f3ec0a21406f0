//! Finds the lines of the jobs that an earlier life left in the journal.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{self, BufReader},
    sync::Arc,
    time::Duration,
};

use queue_core::{
    JobId, QueueName, Result as QueueResult,
    error::ErrorCode,
    job::JobError,
    lifecycle::JobState,
    store::{JobQuery, JobRecord, JobStore},
};

use super::{
    identity::{From, check},
    life::Pending,
    notes::{Notes, Place},
    tail::TailRow,
};
use crate::{
    input::{JobLine, JobText, Line, LineReader, Text, parse},
    results::{Row, Status},
    seen::{Seen, SeenError},
};

/// Read ahead.
const BUFFER: usize = 256 << 10;

/// What an earlier life left behind.
#[derive(Debug)]
pub struct Recovered {
    /// Lines whose jobs go on.
    pub open: Vec<OpenAgain>,
    /// Lines whose jobs have ended, and whose rows are not known to be safe.
    pub ended: Vec<EndedBefore>,
    /// Every line that has a job in the journal.
    pub pending: BTreeMap<u64, Pending>,
    /// The unique keys of the lines that were read.
    pub seen: Seen,
    /// Where reading goes on.
    pub place: Place,
}

/// A line whose job goes on.
#[derive(Debug)]
pub struct OpenAgain {
    /// The line.
    pub line: Line,
    /// The job it is.
    pub job: JobLine,
    /// What became of it so far.
    pub record: JobRecord,
}

/// A line whose job has ended.
#[derive(Debug)]
pub struct EndedBefore {
    /// The line's text.
    pub text: Text,
    /// Its row, as far as it is known.
    pub row: Row,
    /// The row as it was written before.
    pub written: Option<Vec<u8>>,
}

/// Why a run cannot be resumed, for people.
#[derive(Debug, thiserror::Error)]
pub enum Unrecoverable {
    /// The input is not what it was.
    #[error(
        "the input was changed since the run began ({0}); lines may be appended to it, but those that were read must stay: \
         bring them back, or begin anew with --fresh"
    )]
    Edited(String),
    /// The input cannot be read.
    #[error("cannot read the input: {0}")]
    Input(#[from] io::Error),
    /// The unique keys cannot be kept.
    #[error(transparent)]
    Seen(#[from] SeenError),
}

/// Every job of the queue.
///
/// # Errors
/// The store's.
pub async fn records(store: &dyn JobStore, queue: &QueueName) -> QueueResult<HashMap<JobId, JobRecord>> {
    const PAGE: usize = 1_000;
    let query = JobQuery::queue(queue.clone());
    let (mut records, mut cursor) = (HashMap::new(), None);
    loop {
        let page = store.list(&query, cursor, PAGE).await?;
        records.extend(page.items.into_iter().map(|record| (record.job.id, record)));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(records);
        }
    }
}

/// Reads the input again from the first line that has a job in the journal, or all that was read where lines have unique keys.
/// Blocks.
///
/// # Errors
/// The input is not the one that was read; nothing was changed.
pub fn recover(
    notes: &Notes,
    file: &Arc<File>,
    mut records: HashMap<JobId, JobRecord>,
    tail: Vec<TailRow>,
) -> Result<Recovered, Unrecoverable> {
    let read = &notes.read;
    let from = if read.keys { Place::default() } else { read.low.min(read.before) };
    let source = BufReader::with_capacity(BUFFER, From::new(Arc::clone(file), from.offset));
    let mut lines = LineReader::new(source, notes.begun.max_line).behind(from.line, from.offset);
    let how = if notes.begun.lines { JobText::Lines } else { JobText::Objects };
    let mut scan = Scan {
        notes,
        how,
        listed: notes.rows.listed.iter().copied().collect(),
        tail: tail.into_iter().filter_map(|row| Some((row.head.id?, row))).collect(),
        found: Recovered {
            open: Vec::new(),
            ended: Vec::new(),
            pending: BTreeMap::new(),
            seen: Seen::default(),
            place: Place::default(),
        },
    };
    let mut before = from;
    while before.line < read.place.line {
        let last = lines.next_line()?;
        let last = last.ok_or_else(|| Unrecoverable::Edited(format!("line {} is missing", read.place.line)))?;
        let number = last.number;
        if number > read.place.line || (number == read.place.line && check(last.text.bytes()) != read.check) {
            return Err(Unrecoverable::Edited(format!("line {number} is another one")));
        }
        scan.take(last, before, &mut records)?;
        before = Place { line: number, offset: lines.bytes_read() };
    }
    scan.found.place = before;
    // What was published last may be ahead of the notes: it is read again, and known then.
    while !records.is_empty() {
        let Some(Line { number, text }) = lines.next_line()? else {
            let message = format!("{} of its jobs are not in it", records.len());
            return Err(Unrecoverable::Edited(message));
        };
        records.remove(&notes.begun.input.job(number, text.bytes()));
    }
    Ok(scan.found)
}

struct Scan<'a> {
    notes: &'a Notes,
    how: JobText,
    listed: HashSet<u64>,
    tail: HashMap<JobId, TailRow>,
    found: Recovered,
}

impl Scan<'_> {
    fn take(
        &mut self,
        line: Line,
        before: Place,
        records: &mut HashMap<JobId, JobRecord>,
    ) -> Result<(), Unrecoverable> {
        let id = self.notes.begun.input.job(line.number, line.text.bytes());
        let record = records.remove(&id);
        if record.is_none() && !self.notes.read.keys {
            return Ok(());
        }
        let Ok(job) = parse(&line.text, self.how) else { return Ok(()) };
        if let Some(key) = &job.unique_key {
            self.found.seen.insert(key.as_str())?;
        }
        let Some(record) = record else { return Ok(()) };
        let status = status_of(record.state);
        self.found.pending.insert(line.number, Pending { before, id, written: status.is_some() });
        match status {
            None => self.found.open.push(OpenAgain { line, job, record }),
            // It is in the counts and, if there are any, in the files.
            Some(_) if self.listed.contains(&line.number) => {}
            Some(status) => {
                let mut row = row_of(record, line.number, status);
                let written = self.tail.remove(&id).map(|tail| {
                    row.attempts = tail.head.attempts;
                    row.wait = Duration::from_millis(tail.head.wait_ms);
                    row.run = Duration::from_millis(tail.head.run_ms);
                    tail.bytes
                });
                self.found.ended.push(EndedBefore { text: line.text, row, written });
            }
        }
        Ok(())
    }
}

const fn status_of(state: JobState) -> Option<Status> {
    match state {
        JobState::Completed => Some(Status::Completed),
        JobState::Dead => Some(Status::Dead),
        JobState::Cancelled => Some(Status::Cancelled),
        JobState::Expired => Some(Status::Expired),
        _ => None,
    }
}

/// The row of a job as its record tells it: without the runs of its attempts before the last, which nobody wrote down.
fn row_of(record: JobRecord, line: u64, status: Status) -> Row {
    let started = record.started_at;
    let due = record.envelope.not_before.map_or(record.submitted_at, |due| due.max(record.submitted_at));
    let error = match status {
        Status::Completed => None,
        Status::Cancelled => Some(JobError::new(ErrorCode::Cancelled, "the job was cancelled")),
        Status::Expired => Some(JobError::new(ErrorCode::Expired, "its time to live passed before it was started")),
        _ => record.error,
    };
    Row {
        id: Some(record.job.id),
        line,
        status,
        attempts: started.map_or(0, |_| record.attempt),
        result: record.result,
        error,
        wait: started.map_or(Duration::ZERO, |started| started - due),
        run: started.zip(record.finished_at).map_or(Duration::ZERO, |(started, finished)| finished - started),
    }
}
