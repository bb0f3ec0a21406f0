//! Judges the history of a run: was anything lost, invented, or run more often than its faults explain?
//!
//! As in Jepsen's total-queue checker, `lost` and `unexpected` must be empty. A job may be started once, and once more for
//! each retry, release or redrive that was settled, and for each fault that struck while it was leased.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use queue_core::{
    JobId,
    provider::{Disposition, PublishOutcome, SettleOutcome},
};

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// For good.
    Completed,
    /// For good.
    Dead,
    /// For good.
    Cancelled,
    /// For good.
    Expired,
    /// It comes again, as another attempt.
    Retried,
    /// It comes again.
    Released,
}

impl End {
    /// What a disposition makes of a job.
    #[must_use]
    pub const fn of(disposition: &Disposition) -> Self {
        match disposition {
            Disposition::Complete { .. } => Self::Completed,
            Disposition::DeadLetter { .. } => Self::Dead,
            Disposition::Cancelled => Self::Cancelled,
            Disposition::Expired => Self::Expired,
            Disposition::Retry { .. } => Self::Retried,
            Disposition::Release { .. } | Disposition::Park { .. } => Self::Released,
        }
    }

    /// Whether it does not come again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled | Self::Expired)
    }
}

/// What a fault struck.
#[derive(Debug, Clone, Copy)]
pub enum Struck<'a> {
    /// What the worker of that name held.
    Worker(&'a str),
    /// What anybody held.
    Everything {
        /// Also what was settled before: where a settlement is sent and not confirmed, or may be lost in a failover.
        settled: bool,
    },
}

/// Whether a publish took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Published {
    Rejected,
    Unknown,
    Accepted,
}

#[derive(Debug, Default)]
struct Job {
    published: Option<Published>,
    starts: usize,
    /// The workers that hold it now.
    held_by: Vec<String>,
    again: usize,
    ends: Vec<End>,
    /// Settlements that nobody answered: each may or may not have taken.
    unanswered: usize,
    faults: usize,
}

#[derive(Debug, Default)]
struct History {
    jobs: BTreeMap<JobId, Job>,
    faults: Vec<(String, usize)>,
    left: Option<u64>,
}

/// Writes the history of a run down, from any number of tasks.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<History>);

impl Recorder {
    /// An empty history.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn write<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A publish was answered. The best answer counts: what was accepted once was accepted.
    pub fn published(&self, id: JobId, outcome: &PublishOutcome) {
        let published = match outcome {
            PublishOutcome::Accepted { .. } => Published::Accepted,
            PublishOutcome::Unknown(_) => Published::Unknown,
            PublishOutcome::Duplicate { .. } | PublishOutcome::Rejected(_) => Published::Rejected,
        };
        self.write(|history| {
            let job = history.jobs.entry(id).or_default();
            job.published = job.published.max(Some(published));
        });
    }

    /// A worker was given the job.
    pub fn started(&self, id: JobId, worker: &str) {
        self.write(|history| {
            let job = history.jobs.entry(id).or_default();
            job.starts += 1;
            job.held_by.push(worker.to_owned());
        });
    }

    /// A worker settled the job.
    pub fn settled(&self, id: JobId, worker: &str, disposition: &Disposition, outcome: &SettleOutcome) {
        self.write(|history| {
            let job = history.jobs.entry(id).or_default();
            if let Some(at) = job.held_by.iter().position(|holder| holder == worker) {
                job.held_by.swap_remove(at);
            }
            let end = End::of(disposition);
            match outcome {
                SettleOutcome::Settled | SettleOutcome::AlreadySettled if end.is_final() => job.ends.push(end),
                SettleOutcome::Settled | SettleOutcome::AlreadySettled => job.again += 1,
                SettleOutcome::Unknown(_) => job.unanswered += 1,
                SettleOutcome::Conflict | SettleOutcome::LeaseLost | SettleOutcome::NotSettled { .. } => {}
            }
        });
    }

    /// Something was killed. What it struck may run again.
    pub fn fault(&self, what: &str, struck: &Struck<'_>) {
        self.write(|history| {
            let mut hits = 0;
            for job in history.jobs.values_mut() {
                let before = job.held_by.len();
                match struck {
                    Struck::Worker(worker) => job.held_by.retain(|holder| holder != worker),
                    Struck::Everything { .. } => job.held_by.clear(),
                }
                let settled = matches!(struck, Struck::Everything { settled: true }) && before == 0 && job.starts > 0;
                let hit = before - job.held_by.len() + usize::from(settled);
                job.faults += hit;
                hits += hit;
            }
            history.faults.push((what.to_owned(), hits));
        });
    }

