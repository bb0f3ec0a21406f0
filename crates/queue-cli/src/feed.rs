//! Reads the input on a thread of its own, as fast as its lines are worked off.

use std::{
    io::{self, BufReader, Read},
    thread,
};

use queue_core::{error::ErrorCode, job::JobError};
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    input::{Invalid, JobLine, JobText, Line, LineReader, Text, parse},
    seen::{Seen, SeenError},
    window::{Slot, Window},
};

/// Read ahead, beside the window.
const BUFFER: usize = 256 << 10;
/// Lines go from the reader to whoever takes them so many at once, or as many as were there to be read.
const TOGETHER: usize = 64;
/// So often between the two; all of them are inside the window.
const AHEAD: usize = 4;

/// How the input is to be read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// JSON or text.
    pub how: JobText,
    /// The longest line, in bytes.
    pub max_line: usize,
    /// Whether an invalid line is the last one.
    pub strict: bool,
}

/// What was read of the input before, if anything was: the source goes on behind it.
#[derive(Debug, Default)]
pub struct Past {
    /// The number of the last line.
    pub line: u64,
    /// Where it ends, in bytes.
    pub offset: u64,
    /// The unique keys so far.
    pub seen: Seen,
}

/// A line that was read, and what it is.
#[derive(Debug)]
pub struct Fed {
    /// The line, until it has ended.
    pub line: OpenLine,
    /// Where its line break ends in the input, in bytes.
    pub offset: u64,
    /// What it is.
    pub what: What,
}

/// A line that has not ended. It is neither copied nor forgotten: [`crate::ledger::Ledger::end`] takes it, once.
#[derive(Debug)]
#[must_use = "every line that is read ends in a row"]
pub struct OpenLine {
    /// Its number, from 1.
    pub number: u64,
    /// As it was written, for the dead file. It shares its bytes with the payload.
    pub text: Text,
    /// Its room in the window, which is what bounds the memory of a run.
    slot: Slot,
}

impl OpenLine {
    /// A line in its room.
    pub fn new(number: u64, text: Text, slot: Slot) -> Self {
        Self { number, text, slot }
    }

    /// Gives back the room.
    pub(crate) fn close(self) {
        drop(self.slot);
    }
}

/// What a line is.
#[derive(Debug)]
pub enum What {
    /// A job to be submitted.
    Job(Box<JobLine>),
    /// No job.
    Invalid(Invalid),
    /// A job with the unique key of an earlier line.
    Duplicate(JobError),
}

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The input failed.
    #[error("cannot read line {line}: {source}")]
    Read {
        /// The line it failed in.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The unique keys cannot be kept.
    #[error(transparent)]
    Seen(#[from] SeenError),
}

/// Starts to read. The channel ends with the input, after the first invalid line if reading is strict, and when the
/// window is closed or the receiver dropped.
///
/// The thread is not waited for: a terminal or a pipe may block it for ever, and it holds nothing but the input.
///
/// # Errors
/// No thread can be had.
pub fn start(
    source: Box<dyn Read + Send>,
    reading: Reading,
    past: Past,
    window: Window,
    runtime: Handle,
) -> io::Result<Lines> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    thread::Builder::new().name("queue-input".to_owned()).spawn(move || {
        let lines = LineReader::new(BufReader::with_capacity(BUFFER, source), reading.max_line);
        let lines = lines.behind(past.line, past.offset);
        let feed = Feed { lines, seen: past.seen, reading, window, runtime };
        feed.run(Batch { sender, fed: Vec::with_capacity(TOGETHER) });
    })?;
    Ok(Lines { receiver, left: Vec::new().into_iter() })
}

/// The lines as they come.
#[derive(Debug)]
pub struct Lines {
    receiver: mpsc::Receiver<Vec<Result<Fed, FeedError>>>,
    /// Received, and not taken yet.
    left: std::vec::IntoIter<Result<Fed, FeedError>>,
}

impl Lines {
    /// The next one; `None` when there will be none.
    pub async fn recv(&mut self) -> Option<Result<Fed, FeedError>> {
        loop {
            match self.left.next() {
                Some(fed) => return Some(fed),
                None => self.left = self.receiver.recv().await?.into_iter(),
            }
        }
    }

