//! What the workers wrote down, told to the checker in the order of time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use queue_core::{
    Error, ErrorCode, JobError, JobId,
    provider::{Disposition, ReleaseReason, SettleOutcome},
};
use queue_testkit::checker::{End, Recorder, Struck};

use super::{
    fleet::Event,
    judge::{Fault, Victim},
    leases::{Leases, Overlap},
    log::{Answer, Seen},
};

#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// How each job ended, as its worker was told.
    pub(crate) ended: HashMap<JobId, End>,
    /// Settlements that were refused, for another worker had the job.
    pub(crate) refused: usize,
    /// Runs that no settlement accounts for.
    pub(crate) repeated: usize,
    /// Runs that began while another's lease stood.
    pub(crate) overlaps: Vec<Overlap>,
}

pub(crate) fn replay(recorder: &Recorder, workers: &[String], events: &[Event], faults: &[Fault]) -> Replayed {
    let (definite, mut in_vain) = answers(events);
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.at);
    let all = faults;
    let mut faults = faults.iter().peekable();
    let mut leases = Leases::default();
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
            Seen::Held { id, epoch, until } => leases.held(event.at, event.worker, id, (epoch, until)),
            Seen::GivesBack { id, epoch } => leases.given_back(event.worker, id, epoch),
            Seen::Closes => leases.closed(event.worker),
            Seen::Ran(id) => {
                replayed.overlaps.extend(leases.ran(event.at, event.worker, id, all));
                recorder.started(id, &workers[event.worker]);
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
                    recorder.settled(id, &workers[event.worker], &disposition(end), &unknown);
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
                recorder.settled(id, &workers[event.worker], &disposition(end), &told(answer));
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
fn answers(events: &[Event]) -> (HashSet<Which>, HashMap<Which, bool>) {
    let all = || {
        events.iter().filter_map(|event| match event.seen {
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
pub(crate) fn disposition(end: End) -> Disposition {
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
