//! One life of a run: it notes what the next one has to know.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use queue_core::{JobId, Result};
use tokio::time::Instant;

use super::{
    identity::check,
    journal::Journal,
    notes::{self, BEGUN, Begun, Notes, Place, READ, ROWS, Read, Rows, Written},
    recover::Recovered,
    tail,
};
use crate::{
    feed::{Fed, What},
    input::Text,
    ledger::Ledger,
    output::OutputError,
    results::Status,
    summary::Counts,
};

/// Rows are made safe after so long,
const EVERY: Duration = Duration::from_secs(1);
/// or so many,
const MANY: usize = 4_096;
/// or so many bytes of what their jobs held: that is what the journal keeps of jobs that have ended.
const HEAVY: usize = 8 << 20;

/// A line that has a job in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Where it begins.
    pub before: Place,
    /// Its job.
    pub id: JobId,
    /// It has its row, and the job may be forgotten when that is safe.
    pub written: bool,
}

/// What is safe of the outputs.
#[derive(Debug, Clone, Default)]
pub struct Safe {
    /// How many lines ended how.
    pub counts: Counts,
    /// All attempts.
    pub attempts: u64,
    /// `--results`.
    pub results: Option<Written>,
    /// `--dead`.
    pub dead: Option<Written>,
}

impl Safe {
    /// Brings every row to the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn of(ledger: &mut Ledger) -> std::result::Result<Self, OutputError> {
        let [results, dead] = ledger.sync()?.map(|file| file.map(tail::written).transpose());
        let (results, dead) = (results.map_err(OutputError::Look)?, dead.map_err(OutputError::Look)?);
        let summary = ledger.summary();
        Ok(Self { counts: *summary.counts(), attempts: summary.attempts(), results, dead })
    }
}

/// The books of a life. Its lines are told to it in the order of the input, their ends in any.
#[derive(Debug)]
pub struct Life {
    journal: Arc<dyn Journal>,
    begun: Begun,
    pending: BTreeMap<u64, Pending>,
    /// Behind the last line that was taken in, and in front of it.
    place: Place,
    before: Place,
    check: u64,
    keys: bool,
    invalid: bool,
    /// What the journal is known to hold.
    read: Read,
    /// A line that is no job has a row that is not safe: so the place in front of it is the furthest to be noted.
    dirty: bool,
    /// Something that was told cannot be relied upon. The next life sorts it out.
    unsure: bool,
    rows: usize,
    bytes: usize,
    due: Instant,
}

impl Life {
    /// A run that begins, or begins anew. Nothing of an earlier one may be left.
    ///
    /// # Errors
    /// The journal takes no notes.
    pub fn begin(journal: Arc<dyn Journal>, begun: Begun) -> Result<Self> {
        journal.note(READ, notes::written(&Read::default()))?;
        journal.note(ROWS, notes::written(&Rows::default()))?;
        // Last: without it the others are not looked at.
        journal.note(BEGUN, notes::written(&begun))?;
        Ok(Self::with(journal, begun))
    }

    /// A run that goes on.
    #[must_use]
    pub fn resume(journal: Arc<dyn Journal>, notes: Notes, recovered: &mut Recovered) -> Self {
        let Notes { begun, read, .. } = notes;
        let place = recovered.place;
        let read = Read { place, ..read };
        let pending = std::mem::take(&mut recovered.pending);
        let Read { before, check, keys, invalid, .. } = read;
        let written = pending.values().filter(|pending| pending.written).count();
        Self { pending, place, before, check, keys, invalid, read, rows: written, ..Self::with(journal, begun) }
    }

    fn with(journal: Arc<dyn Journal>, begun: Begun) -> Self {
        Self {
            journal,
            begun,
            pending: BTreeMap::new(),
            place: Place::default(),
            before: Place::default(),
            check: 0,
            keys: false,
            invalid: false,
            read: Read::default(),
            dirty: false,
            unsure: false,
            rows: 0,
            bytes: 0,
            due: Instant::now() + EVERY,
        }
    }

