//! A bar on the terminal while a run goes on.

use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{results::Status, summary::Counts};

/// Shows how far a run is, on a terminal; elsewhere it does nothing.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar over the bytes of the input where its size is known, else a count. Shown on stderr, if that is a terminal
    /// and `wanted`.
    #[must_use]
    pub fn new(input_bytes: Option<u64>, wanted: bool) -> Self {
        if !wanted || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let template = match input_bytes {
            Some(_) => "{bar:30} {percent:>3}% read, {msg} ({elapsed}, {eta} left)",
            None => "{spinner} {msg} ({elapsed})",
        };
        // Four times a second is enough to read, and costs nothing beside a process a job.
        let bar = ProgressBar::with_draw_target(input_bytes, ProgressDrawTarget::stderr_with_hz(4));
        match ProgressStyle::with_template(template) {
            Ok(style) => Self(bar.with_style(style)),
            Err(_) => Self(bar),
        }
    }

    /// Call it as often as you like.
    pub fn update(&self, bytes_read: u64, running: usize, counts: &Counts) {
        if !self.0.is_hidden() {
            self.0.set_message(message(running, counts));
            self.0.set_position(bytes_read);
        }
    }

    /// Prints a line above the bar, such as what Ctrl-C does now; on stderr also where there is no bar.
    pub fn say(&self, line: &str) {
        if self.0.is_hidden() {
            // A reader that has gone is no failure.
            let _ = writeln!(std::io::stderr(), "{line}");
        } else {
            self.0.println(line);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn message(running: usize, counts: &Counts) -> String {
    let mut text = format!("{running} running");
    for status in Status::ALL.into_iter().filter(|status| counts[*status] > 0) {
        text.push_str(&format!(", {} {}", counts[status], status.as_str()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_what_there_is() {
        let mut counts = Counts::default();
        assert_eq!(message(2, &counts), "2 running");
        counts.add(Status::Completed);
        counts.add(Status::Dead);
        assert_eq!(message(0, &counts), "0 running, 1 completed, 1 dead");
    }

    #[test]
    fn unwanted_it_is_hidden() {
        let progress = Progress::new(Some(10), false);
        progress.update(5, 1, &Counts::default());
        assert!(progress.0.is_hidden());
    }
}
