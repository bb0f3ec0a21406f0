//! A process that submits jobs.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue_core::{
    ErrorCode, JobScheduler,
    scheduler::{NewJob, Submitted},
};

use super::Stop;
use crate::simulation::{
    life::Life,
    plan::{Plan, PlannedJob},
};

/// What is still to be submitted: it survives the process that submits.
#[derive(Debug)]
pub(in crate::simulation) struct Desk(Mutex<Vec<(PlannedJob, Paper)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paper {
    Todo,
    /// On its way, or nobody knows.
    Asked,
    Done,
}

const TRIES: usize = 12;

impl Desk {
    pub(in crate::simulation) fn new(jobs: Vec<PlannedJob>) -> Self {
        Self(Mutex::new(jobs.into_iter().map(|job| (job, Paper::Todo)).collect()))
    }

    fn with<R>(&self, act: impl FnOnce(&mut Vec<(PlannedJob, Paper)>) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn mark(&self, all: &[PlannedJob], paper: Paper) {
        self.with(|papers| {
            for (job, mark) in papers.iter_mut() {
                if all.iter().any(|other| other.id == job.id) {
                    *mark = paper;
                }
            }
        });
    }

    /// A new life does not know what became of what the last one asked: it asks again where that does no harm.
    fn take_over(&self, dedup: bool) {
        let next = if dedup { Paper::Todo } else { Paper::Done };
        self.with(|papers| {
            for (_, mark) in papers.iter_mut().filter(|(_, mark)| *mark == Paper::Asked) {
                *mark = next;
            }
        });
    }

    /// The next jobs that go to one queue together.
    fn next(&self, most: usize) -> Vec<PlannedJob> {
        self.with(|papers| {
            let mut todo = papers.iter().filter(|(_, mark)| *mark == Paper::Todo).map(|(job, _)| job);
            let Some(first) = todo.next() else { return Vec::new() };
            let together =
                |job: &&PlannedJob| job.queue == first.queue && job.at <= first.at + Duration::from_millis(300);
            std::iter::once(first).chain(todo.take_while(together)).take(most).cloned().collect()
        })
    }

    /// Whether everything was submitted.
    pub(in crate::simulation) fn is_clear(&self) -> bool {
        self.with(|papers| papers.iter().all(|(_, mark)| *mark == Paper::Done))
    }
}

pub(super) async fn produce(life: &Life, scheduler: &JobScheduler, plan: &Plan, desk: &Desk, stop: Stop) {
    let dedup = scheduler.provider().capabilities(plan.queues.first()).dedup_by_id.is_supported();
    desk.take_over(dedup);
    let mut tries = 0;
    loop {
        let most = usize::try_from(life.dice().between(1, 5)).unwrap_or(1);
        let batch = desk.next(most);
        let Some(first) = batch.first() else { break };
        let now = life.env().clock.monotonic();
        if first.at > now {
            tokio::time::sleep(first.at.saturating_sub(now)).await;
        }
        let again = submit(scheduler, desk, &batch, dedup, plan.bias.takes_no).await;
        tries = if again { tries + 1 } else { 0 };
        if tries >= TRIES {
            // Full, again and again: somebody has to give up.
            desk.mark(&batch, Paper::Done);
            tries = 0;
        } else if again {
            tokio::time::sleep(life.dice().millis(50, 800)).await;
        }
    }
    stop.told().await;
}

/// Submits a batch; `true` where some of it has to be submitted again.
async fn submit(scheduler: &JobScheduler, desk: &Desk, batch: &[PlannedJob], dedup: bool, takes_no: bool) -> bool {
    let Some(first) = batch.first() else { return false };
    desk.mark(batch, Paper::Asked);
    let jobs: Vec<NewJob> = batch.iter().map(|job| job.job.clone()).collect();
    let answers = scheduler.submit(&first.queue, jobs, &first.publish).await;
    let mut again = false;
    for (job, answer) in batch.iter().zip(answers) {
        let retry = match &answer {
            Submitted::Accepted(_) | Submitted::Duplicate(_) => false,
            Submitted::Rejected(_) if takes_no => false,
            Submitted::Rejected(error) => {
                matches!(error.code(), ErrorCode::QueueFull | ErrorCode::Unavailable | ErrorCode::Timeout)
            }
            Submitted::Unknown(..) => dedup,
        };
        again |= retry;
        desk.mark(std::slice::from_ref(job), if retry { Paper::Todo } else { Paper::Done });
    }
    again
}