    /// Waits for the next one and takes all that are there, up to `most`; how many. 0 when there will be none. May be dropped
    /// and called again.
    pub async fn recv_many(&mut self, into: &mut Vec<Result<Fed, FeedError>>, most: usize) -> usize {
        let Some(first) = self.recv().await else { return 0 };
        into.push(first);
        let mut taken = 1;
        while taken < most {
            match self.left.next() {
                Some(fed) => {
                    into.push(fed);
                    taken += 1;
                }
                None => match self.receiver.try_recv() {
                    Ok(batch) => self.left = batch.into_iter(),
                    Err(_) => break,
                },
            }
        }
        taken
    }

    /// Whether none is there now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left.as_slice().is_empty() && self.receiver.is_empty()
    }

    /// Lets no more come than are there.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

/// Lines on their way out of the reader.
struct Batch {
    sender: mpsc::Sender<Vec<Result<Fed, FeedError>>>,
    fed: Vec<Result<Fed, FeedError>>,
}

impl Batch {
    /// `false` where nobody takes it any more.
    fn add(&mut self, fed: Result<Fed, FeedError>) -> bool {
        self.fed.push(fed);
        self.fed.len() < TOGETHER || self.send()
    }

    /// To be called before anything is waited for.
    fn send(&mut self) -> bool {
        if self.fed.is_empty() {
            return true;
        }
        let batch = std::mem::replace(&mut self.fed, Vec::with_capacity(TOGETHER));
        self.sender.blocking_send(batch).is_ok()
    }
}

struct Feed {
    lines: LineReader<BufReader<Box<dyn Read + Send>>>,
    seen: Seen,
    reading: Reading,
    window: Window,
    runtime: Handle,
}

impl Feed {
    fn run(mut self, mut batch: Batch) {
        loop {
            let (fed, last) = match self.next(&mut batch) {
                Ok(Some(fed)) => {
                    let last = self.reading.strict && matches!(fed.what, What::Invalid(_));
                    (Ok(fed), last)
                }
                Ok(None) => break,
                Err(error) => (Err(error), true),
            };
            if !batch.add(fed) || last {
                break;
            }
        }
        batch.send();
    }

    /// The next line with its room; `None` at the end, or when the window was closed.
    fn next(&mut self, batch: &mut Batch) -> Result<Option<Fed>, FeedError> {
        if !self.lines.is_at_hand() && !batch.send() {
            return Ok(None);
        }
        let read = self.lines.next_line();
        let read = read.map_err(|source| FeedError::Read { line: self.lines.lines_read() + 1, source })?;
        let Some(Line { number, text }) = read else { return Ok(None) };
        let what = self.judge(&text)?;
        let offset = self.lines.bytes_read();
        let weight = weight(&text);
        let slot = self.window.try_enter(weight).or_else(|| {
            batch.send();
            self.runtime.block_on(self.window.enter(weight))
        });
        Ok(slot.map(|slot| Fed { line: OpenLine::new(number, text, slot), offset, what }))
    }

    fn judge(&mut self, text: &Text) -> Result<What, SeenError> {
        let job = match parse(text, self.reading.how) {
            Ok(job) => job,
            Err(invalid) => return Ok(What::Invalid(invalid)),
        };
        match &job.unique_key {
            Some(key) if !self.seen.insert(key.as_str())? => {
                let message = format!("an earlier line has the unique_key {:?}", key.as_str());
                Ok(What::Duplicate(JobError::new(ErrorCode::Duplicate, message)))
            }
            _ => Ok(What::Job(Box::new(job))),
        }
    }
}