    /// How many jobs the provider still shows in the end, the dead included.
    pub fn left(&self, visible: u64) {
        self.write(|history| history.left = Some(visible));
    }

    /// Judges.
    #[must_use]
    pub fn check(&self) -> Report {
        self.write(|history| history.check())
    }
}

impl History {
    fn check(&self) -> Report {
        let mut report = Report { jobs: self.jobs.len(), faults: self.faults.clone(), ..Report::default() };
        let mut excess = 0;
        for (id, job) in &self.jobs {
            report.starts += job.starts;
            report.completed += usize::from(job.ends.contains(&End::Completed));
            report.ended += usize::from(!job.ends.is_empty());
            match job.published {
                Some(Published::Accepted) => report.accepted += 1,
                Some(Published::Unknown) => report.unknown += 1,
                Some(Published::Rejected) if job.starts > 0 => report.unexpected.push(*id),
                Some(Published::Rejected) => report.rejected += 1,
                None => report.unexpected.push(*id),
            }
            if job.published == Some(Published::Accepted) && job.ends.is_empty() && job.unanswered == 0 {
                report.unfinished.push(*id);
            }
            let runs = job.starts.saturating_sub(1 + job.again + job.unanswered);
            excess += runs;
            if runs > job.faults {
                report.over_run.push((*id, runs, job.faults));
            }
        }
        let in_flight: usize = self.faults.iter().map(|(_, struck)| struck).sum();
        report.excess_beyond_faults = excess.saturating_sub(in_flight);
        // Without the provider's numbers, what did not finish is lost; with them, it may still be there.
        let visible = usize::try_from(self.left.unwrap_or(0)).unwrap_or(usize::MAX);
        let dead = self.jobs.values().filter(|job| job.ends.contains(&End::Dead)).count();
        let waiting = visible.saturating_sub(if self.left.is_some() { dead } else { 0 });
        if report.unfinished.len() > waiting {
            report.lost.clone_from(&report.unfinished);
        }
        let at_most =
            report.unfinished.len() + report.unknown + self.jobs.values().filter(|job| job.unanswered > 0).count();
        report.invented = waiting.saturating_sub(at_most);
        report
    }
}