    /// How the run began.
    #[must_use]
    pub fn begun(&self) -> &Begun {
        &self.begun
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.journal)
    }

    /// Why the journal takes nothing now, for people.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.journal.trouble()
    }

    /// Lines that were read, in front of their submission.
    pub fn take_in<'a>(&mut self, lines: impl Iterator<Item = &'a Fed>) {
        let mut last: Option<&Text> = None;
        for Fed { line, offset, what } in lines {
            self.before = std::mem::replace(&mut self.place, Place { line: line.number, offset: *offset });
            last = Some(&line.text);
            match what {
                What::Job(job) => {
                    self.keys |= job.unique_key.is_some();
                    let id = self.begun.input.job(line.number, line.text.bytes());
                    self.pending.insert(line.number, Pending { before: self.before, id, written: false });
                }
                What::Duplicate(_) => self.keys = true,
                What::Invalid(_) => self.invalid = true,
            }
        }
        if let Some(text) = last {
            self.check = check(text.bytes());
        }
    }

    /// Every line that was taken in is in the journal, or has its row.
    pub fn submitted(&mut self) {
        if self.unsure || self.place == self.read.place {
            return;
        }
        self.read = self.reading();
        if !self.dirty {
            // Where it fails the next one says it, and until then lines are known by their ids.
            let _ = self.journal.note(READ, notes::written(&self.read));
        }
    }

    fn reading(&self) -> Read {
        let low = self.pending.values().next().map_or(self.place, |first| first.before);
        Read { place: self.place, before: self.before, check: self.check, low, keys: self.keys, invalid: self.invalid }
    }

    /// A line has its row, though not safely.
    pub fn ended(&mut self, line: u64, status: Status, bytes: usize) {
        self.rows += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        match self.pending.get_mut(&line) {
            Some(pending) if !matches!(status, Status::Invalid | Status::Duplicate) => pending.written = true,
            _ => {
                // The provider refused it, or it never came so far: the journal knows nothing of it.
                self.pending.remove(&line);
                self.dirty = true;
            }
        }
    }

    /// Some lines of the last batch may be in the journal and others not, or a row was lost: what is noted stays as it is.
    pub fn be_unsure(&mut self) {
        self.unsure = true;
    }

    /// Whether rows wait to be made safe, and may: a row of a line that is not known to be in the journal must wait for that.
    #[must_use]
    pub fn wants_safety(&self) -> bool {
        let enough = (self.rows >= MANY || self.bytes >= HEAVY) && self.journal.trouble().is_none();
        // A place behind a line that is no job is noted only with its row.
        let some = self.dirty || self.rows > 0;
        some && (self.dirty || enough || self.due <= Instant::now()) && self.may_be_safe()
    }

    /// Whether every row is one of a line in front of the noted place.
    #[must_use]
    pub fn may_be_safe(&self) -> bool {
        !self.unsure && self.place == self.read.place
    }

    /// The rows so far are on disk: notes that, and lets the journal forget their jobs.
    pub fn be_safe(&mut self, safe: &Safe, finished: bool) {
        self.read = self.reading();
        let written = || self.pending.iter().filter(|(_, pending)| pending.written);
        let listed = written().map(|(line, _)| *line).collect();
        let jobs: HashSet<JobId> = written().map(|(_, pending)| pending.id).collect();
        let counts = Status::ALL.map(|status| safe.counts[status]);
        let (results, dead) = (safe.results, safe.dead);
        let rows = Rows { read: self.read, counts, attempts: safe.attempts, results, dead, listed, finished };
        self.due = Instant::now() + EVERY;
        if self.journal.note(ROWS, notes::written(&rows)).is_ok() {
            // Behind the note: whoever finds them gone finds them listed.
            self.journal.forget(&self.begun.queue, &jobs);
            self.pending.retain(|_, pending| !pending.written);
            (self.dirty, self.rows, self.bytes) = (false, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Mutex};

    use async_trait::async_trait;
    use bytes::Bytes;
    use queue_core::QueueName;

    use super::*;
    use crate::{
        feed::OpenLine,
        input::{JobLine, JobText, parse},
        resume::identity::InputId,
        window::Window,
    };

    /// What was asked of a journal, in order.
    #[derive(Debug, Default)]
    struct Spy(Mutex<Vec<Asked>>);

    #[derive(Debug, Clone, PartialEq)]
    enum Asked {
        Read(Read),
        Rows(Rows),
        Forget(usize),
        Begun,
    }

    #[async_trait]
    impl Journal for Spy {
        fn note(&self, key: &'static str, value: Vec<u8>) -> Result<()> {
            let asked = match key {
                READ => Asked::Read(serde_json::from_slice(&value).unwrap()),
                ROWS => Asked::Rows(serde_json::from_slice(&value).unwrap()),
                _ => Asked::Begun,
            };
            self.0.lock().unwrap().push(asked);
            Ok(())
        }

        fn notes(&self) -> Vec<(String, Vec<u8>)> {
            Vec::new()
        }

        fn forget(&self, _: &QueueName, jobs: &HashSet<JobId>) {
            self.0.lock().unwrap().push(Asked::Forget(jobs.len()));
        }

        async fn settled(&self) -> bool {
            true
        }

        fn trouble(&self) -> Option<String> {
            None
        }
    }

    fn life() -> (Life, Arc<Spy>) {
        let spy = Arc::new(Spy::default());
        let input = InputId::of(&tempfile::tempfile().unwrap()).unwrap();
        let begun = Begun::new(input, PathBuf::from("jobs"), QueueName::from_static("run"));
        let life = Life::begin(Arc::clone(&spy) as Arc<dyn Journal>, begun).unwrap();
        assert_eq!(spy.asked().last(), Some(&Asked::Begun), "nothing counts before it");
        (life, spy)
    }

    impl Spy {
        fn asked(&self) -> Vec<Asked> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    fn fed(number: u64, text: &'static str) -> Fed {
        let text = Text::Utf8(Bytes::from_static(text.as_bytes()));
        let what = match parse(&text, JobText::Objects) {
            Ok(job) => What::Job(Box::<JobLine>::new(job)),
            Err(invalid) => What::Invalid(invalid),
        };
        Fed { line: OpenLine::new(number, text, Window::default().admit(1)), offset: 10 * number, what }
    }

    fn place(line: u64) -> Place {
        Place { line, offset: 10 * line }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_noted_behind_its_jobs_and_never_in_front_of_a_row_that_is_not_safe() {
        let (mut life, spy) = life();
        life.take_in([fed(1, "{\"payload\":1}"), fed(2, "{\"payload\":2}")].iter());
        assert_eq!(spy.asked(), [], "they are not submitted");
        assert!(!life.may_be_safe(), "their rows must wait");
        life.submitted();
        let [Asked::Read(read)] = &spy.asked()[..] else { panic!() };
        assert_eq!((read.place, read.before, read.low), (place(2), place(1), place(0)));

        life.take_in([fed(4, "{\"payload\":4}"), fed(5, "broken")].iter());
        life.ended(5, Status::Invalid, 0);
        life.submitted();
        assert_eq!(spy.asked(), [], "nobody would write the row of line 5 again");
        assert!(life.wants_safety());
        life.ended(1, Status::Completed, 0);
        life.be_safe(&Safe::default(), false);
        let [Asked::Rows(rows), Asked::Forget(1)] = &spy.asked()[..] else { panic!() };
        assert_eq!((rows.read.place, rows.read.low, &rows.listed[..]), (place(5), place(0), &[1][..]));
        assert!(rows.read.invalid && !rows.read.keys);

        life.take_in([fed(6, "{\"payload\":6,\"unique_key\":\"a\"}")].iter());
        life.submitted();
        let [Asked::Read(read)] = &spy.asked()[..] else { panic!() };
        assert_eq!((read.place, read.low, read.keys), (place(6), place(1), true), "line 1 is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unsure_is_not_noted() {
        let (mut life, spy) = life();
        life.take_in([fed(1, "{\"payload\":1}")].iter());
        life.be_unsure();
        life.submitted();
        life.ended(1, Status::Completed, 0);
        tokio::time::advance(2 * EVERY).await;
        assert!(!life.may_be_safe() && !life.wants_safety());
        assert_eq!(spy.asked(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_are_made_safe_after_a_while_or_when_they_are_many() {
        let (mut life, _) = life();
        life.take_in([fed(1, "{\"payload\":1}"), fed(2, "{\"payload\":2}")].iter());
        life.submitted();
        tokio::time::advance(EVERY).await;
        assert!(!life.wants_safety(), "there is none");
        life.ended(1, Status::Completed, 0);
        assert!(life.wants_safety());
        life.be_safe(&Safe::default(), false);
        life.ended(2, Status::Dead, HEAVY - 1);
        assert!(!life.wants_safety());
        life.bytes += 1;
        assert!(life.wants_safety());
    }
}
