//! What must hold from time to time, and in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use queue_core::{
    JobId,
    event::{JobEvent, JobEventKind},
    lifecycle::JobState,
    stats::QueueStats,
    store::{JobRecord, Lookup, Watched},
};

use super::{At, Job, Offer, Shadow, State, claim::ended};
use crate::{checker::End, simulation::words};

/// A leader that died leads for so long, and its successor looks within a tick of it.
const LEASES_LOOKED_AT: Duration = Duration::from_secs(20);

/// Events that were told, by job and kind.
#[derive(Debug, Default)]
pub(super) struct Told {
    counts: BTreeMap<(JobId, JobEventKind), u32>,
    missed: bool,
}

/// What the provider shows when all is over.
#[derive(Debug, Default)]
pub(in crate::simulation) struct Truth {
    /// Where there are records: of every job.
    pub(in crate::simulation) records: BTreeMap<JobId, Lookup>,
    pub(in crate::simulation) stats: Vec<QueueStats>,
    /// What dead letters there are.
    pub(in crate::simulation) dead: BTreeSet<JobId>,
}

impl Told {
    /// Somebody may have heard too little, or the same again.
    pub(super) fn lose(&mut self) {
        self.missed = true;
    }
}

impl Shadow {
    /// A watcher heard something.
    pub(in crate::simulation) fn told(&mut self, watched: &Watched<JobEvent>) {
        match watched {
            Watched::Event(event) => *self.told.counts.entry((event.job.id, event.what)).or_default() += 1,
            Watched::Missed => self.told.missed = true,
        }
    }

    /// Every job that was ever offered.
    pub(in crate::simulation) fn known(&self) -> Vec<queue_core::JobRef> {
        self.jobs.iter().map(|(id, job)| queue_core::JobRef::new(job.queue.clone(), *id)).collect()
    }

    /// Jobs that somebody still has to do something about.
    pub(in crate::simulation) fn open(&self, at: At) -> Vec<JobId> {
        let open = |job: &Job| !job.may_be_over(at) && !self.is_cut(&job.queue);
        self.jobs.iter().filter(|(_, job)| open(job)).map(|(id, _)| *id).collect()
    }

    /// How the jobs that were accepted ended: of how many is known how.
    pub(in crate::simulation) fn ends(&self) -> (usize, usize) {
        let accepted = self.jobs.values().filter(|job| job.offer == Offer::Accepted);
        (accepted.clone().count(), accepted.filter(|job| job.is_over()).count())
    }

    /// Looks whether somebody sleeps who should be awake, and whether somebody dead holds on to something.
    pub(in crate::simulation) fn look(&mut self, at: At) {
        let patience = self.promises.wakes_within;
        let long = |since: Duration| since + patience < at.mono;
        let mut wrongs = Vec::new();
        for (id, job) in &self.jobs {
            let flows =
                self.lines.get(&job.queue).is_none_or(|line| !line.paused && !line.doubted && long(line.running_since));
            let until = match &job.state {
                State::Held(hold) if !hold.shaken => hold.until,
                _ => None,
            };
            if until.is_some_and(|until| until + LEASES_LOOKED_AT < at.mono) && job.doubts.is_empty() && !job.cancel {
                let reachable = self.reachable_since + LEASES_LOOKED_AT < at.mono;
                if flows && reachable && !job.may_have_expired(at) && self.any_idle(&job.queue, at) {
                    wrongs.push((*id, format!("its lease ended {LEASES_LOOKED_AT:?} ago, and nobody took it back")));
                }
            }
            let ready = job.offer == Offer::Accepted
                && matches!(job.state, State::Waiting)
                && job.doubts.is_empty()
                && job.parked.is_none()
                && !job.blurred
                && long(job.due.mono.max(job.accepted_at))
                && job.due.wall.is_none_or(|due| due + patience < at.wall)
                && !job.may_have_expired(at);
            if !ready || !flows || self.promises.rebalances {
                continue;
            }
            let idle = self.consumers.iter().find(|(number, consumer)| {
                let waits = consumer.fetching.is_some_and(long);
                // What it does not know of fills it too, until somebody looks at the leases.
                let room = consumer.demand > self.holds_of(**number, |_| true);
                !consumer.gone && consumer.queue == job.queue && waits && room
            });
            if let Some((_, consumer)) = idle {
                let waits = consumer.fetching.map_or(Duration::ZERO, |since| at.mono.saturating_sub(since));
                wrongs.push((*id, format!("is ready, and a consumer has slept over it for {waits:?}")));
            }
        }
        for (id, wrong) in wrongs {
            self.wrong_with(id, wrong);
        }
    }

