//! What was seen, for people.

use std::{fmt::Write as _, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use queue_core::{
    JobError, QueueName, Result, job::Timestamp, lifecycle::JobState, stats::QueueStats, store::JobRecord,
};

use super::find::Found;

pub(super) fn of(found: &Found, payload: bool, now: Timestamp) -> String {
    match found {
        Found::Queues(queues) if queues.is_empty() => "There are no queues.\n".to_owned(),
        Found::Queues(queues) => numbers(queues, now),
        Found::Jobs { jobs, .. } if jobs.is_empty() => "There are no such jobs.\n".to_owned(),
        Found::Jobs { jobs, more } => listing(jobs, *more, now),
        Found::Job(record) => job(record, payload, now),
    }
}

fn numbers(queues: &[(QueueName, Result<QueueStats>)], now: Timestamp) -> String {
    let heads =
        ["QUEUE", "PENDING", "PARKED", "SCHEDULED", "RETRYING", "RUNNING", "DEAD", "FINISHED", "WAITS LONGEST", ""];
    let row = |(queue, stats): &(QueueName, Result<QueueStats>)| {
        let name = shown(queue.as_str());
        let stats = match stats {
            Ok(stats) => stats,
            Err(error) => return vec![name, format!("cannot be looked at: {}", shown(&error.to_string()))],
        };
        let about = if stats.exact { "" } else { "~" };
        let numbers =
            [stats.pending, stats.parked, stats.scheduled, stats.retrying, stats.running, stats.dead, stats.finished];
        let mut cells = vec![name];
        cells.extend(numbers.iter().map(|number| format!("{about}{number}")));
        cells.push(stats.oldest_pending.map_or_else(String::new, |since| time(now - since)));
        cells.push(if stats.paused { "paused" } else { "" }.to_owned());
        cells
    };
    table(&heads, &queues.iter().map(row).collect::<Vec<_>>())
}

fn listing(jobs: &[JobRecord], more: bool, now: Timestamp) -> String {
    let heads = ["ID", "STATE", "PRIORITY", "ATTEMPT", "KIND", "SUBMITTED", ""];
    let row = |job: &JobRecord| {
        let id = job.job.to_string();
        let (id, _) = id.split_once('@').unwrap_or((&id, ""));
        vec![
            id.to_owned(),
            job.state.to_string(),
            job.envelope.priority.level().to_string(),
            job.attempt.to_string(),
            shown(job.envelope.kind.as_str()),
            job.submitted_at.to_string(),
            remark(job, now),
        ]
    };
    let mut text = table(&heads, &jobs.iter().map(row).collect::<Vec<_>>());
    if more {
        text.push_str("There are more: give --jobs a greater number.\n");
    }
    text
}

/// What matters most in its state.
fn remark(job: &JobRecord, now: Timestamp) -> String {
    match (job.state, &job.parked) {
        (JobState::Running, _) => holder(job, now),
        (_, Some(key)) => format!("parked under {}", shown(&key.0)),
        (JobState::Scheduled | JobState::Retrying, _) => {
            job.due_at.map_or_else(String::new, |due| ahead("due", due, now))
        }
        (JobState::Dead, _) => job.error.as_ref().map_or_else(String::new, |error| shown(&error.code)),
        _ => String::new(),
    }
}

fn holder(job: &JobRecord, now: Timestamp) -> String {
    let worker = job.worker.as_deref().map_or_else(|| "somebody".to_owned(), shown);
    match job.lease_ends {
        Some(ends) => format!("held by {worker} {}", ahead("until", ends, now)),
        None => format!("held by {worker}"),
    }
}

/// A time that is to come, or should have.
fn ahead(word: &str, at: Timestamp, now: Timestamp) -> String {
    match at > now {
        true => format!("{word} {at} (in {})", time(at - now)),
        false => format!("{word} {at} ({} ago)", time(now - at)),
    }
}

/// To a tenth of a second below a minute.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn job(record: &JobRecord, payload: bool, now: Timestamp) -> String {
    let envelope = &record.envelope;
    let mut lines: Vec<(&str, String)> =
        vec![("job", record.job.to_string()), ("kind", envelope.kind.to_string()), ("state", record.state.to_string())];
    match (record.state, &record.worker) {
        (JobState::Running, _) => lines.push(("", holder(record, now))),
        (_, Some(worker)) => lines.push(("", format!("held last by {worker}"))),
        (_, None) => {}
    }
    if let Some(key) = &record.parked {
        lines.push(("", format!("parked under {}", key.0)));
    }
    if record.cancel_requested {
        lines.push(("", "it was asked to stop".to_owned()));
    }
    lines.push(("attempt", record.attempt.to_string()));
    if record.started_count > 0 {
        lines.push(("", format!("{} deliveries began and were not settled", record.started_count)));
    }
    lines.push(("priority", envelope.priority.level().to_string()));
    if let Some(unique) = &envelope.unique {
        lines.push(("unique key", unique.key.as_str().to_owned()));
    }
    lines.push(("submitted", record.submitted_at.to_string()));
    lines.extend(record.due_at.map(|due| ("due", ahead("at", due, now))));
    lines.extend(record.started_at.map(|at| ("claimed", at.to_string())));
    lines.extend(record.finished_at.map(|at| ("finished", at.to_string())));
    lines.extend(envelope.expires_at.map(|at| ("expires", ahead("at", at, now))));
    lines.extend(record.progress.as_deref().map(|said| ("progress", text_of(said))));
    lines.extend(record.error.as_ref().map(|error| ("last error", failure(error))));
    for past in record.history.iter().rev() {
        lines.push(("before", format!("attempt {}, {}: {}", past.attempt, past.at, failure(&past.error))));
    }
    lines.extend(record.logs.iter().map(|line| ("log", text_of(line))));
    if payload {
        lines.push(("payload", text_of(&envelope.payload)));
        lines.extend(record.result.as_deref().map(|result| ("result", text_of(result))));
    }
    let mut text = String::new();
    for (name, value) in lines {
        // A string takes everything that is written to it.
        let _ = writeln!(text, "{name:<12}{}", shown(&value));
    }
    text
}

fn failure(error: &JobError) -> String {
    let again = if error.retryable { "" } else { " (not to be retried)" };
    format!("{}: {}{again}", error.code, error.message)
}

fn text_of(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| format!("base64 {}", BASE64_STANDARD.encode(bytes)), str::to_owned)
}

/// What others wrote moves no cursor and begins no line.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Columns as wide as what stands in them; a row may end early.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let full = || rows.iter().filter(|row| row.len() == heads.len());
    let width = |column: usize| {
        let cells = full().map(|row| row[column].chars().count()).chain([heads[column].chars().count()]);
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_ends_early_makes_no_column_wide() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["mail", "7"]), row(&["a name that is long and alone"])];
        assert_eq!(table(&["Q", "N"], &rows), "Q     N\nmail  7\na name that is long and alone\n");
    }

    #[test]
    fn what_others_wrote_moves_no_cursor() {
        assert_eq!(shown("a\u{1b}[2J\nb\u{9b}é"), "a\\u{1b}[2J\\nb\\u{9b}é");
    }

    #[test]
    fn times_are_as_fine_as_one_wants_to_know_them() {
        let shown = [1, 61, 3_661, 90_061].map(|seconds| time(Duration::from_secs(seconds)));
        assert_eq!(shown, ["1.0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
