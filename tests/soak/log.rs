//! What a worker process saw, a line each, in its own file: written by one system call before anything follows from it, so that a
//! kill loses nothing that was seen. Times are of the machine's monotonic clock, which all processes share.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
};

use queue_core::{
    JobId,
    provider::{Disposition, SettleOutcome, Settlement},
};
use queue_testkit::checker::End;

/// Nanoseconds since the machine started.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Settled,
    AlreadySettled,
    Conflict,
    LeaseLost,
    NotSettled,
    Unknown,
}

impl Answer {
    /// Whether it is known what became of it.
    pub(crate) fn is_definite(self) -> bool {
        !matches!(self, Self::Unknown | Self::NotSettled)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A fetch brought so many jobs.
    Fetched(usize),
    /// It holds the job until then, at least.
    Held { id: JobId, epoch: u64, until: u64 },
    /// A handler began.
    Ran(JobId),
    /// It is about to ask that the job be run again.
    GivesBack { id: JobId, epoch: u64 },
    /// It is about to give back all it holds.
    Closes,
    /// A settlement was answered.
    Settled { id: JobId, epoch: u64, end: End, answer: Answer },
}

/// Letters in the file, and what they stand for.
const ENDS: [(&str, End); 6] = [
    ("c", End::Completed),
    ("d", End::Dead),
    ("x", End::Cancelled),
    ("e", End::Expired),
    ("r", End::Retried),
    ("b", End::Released),
];
const ANSWERS: [(&str, Answer); 6] = [
    ("S", Answer::Settled),
    ("A", Answer::AlreadySettled),
    ("C", Answer::Conflict),
    ("L", Answer::LeaseLost),
    ("N", Answer::NotSettled),
    ("U", Answer::Unknown),
];

fn letter<T: PartialEq>(letters: &[(&'static str, T)], what: &T) -> &'static str {
    letters.iter().find(|(_, known)| known == what).map_or("?", |(letter, _)| letter)
}

fn meant<T: Copy>(letters: &[(&str, T)], written: &str) -> Option<T> {
    letters.iter().find(|(letter, _)| *letter == written).map(|(_, what)| *what)
}

#[derive(Debug)]
pub(crate) struct Log(File);

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::options().append(true).create(true).open(path)?))
    }

    /// A worker that cannot write down what it sees is of no use.
    fn write(&self, line: &str) {
        if line.is_empty() {
            return;
        }
        (&self.0).write_all(line.as_bytes()).expect("the log can be written");
    }

    pub(crate) fn fetched(&self, jobs: usize) {
        self.write(&format!("F {} {jobs}\n", now()));
    }

    /// All at once, each with its epoch and the time until which it is held.
    pub(crate) fn held(&self, jobs: impl Iterator<Item = (JobId, u64, u64)>) {
        let now = now();
        let lines: String = jobs.map(|(id, epoch, until)| format!("H {now} {id} {epoch} {until}\n")).collect();
        self.write(&lines);
    }

    /// Before any of them is settled; a settlement for good gives nothing back.
    pub(crate) fn gives_back(&self, batch: &[Settlement]) {
        let now = now();
        let again = batch.iter().filter(|settlement| !End::of(&settlement.disposition).is_final());
        let line = |one: &Settlement| format!("B {now} {} {}\n", one.receipt.id, one.receipt.epoch);
        self.write(&again.map(line).collect::<String>());
    }

    pub(crate) fn closes(&self) {
        self.write(&format!("C {}\n", now()));
    }

    pub(crate) fn ran(&self, id: JobId) {
        self.write(&format!("R {} {id}\n", now()));
    }

    pub(crate) fn settled(&self, id: JobId, epoch: u64, disposition: &Disposition, outcome: &SettleOutcome) {
        let answer = match outcome {
            SettleOutcome::Settled => Answer::Settled,
            SettleOutcome::AlreadySettled => Answer::AlreadySettled,
            SettleOutcome::Conflict => Answer::Conflict,
            SettleOutcome::LeaseLost => Answer::LeaseLost,
            SettleOutcome::NotSettled { .. } => Answer::NotSettled,
            SettleOutcome::Unknown(_) => Answer::Unknown,
        };
        let (end, answer) = (letter(&ENDS, &End::of(disposition)), letter(&ANSWERS, &answer));
        self.write(&format!("S {} {id} {epoch} {end} {answer}\n", now()));
    }
}

/// Reads a log while it is written.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    /// What came of a line whose end did not yet.
    rest: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: Vec::new() })
    }

    /// What was written since it was asked last.
    pub(crate) fn more(&mut self) -> io::Result<Vec<(u64, Seen)>> {
        self.file.read_to_end(&mut self.rest)?;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let lines = String::from_utf8_lossy(&lines);
        let read = |line: &str| parse(line).ok_or_else(|| io::Error::other(format!("a log holds {line:?}")));
        lines.lines().map(read).collect()
    }
}

fn parse(line: &str) -> Option<(u64, Seen)> {
    let mut words = line.split(' ');
    let (kind, at) = (words.next()?, words.next()?.parse().ok()?);
    let seen = match kind {
        "F" => Seen::Fetched(words.next()?.parse().ok()?),
        "H" => Seen::Held {
            id: words.next()?.parse().ok()?,
            epoch: words.next()?.parse().ok()?,
            until: words.next()?.parse().ok()?,
        },
        "R" => Seen::Ran(words.next()?.parse().ok()?),
        "B" => Seen::GivesBack { id: words.next()?.parse().ok()?, epoch: words.next()?.parse().ok()? },
        "C" => Seen::Closes,
        "S" => Seen::Settled {
            id: words.next()?.parse().ok()?,
            epoch: words.next()?.parse().ok()?,
            end: meant(&ENDS, words.next()?)?,
            answer: meant(&ANSWERS, words.next()?)?,
        },
        _ => return None,
    };
    Some((at, seen))
}