    fn any_idle(&self, queue: &queue_core::QueueName, at: At) -> bool {
        let idle = |(_, consumer): (&u64, &super::Consumer)| {
            let waits = consumer.fetching.is_some_and(|since| since + Duration::from_secs(2) < at.mono);
            !consumer.gone && consumer.queue == *queue && waits
        };
        self.consumers.iter().any(idle)
    }

    /// A worker has stopped in good order: it has nothing in its hands.
    pub(in crate::simulation) fn worker_stopped(&mut self, at: At, life: u64) {
        let held = |job: &Job| matches!(&job.state, State::Held(hold) if hold.life == life && hold.stands(at));
        let left: Vec<JobId> = self.jobs.iter().filter(|(_, job)| held(job)).map(|(id, _)| *id).collect();
        if !self.calm {
            return;
        }
        for id in left {
            self.wrong_with(id, "its worker has stopped and still holds it");
        }
    }

    /// All is over: nothing may be lost, and everything must be said.
    pub(in crate::simulation) fn finish(&mut self, at: At, truth: &Truth) {
        for id in self.open(at) {
            self.wrong_with(id, "never ended");
        }
        for stats in &truth.stats {
            // A copy that its publisher sent when its job had ended waits for somebody to drop it, and nobody is left.
            if self.promises.records && !self.promises.atomic && !stats.exact {
                continue;
            }
            if stats.waiting() + stats.running > 0 {
                self.wrong(format!(
                    "{} still shows {} waiting and {} running",
                    stats.queue,
                    stats.waiting(),
                    stats.running
                ));
            }
        }
        let mut wrongs = Vec::new();
        for (id, job) in self.jobs.iter().filter(|(_, job)| !self.is_cut(&job.queue)) {
            let found = if self.promises.records {
                job.check_record(at, truth.records.get(id), self.promises.atomic)
            } else {
                None
            };
            wrongs.extend(found.map(|wrong| (*id, wrong)));
            let dead = truth.dead.contains(id);
            let died = matches!(job.state, State::Ended(End::Dead));
            if died != dead && job.doubts.is_empty() && !job.may_have_expired(at) && job.offer == Offer::Accepted {
                let said = if died { "it died, and is no dead letter" } else { "it is a dead letter, and did not die" };
                wrongs.push((*id, said.to_owned()));
            }
        }
        if self.promises.records && !self.told.missed {
            wrongs.extend(self.check_events());
        }
        for (id, wrong) in wrongs {
            self.wrong_with(id, wrong);
        }
    }

    /// Each event fires once, from the winner.
    fn check_events(&self) -> Vec<(JobId, String)> {
        let mut wrongs = Vec::new();
        for (id, job) in self.jobs.iter().filter(|(_, job)| job.offer == Offer::Accepted) {
            let told = |what| self.told.counts.get(&(*id, what)).copied().unwrap_or(0);
            let ends: u32 =
                [JobEventKind::Completed, JobEventKind::DeadLettered, JobEventKind::Cancelled, JobEventKind::Expired]
                    .into_iter()
                    .map(told)
                    .sum();
            let exact = self.promises.atomic;
            let mut expect = |what: &str, told: u32, right: u32, at_least: bool| {
                if told > right || (at_least && told < right) {
                    wrongs.push((*id, format!("{right} times {what}, and told {told} times")));
                }
            };
            expect("submitted", told(JobEventKind::Submitted), 1, exact);
            expect("ended", ends, 1 + job.redrives.max(job.redrives_asked), exact);
            if exact {
                expect("started", told(JobEventKind::Started), job.claims, true);
                expect("retried", told(JobEventKind::Retrying), job.retries, true);
            }
        }
        wrongs
    }
}

