//! What the jobs that are open wait for: told on Ctrl-\ and, with `--explain`, every so often.

use std::time::Duration;

use queue_core::{JobScheduler, job::JobRef, lifecycle::JobState};

/// A line that does not run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) line: u64,
    pub(super) job: JobRef,
}

/// A line that runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AtWork {
    pub(super) line: u64,
    pub(super) attempt: u32,
    pub(super) since: Duration,
}

/// What is open: the first lines of each sort, and how many there are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Open {
    pub(super) running: Vec<AtWork>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) running_total: usize,
    pub(super) waiting_total: usize,
}

/// So many lines of each sort are told of.
pub(super) const MANY: usize = 10;

/// Says it.
pub(super) async fn explain(scheduler: JobScheduler, open: Open) -> Vec<String> {
    let mut told = vec![format!("{} running, {} waiting", open.running_total, open.waiting_total)];
    for AtWork { line, attempt, since } in &open.running {
        told.push(format!("  line {line} runs for {:.1} s, attempt {attempt}", since.as_secs_f64()));
    }
    told.extend(more(open.running_total - open.running.len(), "run"));
    let explained = open.waiting.iter().map(|waiting| scheduler.explain(&waiting.job));
    for (waiting, explained) in open.waiting.iter().zip(futures_util::future::join_all(explained).await) {
        let why = match explained {
            Ok(explanation) if explanation.state == Some(JobState::Running) => {
                "it is fetched; the next free slot takes it".to_owned()
            }
            Ok(explanation) if explanation.reasons.is_empty() => "it starts at any moment".to_owned(),
            Ok(explanation) => {
                let reasons: Vec<String> = explanation.reasons.iter().map(ToString::to_string).collect();
                reasons.join("; ")
            }
            Err(error) => error.message().to_owned(),
        };
        told.push(format!("  line {} waits: {why}", waiting.line));
    }
    told.extend(more(open.waiting_total - open.waiting.len(), "wait"));
    told
}

fn more(count: usize, what: &str) -> Option<String> {
    (count > 0).then(|| format!("  and {count} more {what}"))
}
