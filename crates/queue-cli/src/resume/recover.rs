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

#[cfg(test)]
mod tests {
    use std::{io::Write as _, path::PathBuf};

    use bytes::Bytes;
    use queue_core::{
        Timestamp,
        job::{Envelope, JobKind, JobRef},
    };

    use super::*;
    use crate::resume::{
        identity::InputId,
        notes::{Begun, Read},
        tail::RowHead,
    };

    const INPUT: &str =
        "{\"payload\":1,\"unique_key\":\"a\"}\n\nbroken\n{\"payload\":4}\n{\"payload\":5}\n{\"payload\":6}\n";
    const AT: Timestamp = Timestamp::from_millis(1_000);

    struct Past {
        file: Arc<File>,
        notes: Notes,
        records: HashMap<JobId, JobRecord>,
    }

    /// Lines 1 to 5 of the input were read.
    fn past() -> Past {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(INPUT.as_bytes()).unwrap();
        let mut begun = Begun::new(InputId::of(&file).unwrap(), PathBuf::from("jobs"), QueueName::from_static("run"));
        begun.max_line = 1 << 20;
        let before = Place { line: 4, offset: 53 };
        let read = Read {
            place: Place { line: 5, offset: 67 },
            before,
            check: check(b"{\"payload\":5}"),
            low: Place { line: 3, offset: 39 },
            keys: false,
            invalid: true,
        };
        Past { file: Arc::new(file), notes: Notes { begun, read, rows: Default::default() }, records: HashMap::new() }
    }

    impl Past {
        fn job(&mut self, line: u64, text: &str, state: JobState) -> JobId {
            let id = self.notes.begun.input.job(line, text.as_bytes());
            let envelope = Envelope::builder(id, JobKind::from_static("exec"), Bytes::new(), AT).seal();
            let job = JobRef::new(QueueName::from_static("run"), id);
            let mut record = JobRecord::new(job, envelope, state, AT);
            record.started_at = Some(Timestamp::from_millis(1_500));
            record.finished_at = Some(Timestamp::from_millis(1_750));
            self.records.insert(id, record);
            id
        }

        fn recover(self, tail: Vec<TailRow>) -> Result<Recovered, Unrecoverable> {
            recover(&self.notes, &self.file, self.records, tail)
        }

        fn edit(&self, text: &str) {
            self.file.set_len(0).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&*self.file, text.as_bytes(), 0).unwrap();
        }
    }

    fn numbers(recovered: &Recovered) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
        let open = recovered.open.iter().map(|open| open.line.number).collect();
        let ended = recovered.ended.iter().map(|ended| ended.row.line).collect();
        (open, ended, recovered.pending.keys().copied().collect())
    }

    #[test]
    fn every_job_finds_its_line() {
        let mut past = past();
        past.job(4, "{\"payload\":4}", JobState::Completed);
        past.job(5, "{\"payload\":5}", JobState::Pending);
        let mut recovered = past.recover(Vec::new()).unwrap();
        assert_eq!(numbers(&recovered), (vec![5], vec![4], vec![4, 5]));
        assert_eq!(recovered.place, Place { line: 5, offset: 67 });
        assert!(recovered.pending[&4].written && !recovered.pending[&5].written);
        let row = &recovered.ended[0].row;
        assert_eq!((row.status, row.attempts), (Status::Completed, 1));
        assert_eq!((row.wait, row.run), (Duration::from_millis(500), Duration::from_millis(250)));
        assert!(recovered.seen.insert("a").unwrap(), "without keys nothing in front is read");
    }

    #[test]
    fn rows_that_are_listed_are_not_written_again_and_those_in_the_tail_stay() {
        let mut past = past();
        let id = past.job(5, "{\"payload\":5}", JobState::Dead);
        past.job(4, "{\"payload\":4}", JobState::Completed);
        past.notes.rows.listed = vec![4];
        let row = |id, line| {
            let head = RowHead { id, line, status: Status::Dead, attempts: 3, wait_ms: 7, run_ms: 9 };
            TailRow { head, bytes: b"as it was".to_vec() }
        };
        // The others are of lines that are read again.
        let recovered = past.recover(vec![row(None, 3), row(Some(id), 5), row(Some(JobId::from_bytes([7; 16])), 6)]);
        let recovered = recovered.unwrap();
        assert_eq!(numbers(&recovered), (vec![], vec![5], vec![4, 5]));
        let ended = &recovered.ended[0];
        assert_eq!(ended.written.as_deref(), Some(&b"as it was"[..]));
        assert_eq!((ended.row.attempts, ended.row.run.as_millis()), (3, 9));
    }

    #[test]
    fn keys_are_known_from_the_beginning_on() {
        let mut past = past();
        past.notes.read.keys = true;
        let mut recovered = past.recover(Vec::new()).unwrap();
        assert!(!recovered.seen.insert("a").unwrap());
    }

    #[test]
    fn what_was_published_last_may_be_ahead_of_the_notes() {
        let mut past = past();
        past.job(6, "{\"payload\":6}", JobState::Completed);
        let recovered = past.recover(Vec::new()).unwrap();
        assert_eq!((numbers(&recovered), recovered.place.line), ((vec![], vec![], vec![]), 5));
    }

    #[test]
    fn an_edited_input_is_refused() {
        let edits: [(&str, &str); 4] = [
            ("line 5 is another one", "\"payload\":5"),
            ("line 6 is another one", "broken\n"),
            ("1 of its jobs are not in it", "\"payload\":4"),
            ("line 5 is missing", "\n{\"payload\":5}\n{\"payload\":6}\n"),
        ];
        for (said, what) in edits {
            let mut past = past();
            past.job(4, "{\"payload\":4}", JobState::Pending);
            let with = match what {
                "broken\n" => "broken\nand more\n",
                _ if what.starts_with('\n') => "\n",
                _ => "\"payload\":7",
            };
            past.edit(&INPUT.replacen(what, with, 1));
            let error = past.recover(Vec::new()).unwrap_err().to_string();
            assert!(error.contains("the input was changed") && error.contains("--fresh"), "{error}");
            let line = said.replace("line 6", "line 5");
            assert!(error.contains(&line), "{what:?}: {error}");
        }
    }
}