/// What the checker found. Prints as a few lines that a person can act on.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Jobs in the history.
    pub jobs: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Never answered.
    pub unknown: usize,
    /// Rejected, and never seen.
    pub rejected: usize,
    /// Completed.
    pub completed: usize,
    /// Ended for good, completed or not.
    pub ended: usize,
    /// Deliveries in all.
    pub starts: usize,
    /// Accepted and not ended; no loss while the provider still shows as many.
    pub unfinished: Vec<JobId>,
    /// Accepted, not ended, and more than the provider still shows.
    pub lost: Vec<JobId>,
    /// Delivered without having been published, or although refused.
    pub unexpected: Vec<JobId>,
    /// Started more often than retries, releases and faults explain: the job, the surplus, the faults.
    pub over_run: Vec<(JobId, usize, usize)>,
    /// Surplus starts of all jobs beyond what was in flight at the faults.
    pub excess_beyond_faults: usize,
    /// Jobs the provider still shows that nobody can account for.
    pub invented: usize,
    /// Each fault, and how many jobs it struck.
    pub faults: Vec<(String, usize)>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.unexpected.is_empty()
            && self.over_run.is_empty()
            && self.excess_beyond_faults == 0
            && self.invented == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_clean() { "clean" } else { "NOT CLEAN" };
        writeln!(
            f,
            "{verdict}: {} jobs, {} accepted, {} unknown, {} rejected",
            self.jobs, self.accepted, self.unknown, self.rejected
        )?;
        writeln!(f, "  {} starts, {} ended, {} of them completed", self.starts, self.ended, self.completed)?;
        for (what, struck) in &self.faults {
            writeln!(f, "  fault: {what}, {struck} in flight")?;
        }
        for (what, ids) in [("lost", &self.lost), ("unexpected", &self.unexpected)] {
            if !ids.is_empty() {
                writeln!(f, "  {what}: {} jobs, such as {:?}", ids.len(), &ids[..ids.len().min(3)])?;
            }
        }
        if !self.over_run.is_empty() {
            let shown = &self.over_run[..self.over_run.len().min(3)];
            writeln!(f, "  over-run: {} jobs, such as (job, surplus, faults) {shown:?}", self.over_run.len())?;
        }
        if self.excess_beyond_faults > 0 {
            writeln!(f, "  {} surplus starts beyond what was in flight at the faults", self.excess_beyond_faults)?;
        }
        if self.invented > 0 {
            writeln!(f, "  {} jobs are left that nobody can account for", self.invented)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> JobId {
        JobId::derive(b"checker", n)
    }

    fn complete() -> Disposition {
        Disposition::Complete { result: None }
    }

    fn accepted(record: &Recorder, n: u64) {
        for n in 0..n {
            record.published(id(n), &PublishOutcome::Accepted { place: 0 });
        }
    }

    fn ran(record: &Recorder, n: u64, disposition: &Disposition) {
        record.started(id(n), "w");
        record.settled(id(n), "w", disposition, &SettleOutcome::Settled);
    }

    #[test]
    fn a_plain_run_is_clean() {
        let record = Recorder::new();
        accepted(&record, 3);
        (0..3).for_each(|n| ran(&record, n, &complete()));
        record.left(0);
        let report = record.check();
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.accepted, report.completed, report.starts), (3, 3, 3));
    }

    #[test]
    fn a_job_that_never_ends_is_lost_unless_it_is_still_there() {
        let record = Recorder::new();
        accepted(&record, 2);
        ran(&record, 0, &complete());
        assert_eq!(record.check().lost, [id(1)]);
        record.left(1);
        assert!(record.check().is_clean());
        record.left(2);
        assert_eq!(record.check().invented, 1);
    }

    #[test]
    fn what_nobody_published_is_unexpected() {
        let record = Recorder::new();
        ran(&record, 7, &complete());
        assert_eq!(record.check().unexpected, [id(7)]);
    }

    #[test]
    fn a_refused_job_that_runs_is_unexpected_and_an_unanswered_one_is_not() {
        let record = Recorder::new();
        record.published(id(0), &PublishOutcome::Rejected(queue_core::provider::Rejection::Full));
        ran(&record, 0, &complete());
        assert_eq!(record.check().unexpected, [id(0)]);
        let record = Recorder::new();
        let lost = queue_core::Error::new(queue_core::ErrorCode::Timeout, "no answer");
        record.published(id(0), &PublishOutcome::Unknown(lost));
        ran(&record, 0, &complete());
        assert!(record.check().is_clean());
    }

    #[test]
    fn a_second_run_needs_a_reason() {
        let record = Recorder::new();
        accepted(&record, 1);
        record.started(id(0), "w");
        ran(&record, 0, &complete());
        let report = record.check();
        assert_eq!(report.over_run, [(id(0), 1, 0)]);
        assert!(report.to_string().contains("over-run"), "{report}");
        // A retry is one,
        let record = Recorder::new();
        accepted(&record, 1);
        let error = queue_core::JobError::custom("TEMP", "again");
        ran(&record, 0, &Disposition::Retry { after: std::time::Duration::ZERO, error });
        ran(&record, 0, &complete());
        assert!(record.check().is_clean());
        // and so is the death of its worker, but not of another.
        for (victim, clean) in [("w", true), ("x", false)] {
            let record = Recorder::new();
            accepted(&record, 1);
            record.started(id(0), "w");
            record.fault("killed", &Struck::Worker(victim));
            record.started(id(0), "y");
            record.settled(id(0), "y", &complete(), &SettleOutcome::Settled);
            assert_eq!(record.check().is_clean(), clean, "{}", record.check());
        }
    }

    #[test]
    fn a_brokers_fault_excuses_what_was_held_and_what_was_settled_only_if_unconfirmed() {
        for (settled, clean) in [(true, true), (false, false)] {
            let record = Recorder::new();
            accepted(&record, 1);
            ran(&record, 0, &complete());
            record.fault("restarted", &Struck::Everything { settled });
            ran(&record, 0, &complete());
            assert_eq!(record.check().is_clean(), clean, "{}", record.check());
        }
    }
}
