//! Every line that was read ends in exactly one row.

use std::fs::File;

use queue_core::{error::ErrorCode, job::JobError};

use crate::{
    dead::dead_line,
    feed::OpenLine,
    input::{JobText, Text},
    output::{Output, OutputError},
    results::{Row, Status},
    summary::{Counts, Summary},
};

/// Writes rows as lines end, in the order they end, and counts them. That none ends twice is in the types: a line is
/// given away when it ends.
#[derive(Debug)]
pub struct Ledger {
    how: JobText,
    results: Option<Output>,
    dead: Option<Output>,
    summary: Summary,
}

impl Ledger {
    /// Over the files of `--results` and `--dead`.
    #[must_use]
    pub fn new(how: JobText, results: Option<Output>, dead: Option<Output>) -> Self {
        Self { how, results, dead, summary: Summary::default() }
    }

    /// A line ends with this row, whose number is taken from the line. Dead and invalid ones go to the dead file too.
    ///
    /// # Errors
    /// A file cannot be written. The line counts as ended all the same, and nothing more is written to that file.
    pub fn end(&mut self, line: OpenLine, mut row: Row) -> Result<(), OutputError> {
        row.line = line.number;
        self.summary.add(&row);
        let written = self.write(&line, &row);
        line.close();
        written
    }

    fn write(&mut self, line: &OpenLine, row: &Row) -> Result<(), OutputError> {
        let results = attempt(&mut self.results, |results| results.write_json(row.to_json()));
        results.and(self.write_dead(&line.text, row))
    }

    fn write_dead(&mut self, text: &Text, row: &Row) -> Result<(), OutputError> {
        if !matches!(row.status, Status::Dead | Status::Invalid) {
            return Ok(());
        }
        let unknown = || JobError::new(ErrorCode::Internal, "no reason was kept");
        let error = row.error.clone().unwrap_or_else(unknown);
        attempt(&mut self.dead, |dead| dead.write_json(dead_line(text, self.how, &error)))
    }

    /// A line that ended in an earlier life: with the row as it was written then, or with one that was made of its record.
    ///
    /// # Errors
    /// As [`Ledger::end`].
    pub fn adopt(&mut self, text: &Text, row: &Row, written: Option<&[u8]>) -> Result<(), OutputError> {
        self.summary.add(row);
        let results = attempt(&mut self.results, |results| match written {
            Some(written) => results.write(written),
            None => results.write_json(row.to_json()),
        });
        results.and(self.write_dead(text, row))
    }

    /// Begins with what earlier lives counted.
    pub fn count_on(&mut self, earlier: Counts, attempts: u64) {
        self.summary.count_on(earlier, attempts);
    }

    /// From here on lines end in this life.
    pub fn begin_this_life(&mut self) {
        self.summary.begin_this_life();
    }

    /// Every row so far is on disk when this returns; the files of `--results` and `--dead`, to look at.
    ///
    /// # Errors
    /// As [`Ledger::end`].
    pub fn sync(&mut self) -> Result<[Option<&File>; 2], OutputError> {
        let results = self.results.as_mut().map(Output::sync).transpose()?;
        let dead = self.dead.as_mut().map(Output::sync).transpose()?;
        Ok([results, dead])
    }

    /// Lets readers of the files see every row so far; call it about once a second.
    ///
    /// # Errors
    /// A file cannot be written; nothing more is written to it.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        let results = attempt(&mut self.results, Output::flush);
        results.and(attempt(&mut self.dead, Output::flush))
    }

    /// From now on a full disk is waited for; see [`Output::be_patient`].
    pub fn be_patient(&mut self) {
        [&mut self.results, &mut self.dead].into_iter().flatten().for_each(Output::be_patient);
    }

    /// Why rows wait in memory, for people.
    #[must_use]
    pub fn is_full(&self) -> Option<String> {
        [&self.results, &self.dead].into_iter().flatten().find_map(Output::is_full)
    }

    /// Counts and times so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The counts and times. Flush before, or the last rows may be missing from the files.
    #[must_use]
    pub fn into_summary(self) -> Summary {
        self.summary
    }
}

/// One file that fails is given up; the other is still written.
fn attempt(
    output: &mut Option<Output>,
    write: impl FnOnce(&mut Output) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let written = output.as_mut().map_or(Ok(()), write);
    if written.is_err() {
        *output = None;
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use bytes::Bytes;

    use super::*;
    use crate::{input::Text, window::Window};

    #[tokio::test]
    async fn rows_go_where_they_belong_and_room_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let [results, dead] = ["results", "dead"].map(|name| directory.path().join(name));
        let output = |path| Some(Output::create(path, false, &[]).unwrap());
        let mut ledger = Ledger::new(JobText::Objects, output(&results), output(&dead));
        let window = Window::new(1, 1_000);
        for (number, status) in (1..).zip(Status::ALL) {
            // Waits for ever if the line before kept its room.
            let slot = tokio::time::timeout(Duration::from_secs(5), window.enter(10)).await.unwrap().unwrap();
            let text = Text::Utf8(Bytes::from(format!("{{\"payload\":{number}}}")));
            let line = OpenLine::new(number, text, slot);
            let mut row = Row::not_run(0, status, JobError::new(ErrorCode::HandlerFailed, "no"));
            row.error = row.error.filter(|_| status != Status::Completed);
            ledger.end(line, row).unwrap();
        }
        ledger.flush().unwrap();
        let rows = |path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
        };
        let statuses: Vec<_> = rows(&results).iter().map(|row| (row["line"].clone(), row["status"].clone())).collect();
        let expected: Vec<_> = (1..).zip(Status::ALL).map(|(n, s): (u64, _)| (n.into(), s.as_str().into())).collect();
        assert_eq!(statuses, expected);
        let dead: Vec<_> = rows(&dead).iter().map(|row| row["payload"].clone()).collect();
        assert_eq!(dead, [2, 3], "the dead and the invalid line");
        assert_eq!(ledger.into_summary().counts().total(), 7);
    }
}
