//! A redrive that is looked at before it is made.

use std::collections::BTreeMap;

use queue_core::{
    JobId, Result,
    provider::{DeadFilter, Redrive, RedriveReport, RedriveSelection},
};

use super::{BATCH, DeadLetters};

/// The dead jobs that matched when it was made. Nothing happens until [`RedrivePlan::redrive`].
#[derive(Debug)]
#[must_use = "a plan changes nothing until it is redriven"]
pub struct RedrivePlan {
    dead: DeadLetters,
    /// The oldest first. Those before `next` are done.
    jobs: Vec<JobId>,
    next: usize,
    complete: bool,
    by_code: BTreeMap<String, u64>,
    report: RedriveReport,
}

/// How far a redrive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedriveProgress {
    /// Jobs that were tried.
    pub done: u64,
    /// Jobs of the plan.
    pub total: u64,
    /// What became of them so far.
    pub report: RedriveReport,
}

impl RedrivePlan {
    /// The most jobs of one plan: 16 MB of ids.
    pub const MAX_JOBS: usize = 1_000_000;
    /// The most error codes that are counted; jobs with further ones are in none of the counts.
    const MAX_CODES: usize = 100;

    pub(super) async fn make(dead: DeadLetters, filter: &DeadFilter) -> Result<Self> {
        let (mut jobs, mut by_code, mut cursor) = (Vec::new(), BTreeMap::<String, u64>::new(), None);
        let complete = loop {
            let room = BATCH.min(Self::MAX_JOBS - jobs.len());
            let page = dead.list(filter, cursor, room).await?;
            for job in page.items {
                jobs.push(job.id);
                let code = &*job.error.code;
                if let Some(count) = by_code.get_mut(code) {
                    *count += 1;
                } else if by_code.len() < Self::MAX_CODES {
                    by_code.insert(code.to_owned(), 1);
                }
            }
            match page.next {
                None => break true,
                Some(_) if jobs.len() >= Self::MAX_JOBS => break false,
                Some(next) => cursor = Some(next),
            }
        };
        Ok(Self { dead, jobs, next: 0, complete, by_code, report: RedriveReport::default() })
    }

    /// How many jobs it would bring back.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.jobs.len() as u64
    }

    /// How many of them died of which error.
    #[must_use]
    pub fn by_code(&self) -> &BTreeMap<String, u64> {
        &self.by_code
    }

    /// Whether every job that matched is in it, and not only the oldest [`RedrivePlan::MAX_JOBS`].
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// How many have not been tried yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        (self.jobs.len() - self.next) as u64
    }

    /// Brings them back, 500 in a call, and says what became of them all. Jobs that are not dead any more are passed over.
    ///
    /// # Errors
    /// `UNSUPPORTED`, `UNAVAILABLE`. What came back stays; called again, it goes on where it was interrupted. Dropped half-way, the
    /// same holds.
    pub async fn redrive(&mut self) -> Result<RedriveReport> {
        self.redrive_with(|_| {}).await
    }

    /// The same, and tells after each call how far it is.
    ///
    /// # Errors
    /// As [`RedrivePlan::redrive`].
    pub async fn redrive_with(&mut self, mut progress: impl FnMut(RedriveProgress)) -> Result<RedriveReport> {
        while self.next < self.jobs.len() {
            let end = self.jobs.len().min(self.next + BATCH);
            let which = RedriveSelection::Jobs(self.jobs[self.next..end].to_vec());
            let part = self.dead.redrive(&Redrive { which, dry_run: false, payload: None }).await?;
            self.next = end;
            self.report.matched += part.matched;
            self.report.redriven += part.redriven;
            self.report.duplicates += part.duplicates;
            progress(RedriveProgress { done: self.next as u64, total: self.count(), report: self.report });
            // A provider in this process answers at once: let the workers at it.
            tokio::task::yield_now().await;
        }
        Ok(self.report)
    }
}
