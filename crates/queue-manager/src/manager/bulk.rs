//! Many at once: one answer per item, in order, and one call per provider.

use std::collections::{BTreeMap, HashSet};

use futures_util::future::join_all;
use queue_core::{
    Error, ErrorCode, Job, JobHandle, JobId, JobRef, JobScheduler, QueueName, Result,
    job::JobKind,
    lifecycle::JobState,
    provider::{Cancel, PublishOptions},
    scheduler::{NewJob, Submitted},
    store::{CancelOutcome, JobQuery, Lookup},
};
use serde::{Deserialize, Serialize};

use super::{QueueManager, jobs::handle};
use crate::routes;

/// What [`QueueManager::cancel_matching`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CancelReport {
    /// Unfinished jobs that matched.
    pub matched: u64,
    /// Of these, waiting ones that are cancelled.
    pub cancelled: u64,
    /// Of these, running ones that were asked to stop.
    pub requested: u64,
    /// Of these, finished before they were reached.
    pub finished: u64,
    /// Of these, ones for which no answer came, or a refusal.
    pub failed: u64,
    /// The first of these refusals.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// Whether nothing that matched was left over. Where jobs come faster than they are cancelled it is not.
    pub complete: bool,
}

/// Records asked for at once.
const PAGE: usize = 500;
/// Jobs that move while they are listed can be missed: so often it is looked again.
const PASSES: usize = 8;

