//! The verdict: the logs of all workers and the answers to the producers, replayed for the checker in the order of time; and the
//! store asked for every job that was accepted.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use queue_core::{
    Error, ErrorCode, JobError, JobId, JobRef, JobScheduler,
    lifecycle::JobState,
    provider::{Disposition, ReleaseReason, SettleOutcome},
    store::Lookup,
};
use queue_testkit::checker::{End, Recorder, Report, Struck};

use super::{
    fleet::{Event, Fleet},
    load::{Load, Plan},
    log::{Answer, Seen},
    producers::Published,
};

/// What was done to whom, and when.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) what: String,
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
    /// Runs whose settlement was refused, for another worker had the job.
    pub(crate) refused: usize,
    /// Runs beyond the attempts of their jobs, and how many were in flight at the faults: at most so many may be.
    pub(crate) repeated: usize,
    pub(crate) in_flight: usize,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.report.is_clean() && self.lost() == 0 && self.contradicted.is_empty()
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
    let Replayed { ended, refused, repeated } = replay(&recorder, fleet, faults);
    let states = states(load, published, scheduler).await?;
    let mut verdict = Verdict {
        report: Report::default(),
        gone: Vec::new(),
        stuck: Vec::new(),
        contradicted: Vec::new(),
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

#[derive(Debug, Default)]
struct Replayed {
    /// How each job ended, as its worker was told.
    ended: HashMap<JobId, End>,
    refused: usize,
    repeated: usize,
}

fn replay(recorder: &Recorder, fleet: &Fleet, faults: &[Fault]) -> Replayed {
    let (definite, mut in_vain) = answers(fleet);
    let mut events: Vec<&Event> = fleet.events.iter().collect();
    events.sort_by_key(|event| event.at);
    let mut faults = faults.iter().peekable();
    let mut replayed = Replayed::default();
    let mut held: HashMap<JobId, usize> = HashMap::new();
    // Runs that are yet to be explained by a settlement.
    let mut open: HashMap<JobId, usize> = HashMap::new();
    for event in events {
        while let Some(fault) = faults.next_if(|fault| fault.at <= event.at) {
            strike(recorder, fault);
        }
        match event.seen {
            Seen::Fetched(_) => {}
            Seen::Ran(id) => {
                recorder.started(id, &fleet.names[event.worker]);
                held.insert(id, event.worker);
                *open.entry(id).or_default() += 1;
            }
            // It was asked again, and then answered.
            Seen::Settled { id, epoch, answer, .. } if !answer.is_definite() && definite.contains(&(id, epoch)) => {}
            // Given back unstarted: that explains no run.
            Seen::Settled { id, end: End::Released, .. } if held.get(&id) != Some(&event.worker) => {}
            // Asked in vain, and again when the job was another's: one settlement of which nothing is known.
            Seen::Settled { id, epoch, end, answer, .. }
                if in_vain.contains_key(&(id, epoch)) && !definite.contains(&(id, epoch)) =>
            {
                replayed.refused += usize::from(matches!(answer, Answer::LeaseLost | Answer::Conflict));
                if in_vain.insert((id, epoch), true) == Some(false) {
                    let unknown = told(Answer::Unknown);
                    recorder.settled(id, &fleet.names[event.worker], &disposition(end), &unknown);
                }
            }
            Seen::Settled { id, end, answer, .. } => {
                replayed.refused += usize::from(matches!(answer, Answer::LeaseLost | Answer::Conflict));
                if matches!(answer, Answer::Settled | Answer::AlreadySettled) {
                    open.entry(id).and_modify(|runs| *runs = runs.saturating_sub(1));
                    if end.is_final() {
                        replayed.ended.insert(id, end);
                    }
                }
                recorder.settled(id, &fleet.names[event.worker], &disposition(end), &told(answer));
            }
        }
    }
    faults.for_each(|fault| strike(recorder, fault));
    // A job whose end nobody lived to hear has one run that was its last.
    let unheard = |(id, runs): (&JobId, &usize)| runs - usize::from(!replayed.ended.contains_key(id) && *runs > 0);
    replayed.repeated = open.iter().map(unheard).sum();
    replayed
}

/// A job and the lease under which it ran.
type Which = (JobId, u64);

/// Settlements by what their worker was told in the end: those with an answer, and those that were asked for in vain before, of which each was
/// not counted yet. That the lease is another's tells nothing then: the job may have been settled, and run on.
fn answers(fleet: &Fleet) -> (HashSet<Which>, HashMap<Which, bool>) {
    let all = || {
        fleet.events.iter().filter_map(|event| match event.seen {
            Seen::Settled { id, epoch, answer, .. } => Some(((id, epoch), answer)),
            _ => None,
        })
    };
    let in_vain: HashMap<_, _> =
        all().filter(|(_, answer)| matches!(answer, Answer::Unknown)).map(|(which, _)| (which, false)).collect();
    let is_answer =
        |(which, answer): &(_, Answer)| is_told(*answer) || answer.is_definite() && !in_vain.contains_key(which);
    (all().filter(is_answer).map(|(which, _)| which).collect(), in_vain)
}

/// Whether it says that this settlement stands.
fn is_told(answer: Answer) -> bool {
    matches!(answer, Answer::Settled | Answer::AlreadySettled)
}

fn strike(recorder: &Recorder, fault: &Fault) {
    match &fault.struck {
        Victim::Worker(name) => recorder.fault(&fault.what, &Struck::Worker(name)),
        Victim::Everything { settled } => recorder.fault(&fault.what, &Struck::Everything { settled: *settled }),
        Victim::Nothing => {}
    }
}

/// Any that ends that way: the checker looks at nothing else of it.
fn disposition(end: End) -> Disposition {
    let error = || JobError::custom("SOAK", "as planned");
    match end {
        End::Completed => Disposition::Complete { result: None },
        End::Dead => Disposition::DeadLetter { error: error() },
        End::Cancelled => Disposition::Cancelled,
        End::Expired => Disposition::Expired,
        End::Retried => Disposition::Retry { after: Duration::ZERO, error: error() },
        End::Released => Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown },
    }
}

fn told(answer: Answer) -> SettleOutcome {
    let error = || Error::new(ErrorCode::Unavailable, "no answer");
    match answer {
        Answer::Settled => SettleOutcome::Settled,
        Answer::AlreadySettled => SettleOutcome::AlreadySettled,
        Answer::Conflict => SettleOutcome::Conflict,
        Answer::LeaseLost => SettleOutcome::LeaseLost,
        Answer::NotSettled => SettleOutcome::NotSettled { then_index: None, error: error() },
        Answer::Unknown => SettleOutcome::Unknown(error()),
    }
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