/// What a line holds in memory, about.
pub(crate) fn weight(text: &Text) -> usize {
    const OVERHEAD: usize = 512;
    text.len().saturating_add(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;

    const OBJECTS: Reading = Reading { how: JobText::Objects, max_line: 1 << 10, strict: false };

    fn feed(input: impl Read + Send + 'static, reading: Reading, window: &Window) -> Lines {
        start(Box::new(input), reading, Past::default(), window.clone(), Handle::current()).unwrap()
    }

    async fn words(input: &'static str, reading: Reading) -> Vec<String> {
        let mut receiver = feed(input.as_bytes(), reading, &Window::default());
        let mut words = Vec::new();
        while let Some(fed) = receiver.recv().await {
            let fed = fed.unwrap();
            let word = match fed.what {
                What::Job(_) => "job",
                What::Invalid(_) => "invalid",
                What::Duplicate(_) => "duplicate",
            };
            words.push(format!("{} {word}", fed.line.number));
        }
        words
    }

    #[tokio::test]
    async fn every_line_is_one_thing() {
        let input = "{\"payload\":1,\"unique_key\":\"a\"}\n\n{\"payload\":1,\"unique_key\":\"a\"}\r\n{}\n\
                     {\"payload\":1,\"unique_key\":\"b\",\"x\":1}\n{\"payload\":1,\"unique_key\":\"b\"}";
        // The key of an invalid line is not taken.
        assert_eq!(words(input, OBJECTS).await, ["1 job", "3 duplicate", "4 invalid", "5 invalid", "6 job"]);
        assert_eq!(words(input, Reading { strict: true, ..OBJECTS }).await, ["1 job", "3 duplicate", "4 invalid"]);
        assert_eq!(words("", OBJECTS).await, [""; 0]);
        assert_eq!(words("a\n\na", Reading { how: JobText::Lines, ..OBJECTS }).await, ["1 job", "3 job"]);
    }

    #[tokio::test]
    async fn the_file_waits_for_room() {
        let window = Window::new(3, 1 << 20);
        let endless = std::io::BufReader::new(Endless(b"{\"payload\":1}\n", 0));
        let mut receiver = feed(endless, OBJECTS, &window);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(receiver.recv().await.unwrap().unwrap());
        }
        assert!(tokio::time::timeout(Duration::from_millis(100), receiver.recv()).await.is_err(), "the window is full");
        held.remove(0);
        let next = receiver.recv().await.unwrap().unwrap();
        assert_eq!((next.line.number, next.offset), (4, 4 * 14));
        window.close();
        assert!(receiver.recv().await.is_none(), "a closed window ends the reading");
    }

    #[tokio::test]
    async fn a_failing_input_names_the_line() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("disk on fire"))
            }
        }
        let mut receiver = feed(b"{\"payload\":1}\n".chain(Broken), OBJECTS, &Window::default());
        assert!(receiver.recv().await.unwrap().is_ok());
        let error = receiver.recv().await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "cannot read line 2: disk on fire");
        assert!(receiver.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_line_does_not_wait_for_the_next_one() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut receiver = feed(reader, OBJECTS, &Window::default());
        let mut lines = Vec::new();
        // Blank lines are no lines, and half a line is none yet.
        let inputs = [
            ("{\"payload\":1}\n{\"payload\":2}\n", 2),
            ("\n \r\n", 2),
            ("{\"payload\":3}\n\n{\"payl", 3),
            ("oad\":4}\n \n", 4),
        ];
        for (input, so_far) in inputs {
            writer.write_all(input.as_bytes()).unwrap();
            while lines.len() < so_far {
                let got = tokio::time::timeout(Duration::from_secs(5), receiver.recv_many(&mut lines, 10)).await;
                assert!(got.unwrap() > 0);
            }
        }
        let numbers: Vec<u64> = lines.iter().map(|line| line.as_ref().unwrap().line.number).collect();
        assert_eq!(numbers, [1, 2, 5, 7]);
        drop(writer);
        assert!(receiver.recv().await.is_none());
    }

    #[tokio::test]
    async fn as_many_are_taken_at_once_as_are_wanted() {
        let input: String = (0..200).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
        let mut receiver = feed(io::Cursor::new(input), OBJECTS, &Window::default());
        let (mut lines, mut sizes) = (Vec::new(), 0);
        loop {
            match receiver.recv_many(&mut lines, 30).await {
                0 => break,
                taken => sizes += usize::from(taken > 30),
            }
        }
        let numbers: Vec<u64> = lines.iter().map(|line| line.as_ref().unwrap().line.number).collect();
        assert_eq!((numbers, sizes), ((1..=200).collect(), 0));
        assert!(receiver.is_empty());
    }

    /// The same bytes again and again.
    struct Endless(&'static [u8], usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for byte in buffer.iter_mut() {
                *byte = self.0[self.1];
                self.1 = (self.1 + 1) % self.0.len();
            }
            Ok(buffer.len())
        }
    }
}