/// # Many jobs
impl QueueManager {
    /// Submits typed jobs to their type's queue: one answer per job, in order. A refused job does not touch its neighbours.
    pub async fn enqueue_all<J: Job>(&self, jobs: impl IntoIterator<Item = J>) -> Vec<Result<JobHandle<J::Output>>> {
        let made: Vec<Result<NewJob>> = jobs.into_iter().map(|job| NewJob::typed(&job)).collect();
        let place = QueueName::new(J::QUEUE)
            .and_then(|queue| Ok((self.as_route().submit_to(&queue, &JobKind::new(J::KIND)?)?, queue)));
        let (scheduler, queue) = match place {
            Ok(place) => place,
            Err(error) => return made.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut good = Vec::with_capacity(made.len());
        let refused: Vec<Option<Error>> = made.into_iter().map(|job| job.map(|job| good.push(job)).err()).collect();
        let mut answers = scheduler.submit(&queue, good, &PublishOptions::default()).await.into_iter();
        let answer = |refused| match refused {
            Some(error) => Err(error),
            None => handle(&scheduler, answers.next()),
        };
        refused.into_iter().map(answer).collect()
    }

    /// Submits a batch to a queue: one answer per job, in order. A refused job does not touch its neighbours.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; then nothing is submitted.
    pub async fn enqueue_batch(
        &self,
        queue: impl AsRef<str>,
        jobs: Vec<NewJob>,
        options: &PublishOptions,
    ) -> Result<Vec<Submitted>> {
        let queue = QueueName::new(queue)?;
        Ok(self.enqueue_many(jobs.into_iter().map(|job| (queue.clone(), job)).collect(), options).await)
    }

    /// Submits jobs to many queues: one answer per job, in order. Each queue's jobs go out in one publish (for each provider that
    /// takes some of its kinds), in their order. A refused job does not touch its neighbours.
    pub async fn enqueue_many<Q: AsRef<str>>(
        &self,
        jobs: Vec<(Q, NewJob)>,
        options: &PublishOptions,
    ) -> Vec<Submitted> {
        let mut answers: Vec<Option<Submitted>> = jobs.iter().map(|_| None).collect();
        let mut batches: BTreeMap<(usize, QueueName), (Vec<usize>, Vec<NewJob>)> = BTreeMap::new();
        for (index, (queue, job)) in jobs.into_iter().enumerate() {
            let place = QueueName::new(queue).and_then(|queue| Ok((self.inner.routes.home(&queue, &job.kind)?, queue)));
            match place {
                Ok(place) => {
                    let (indices, batch) = batches.entry(place).or_default();
                    indices.push(index);
                    batch.push(job);
                }
                Err(error) => answers[index] = Some(Submitted::Rejected(error.at("submit"))),
            }
        }
        let sent = batches.into_iter().map(|((place, queue), (indices, batch))| {
            let scheduler = &self.inner.routes.member(place).scheduler;
            async move { (indices, scheduler.submit(&queue, batch, options).await) }
        });
        for (indices, batch) in join_all(sent).await {
            for (index, answer) in indices.into_iter().zip(batch) {
                answers[index] = Some(answer);
            }
        }
        let missing = || Error::new(ErrorCode::Internal, "the provider answered for fewer jobs than it was given");
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Submitted::Rejected(missing()))).collect()
    }

    /// What is known of each job, in order: each provider is asked once for all that it may have. An error stands for the jobs
    /// of a provider that cannot be asked.
    pub async fn get_many(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        routes::look_up(&self.all_schedulers(), jobs, self.places_of(jobs)).await
    }

    /// Cancels waiting jobs at once, and asks running ones to stop: one answer each, in order. Each provider is asked once for
    /// all that it may have. Idempotent.
    pub async fn cancel_many(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        routes::cancel(&self.all_schedulers(), jobs, self.places_of(jobs), cancel).await
    }

    fn all_schedulers(&self) -> Vec<&JobScheduler> {
        self.members().map(|member| &member.scheduler).collect()
    }

    fn places_of(&self, jobs: &[JobRef]) -> Vec<Result<Vec<usize>>> {
        jobs.iter().map(|job| self.inner.routes.candidates(&job.queue)).collect()
    }

    /// Cancels all unfinished jobs of a queue that match, or only counts them. It goes through them a page at a time and looks
    /// again until it finds no more, so it holds few at once and never waits for running ones to stop. The query names the
    /// queue; states that are finished match nothing.
    ///
    /// # Errors
    /// `VALIDATION` without a queue; `UNROUTABLE`; `UNSUPPORTED` without a store; `UNAVAILABLE`: what was cancelled before
    /// stays so.
    pub async fn cancel_matching(&self, query: &JobQuery, cancel: &Cancel, dry_run: bool) -> Result<CancelReport> {
        let mut query = query.clone();
        let wanted = |state: &JobState| query.states.is_empty() || query.states.contains(state);
        query.states = JobState::ALL.iter().copied().filter(|state| !state.is_terminal() && wanted(state)).collect();
        let mut report = CancelReport::default();
        if query.states.is_empty() {
            return Ok(CancelReport { complete: true, ..report });
        }
        // Those that are still listed after they were dealt with.
        let mut dealt: HashSet<JobId> = HashSet::new();
        for _ in 0..PASSES {
            if !self.cancel_pass(&query, cancel, dry_run, &mut dealt, &mut report).await? {
                report.complete = report.failed == 0;
                break;
            }
        }
        Ok(report)
    }

    /// One pass through all that match, and whether it is worth another.
    async fn cancel_pass(
        &self,
        query: &JobQuery,
        cancel: &Cancel,
        dry_run: bool,
        dealt: &mut HashSet<JobId>,
        report: &mut CancelReport,
    ) -> Result<bool> {
        let (mut cursor, mut again) = (None, false);
        loop {
            let page = self.jobs(query, cursor, PAGE).await?;
            let fresh = page.items.into_iter().map(|record| record.job).filter(|job| dry_run || dealt.insert(job.id));
            let jobs: Vec<JobRef> = fresh.collect();
            report.matched += jobs.len() as u64;
            if !dry_run && !jobs.is_empty() {
                again = true;
                for (job, outcome) in jobs.iter().zip(self.cancel_many(&jobs, cancel).await) {
                    if report.count(outcome) {
                        // It is not listed again, and need not be remembered.
                        dealt.remove(&job.id);
                    }
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(again),
            }
        }
    }
}

impl CancelReport {
    /// Whether the job is finished now.
    fn count(&mut self, outcome: Result<CancelOutcome>) -> bool {
        match outcome {
            Ok(CancelOutcome::Cancelled) => self.cancelled += 1,
            Ok(CancelOutcome::AlreadyTerminal | CancelOutcome::NotFound) => self.finished += 1,
            Ok(CancelOutcome::Requested) => {
                self.requested += 1;
                return false;
            }
            Err(error) => {
                self.failed += 1;
                self.error.get_or_insert_with(|| error.to_string());
                return false;
            }
        }
        true
    }
}
