//! What a job may become: pure, and the only place that says so.
//!
//! Providers and stores ask [`step`] for every change and apply the [`Effects`]; scripts inside a broker are tested
//! against [`table`], which lists every allowed transition. `docs/book/concepts.md` draws it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{event::JobEventKind, job::Timestamp};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for other jobs.
    Blocked,
    /// Waits for its time.
    Scheduled,
    /// Waits for a worker. A parked job is pending with a reason; a staged one is shown as pending.
    Pending,
    /// Leased to a worker.
    Running,
    /// Failed; waits for its next attempt.
    Retrying,
    /// Finished well.
    Completed,
    /// Gave up: attempts spent, or never to be retried. Redrive brings it back.
    Dead,
    /// Stopped by request.
    Cancelled,
    /// Its time to live passed before it was started.
    Expired,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Blocked,
        Self::Scheduled,
        Self::Pending,
        Self::Running,
        Self::Retrying,
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Where a submitted job starts: scheduled if it may not start yet, else pending.
    #[must_use]
    pub fn initial(not_before: Option<Timestamp>, now: Timestamp) -> Self {
        if not_before.is_some_and(|due| due > now) { Self::Scheduled } else { Self::Pending }
    }

    /// Whether retention may remove it and its unique key is free.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled | Self::Expired)
    }

    /// Whether it counts against a queue's `max_len`.
    #[must_use]
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::Blocked | Self::Scheduled | Self::Pending | Self::Retrying)
    }

    /// The word for it, the same everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// What it depends on is done.
    Unblock,
    /// Its time has come.
    Due,
    /// A worker takes it.
    Claim,
    /// The handler succeeded.
    Complete,
    /// The attempt failed; another follows later.
    Retry,
    /// The attempt failed; another may follow at once.
    RetryNow,
    /// Handed back, to be started again at once (shutdown).
    Release,
    /// Handed back, not to be started for a while (snooze, busy, limited).
    ReleaseLater,
    /// The worker fell silent.
    LeaseLost,
    /// Waits for a key (limit, breaker) and spends no attempt.
    Park,
    /// The key let it go.
    Unpark,
    /// No further attempt.
    Bury,
    /// Stopped by request.
    Cancel,
    /// Its time to live passed before it was started.
    Expire,
    /// An operator gives a dead job another life.
    Redrive,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 15] = [
        Self::Unblock,
        Self::Due,
        Self::Claim,
        Self::Complete,
        Self::Retry,
        Self::RetryNow,
        Self::Release,
        Self::ReleaseLater,
        Self::LeaseLost,
        Self::Park,
        Self::Unpark,
        Self::Bury,
        Self::Cancel,
        Self::Expire,
        Self::Redrive,
    ];
}

/// Where a job that becomes ready stands in line, within its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// Behind the others: fresh, promoted, retried and redriven jobs.
    Tail,
    /// Where it stood: it was there already and has not run to an end (released, lost by its worker, parked).
    Head,
}

/// What else must happen in the same atomic step as the change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Effects {
    /// The next execution has the next attempt number.
    pub next_attempt: bool,
    /// The count starts again at attempt 1.
    pub reset_attempts: bool,
    /// The lease epoch moves on: every receipt given out before is stale.
    pub fence: bool,
    /// It may be claimed now.
    pub ready: Option<Line>,
    /// It is over: the unique key is freed (unless a window holds it) and retention begins.
    pub finished: bool,
    /// What watchers are told, if anything.
    pub event: Option<JobEventKind>,
}

/// One allowed change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition {
    /// The state before.
    pub from: JobState,
    /// What happens.
    pub trigger: Trigger,
    /// The state after.
    pub to: JobState,
    /// What goes with it.
    pub effects: Effects,
}

/// The change was not allowed; nothing may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {from} job cannot take {trigger:?}")]
pub struct Illegal {
    /// The state it is in.
    pub from: JobState,
    /// What was asked.
    pub trigger: Trigger,
}