impl Job {
    fn check_record(&self, at: At, found: Option<&Lookup>, atomic: bool) -> Option<String> {
        match found {
            Some(Lookup::Found(record)) => self.check_state(at, record, atomic),
            // Accepted while the store was away, and expired before anybody could write its record.
            Some(Lookup::NotFound) if self.claims == 0 && self.may_have_expired(at) => None,
            Some(Lookup::NotFound) | None if self.offer == Offer::Accepted => Some("its record is gone".to_owned()),
            Some(Lookup::Gone) => None,
            Some(Lookup::Unknown) => Some("nobody knows its state".to_owned()),
            _ => None,
        }
    }

    fn check_state(&self, at: At, record: &JobRecord, atomic: bool) -> Option<String> {
        if self.offer == Offer::Refused {
            return Some("it was refused, and has a record".to_owned());
        }
        let Some(end) = end_of(record.state) else { return Some(format!("its record says {}", record.state)) };
        let fits = match &self.state {
            // Another life of it was asked for and not answered, and ran out before anybody had it.
            State::Ended(End::Dead) if self.redriving && end == End::Expired => self.envelope.expires_at.is_some(),
            State::Ended(known) => *known == end,
            _ => {
                (end == End::Expired && self.may_have_expired(at))
                    || (end == End::Cancelled && self.cancel)
                    || self.doubts.iter().any(|doubt| End::of(doubt) == end)
                    || self.offer == Offer::Unknown
            }
        };
        if !fits {
            let known = match &self.state {
                State::Ended(known) => ended(*known),
                State::Held(_) => "held",
                State::Waiting => "waiting",
            };
            return Some(format!("its record says {}, and it was {known}", record.state));
        }
        let doubted = self.doubts.iter().any(|doubt| End::of(doubt) == End::Retried);
        // Whoever was asked to stop stopped instead of being retried, whenever that was answered.
        let asked = self.cancel_doubted || self.cancel && !atomic;
        let stopped = asked && end == End::Cancelled && record.attempt + 1 == self.attempt;
        if record.attempt != self.attempt && !doubted && !stopped && self.offer == Offer::Accepted {
            return Some(format!("its record says attempt {}, and it was {}", record.attempt, self.attempt));
        }
        None
    }
}

fn end_of(state: JobState) -> Option<End> {
    match state {
        JobState::Completed => Some(End::Completed),
        JobState::Dead => Some(End::Dead),
        JobState::Cancelled => Some(End::Cancelled),
        JobState::Expired => Some(End::Expired),
        _ => None,
    }
}

/// For the summary of a run.
impl Shadow {
    pub(in crate::simulation) fn summary(&self) -> String {
        let (accepted, over) = self.ends();
        let runs: u32 = self.jobs.values().map(|job| job.runs).sum();
        let losses: u32 = self.jobs.values().map(|job| job.losses).sum();
        format!(
            "{} jobs, {accepted} accepted, {over} settled; {} claims, {runs} runs, {losses} lost leases",
            self.jobs.len(),
            self.claims
        )
    }

    /// Dead jobs, to be redriven.
    pub(in crate::simulation) fn dead(&self) -> Vec<queue_core::JobRef> {
        let dead = self.jobs.iter().filter(|(_, job)| matches!(job.state, State::Ended(End::Dead)));
        dead.map(|(id, job)| queue_core::JobRef::new(job.queue.clone(), *id)).collect()
    }

    /// How often a job's handler ran so far.
    pub(in crate::simulation) fn runs_of(&self, id: JobId) -> u32 {
        self.jobs.get(&id).map_or(0, |job| job.runs)
    }

    /// What is known of a job, for traces.
    pub(in crate::simulation) fn describe(&self, id: JobId) -> String {
        let Some(job) = self.jobs.get(&id) else { return words::job(id) };
        let state = match &job.state {
            State::Waiting => "waiting".to_owned(),
            State::Held(hold) => format!("held by life {} until {:?}", hold.life, hold.until),
            State::Ended(end) => ended(*end).to_owned(),
        };
        format!(
            "{} {state}, attempt {}, claimed {} times, doubts {:?}",
            words::job(id),
            job.attempt,
            job.claims,
            job.doubts
        )
    }
}
