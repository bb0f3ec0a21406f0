//! The verdict: the logs of all workers and the answers to the producers, replayed for the checker in the order of time; and the
//! store asked for every job that was accepted.

use std::{collections::HashSet, time::Duration};

use queue_core::{JobId, JobRef, JobScheduler, lifecycle::JobState, provider::SettleOutcome, store::Lookup};
use queue_testkit::checker::{End, Recorder, Report};

use super::{
    fleet::Fleet,
    load::{Load, Plan},
    producers::Published,
    replay::{Replayed, disposition, replay},
};

/// What was done to whom, and when.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) began: u64,
    /// When it was over.
    pub(crate) at: u64,
    pub(crate) struck: Victim,
    /// How long until each worker that lives consumed again; `None`: not within the limit.
    pub(crate) recovery: Vec<(String, Option<Duration>)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Victim {
    Worker(String),
    Everything {
        settled: bool,
    },
    /// What nobody may notice.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) report: Report,
    /// Accepted, and the store does not know it.
    pub(crate) gone: Vec<JobId>,
    /// Accepted, and not over although the queue had the time.
    pub(crate) stuck: Vec<JobId>,
    /// It ended otherwise than its plan says, or in the store otherwise than its worker was told.
    pub(crate) contradicted: Vec<JobId>,
    /// Runs that began while another's lease stood.
    pub(crate) overlapping: Vec<JobId>,
    /// Runs whose settlement was refused, for another worker had the job.
    pub(crate) refused: usize,
    /// Runs beyond the attempts of their jobs, and how many were in flight at the faults: at most so many may be.
    pub(crate) repeated: usize,
    pub(crate) in_flight: usize,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.report.is_clean() && self.lost() == 0 && self.contradicted.is_empty() && self.overlapping.is_empty()
    }

    pub(crate) fn lost(&self) -> usize {
        let mut lost: HashSet<JobId> = self.gone.iter().chain(&self.stuck).copied().collect();
        lost.extend(&self.report.lost);
        lost.len()
    }

    /// Jobs that ran without having been published, or although they were refused.
    pub(crate) fn unexpected(&self) -> usize {
        self.report.unexpected.len() + self.report.invented
    }

    /// Runs that no fault explains.
    pub(crate) fn unexplained(&self) -> usize {
        let single: usize = self.report.over_run.iter().map(|(_, surplus, faults)| surplus - faults).sum();
        single.max(self.report.excess_beyond_faults)
    }
}

pub(crate) async fn judge(
    load: &Load,
    published: &Published,
    fleet: &Fleet,
    faults: &[Fault],
    scheduler: &JobScheduler,
    left: u64,
) -> queue_core::Result<Verdict> {
    let recorder = Recorder::new();
    for (number, outcome) in published {
        recorder.published(load.id(*number), outcome);
    }
    let Replayed { ended, refused, repeated, overlaps } = replay(&recorder, &fleet.names, &fleet.events, faults);
    let states = states(load, published, scheduler).await?;
    let mut verdict = Verdict {
        report: Report::default(),
        gone: Vec::new(),
        stuck: Vec::new(),
        contradicted: Vec::new(),
        overlapping: overlaps.iter().map(|overlap| overlap.id).collect(),
        refused,
        repeated,
        in_flight: 0,
    };
    for (number, state) in states {
        let id = load.id(number);
        let expected = if load.plan(number) == Plan::Dies { JobState::Dead } else { JobState::Completed };
        match state {
            None => verdict.gone.push(id),
            Some(state) if !state.is_terminal() => verdict.stuck.push(id),
            Some(state) if state != expected => verdict.contradicted.push(id),
            // Settled, and nobody lived to hear the answer.
            Some(_) if !ended.contains_key(&id) => {
                let end = if expected == JobState::Dead { End::Dead } else { End::Completed };
                recorder.settled(id, "", &disposition(end), &SettleOutcome::AlreadySettled);
            }
            Some(state) => {
                let told = if ended[&id] == End::Dead { JobState::Dead } else { JobState::Completed };
                if told != state {
                    verdict.contradicted.push(id);
                }
            }
        }
    }
    recorder.left(left);
    verdict.report = recorder.check();
    verdict.in_flight = verdict.report.faults.iter().map(|(_, struck)| struck).sum();
    Ok(verdict)
}

/// What the store says of every job that was accepted; `None` where it knows nothing.
async fn states(
    load: &Load,
    published: &Published,
    scheduler: &JobScheduler,
) -> queue_core::Result<Vec<(u64, Option<JobState>)>> {
    use queue_core::provider::PublishOutcome;
    let accepted: Vec<u64> = published
        .iter()
        .filter(|(_, outcome)| matches!(outcome, PublishOutcome::Accepted { .. }))
        .map(|(number, _)| *number)
        .collect();
    let mut states = Vec::with_capacity(accepted.len());
    for part in accepted.chunks(100) {
        let jobs: Vec<JobRef> = part.iter().map(|number| JobRef::new(load.queue.clone(), load.id(*number))).collect();
        for (number, answer) in part.iter().zip(scheduler.store()?.get(&jobs).await) {
            let state = match answer? {
                Lookup::Found(record) => Some(record.state),
                Lookup::NotFound | Lookup::Gone | Lookup::Unknown => None,
            };
            states.push((*number, state));
        }
    }
    Ok(states)
}