/// The one rule: what `trigger` makes of a job in state `from`.
///
/// # Errors
/// [`Illegal`] where the table has no such row.
pub const fn step(from: JobState, trigger: Trigger) -> Result<Transition, Illegal> {
    use JobState::{Blocked, Cancelled, Completed, Dead, Expired, Pending, Retrying, Running, Scheduled};
    use Trigger as T;

    const PLAIN: Effects =
        Effects { next_attempt: false, reset_attempts: false, fence: false, ready: None, finished: false, event: None };
    const fn told(event: JobEventKind) -> Effects {
        Effects { event: Some(event), ..PLAIN }
    }
    const fn ended(event: JobEventKind) -> Effects {
        Effects { fence: true, finished: true, event: Some(event), ..PLAIN }
    }

    let (to, effects) = match (from, trigger) {
        (Blocked, T::Unblock) | (Scheduled | Retrying, T::Due) => {
            (Pending, Effects { ready: Some(Line::Tail), ..PLAIN })
        }
        // It waited for its key already: it does not wait for its queue once more.
        (Pending, T::Unpark) => (Pending, Effects { ready: Some(Line::Head), ..PLAIN }),
        // Scheduled and retrying may be claimed directly where the broker delivers when due.
        (Pending | Scheduled | Retrying, T::Claim) => (Running, Effects { fence: true, ..told(JobEventKind::Started) }),
        (Running, T::Complete) => (Completed, ended(JobEventKind::Completed)),
        (Running, T::Retry) => (Retrying, Effects { next_attempt: true, fence: true, ..told(JobEventKind::Retrying) }),
        (Running, T::RetryNow) => (
            Pending,
            Effects { next_attempt: true, fence: true, ready: Some(Line::Tail), ..told(JobEventKind::Retrying) },
        ),
        (Running, T::Release) => {
            (Pending, Effects { fence: true, ready: Some(Line::Head), ..told(JobEventKind::Released) })
        }
        (Running, T::ReleaseLater) => (Scheduled, Effects { fence: true, ..told(JobEventKind::Released) }),
        (Running, T::LeaseLost) => {
            (Pending, Effects { fence: true, ready: Some(Line::Head), ..told(JobEventKind::LeaseLost) })
        }
        (Running, T::Park) => (Pending, Effects { fence: true, ..told(JobEventKind::Parked) }),
        // A job that was never claimed can die too: a transport may refuse its copy for good.
        (Running | Pending | Scheduled | Retrying, T::Bury) => (Dead, ended(JobEventKind::DeadLettered)),
        (Blocked | Scheduled | Pending | Running | Retrying, T::Cancel) => (Cancelled, ended(JobEventKind::Cancelled)),
        (Blocked | Scheduled | Pending | Running | Retrying, T::Expire) => (Expired, ended(JobEventKind::Expired)),
        (Dead, T::Redrive) => (
            Pending,
            Effects { reset_attempts: true, fence: true, ready: Some(Line::Tail), ..told(JobEventKind::Redriven) },
        ),
        _ => return Err(Illegal { from, trigger }),
    };
    Ok(Transition { from, trigger, to, effects })
}

/// Every allowed transition: what a store or a script is tested against, exhaustively.
#[must_use]
pub fn table() -> Vec<Transition> {
    let all = JobState::ALL.into_iter().flat_map(|from| Trigger::ALL.into_iter().map(move |trigger| (from, trigger)));
    all.filter_map(|(from, trigger)| step(from, trigger).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobState::{Blocked, Dead, Pending, Retrying, Running, Scheduled};

    #[test]
    fn the_table_is_the_published_one() {
        let lines: Vec<String> = table()
            .iter()
            .map(|row| {
                let Effects { next_attempt, reset_attempts, fence, ready, finished, event } = row.effects;
                let flags = [
                    (next_attempt, "+attempt"),
                    (reset_attempts, "attempt=1"),
                    (fence, "fence"),
                    (ready == Some(Line::Tail), "tail"),
                    (ready == Some(Line::Head), "head"),
                    (finished, "finished"),
                ];
                let flags: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
                let event = event.map_or("-", JobEventKind::as_str);
                format!("{} {:?} {} [{}] {event}", row.from, row.trigger, row.to, flags.join(" "))
            })
            .collect();
        let published = include_str!("../tests/golden/lifecycle.txt");
        assert_eq!(lines.join("\n"), published.trim_end(), "the transition table changed: is that meant?");
    }

    #[test]
    fn nothing_leaves_a_terminal_state_but_a_redriven_dead_job() {
        for row in table() {
            if row.from.is_terminal() {
                assert_eq!((row.from, row.trigger, row.to), (Dead, Trigger::Redrive, Pending));
            }
            assert_eq!(row.effects.finished, row.to.is_terminal(), "{row:?}");
        }
    }

    #[test]
    fn whatever_ends_or_begins_a_lease_fences_it() {
        for row in table() {
            if row.from == Running || row.to == Running {
                assert!(row.effects.fence, "{row:?}");
            }
        }
    }

    #[test]
    fn every_state_but_blocked_can_be_reached_and_every_live_one_left() {
        for state in JobState::ALL {
            let reached = table().iter().any(|row| row.to == state) || [Scheduled, Pending, Blocked].contains(&state);
            assert!(reached, "{state}");
            assert_eq!(table().iter().any(|row| row.from == state), !state.is_terminal() || state == Dead);
        }
    }

    #[test]
    fn only_failures_spend_attempts() {
        let spends: Vec<Trigger> =
            table().iter().filter(|row| row.effects.next_attempt).map(|row| row.trigger).collect();
        assert_eq!(spends, [Trigger::Retry, Trigger::RetryNow]);
    }

    #[test]
    fn waiting_is_what_max_len_counts() {
        let waiting: Vec<JobState> = JobState::ALL.into_iter().filter(|state| state.is_waiting()).collect();
        assert_eq!(waiting, [Blocked, Scheduled, Pending, Retrying]);
    }

    #[test]
    fn a_job_that_is_due_is_pending() {
        let now = Timestamp::from_millis(5);
        assert_eq!(JobState::initial(None, now), Pending);
        assert_eq!(JobState::initial(Some(now), now), Pending);
        assert_eq!(JobState::initial(Some(Timestamp::from_millis(6)), now), Scheduled);
    }
}
