//! What handlers see.

use std::time::Duration;

use queue_core::{
    JobId,
    provider::{Beat, BeatOutcome, Delivery, Receipt},
    store::Leadership,
};

use super::{At, Shadow};

/// What a worker may believe of a delivery in its hands.
#[derive(Debug, Clone)]
pub(super) struct Belief {
    receipt: Receipt,
    /// Until when the lease stands, as it was told; `None` for a session.
    until: Option<Duration>,
    /// It has to mark the start first.
    must_mark: bool,
    attempt: u32,
    started: bool,
}

/// Timers count in milliseconds, and who must stop has its turn a little later.
const GRACE: Duration = Duration::from_millis(20);

impl Belief {
    /// Why a handler may not begin on the strength of it.
    fn objection(&self, at: At, attempt: u32) -> Option<String> {
        if self.started {
            return Some("its handler runs more often than it was given out".to_owned());
        }
        if self.until.is_some_and(|until| until + GRACE < at.mono) {
            return Some("its handler begins after its lease has ended".to_owned());
        }
        if self.must_mark {
            return Some("its handler begins, and the start of a redelivered job was not marked".to_owned());
        }
        let given = self.attempt;
        (given != attempt).then(|| format!("runs as attempt {attempt}, and was given out as {given}"))
    }
}

impl Shadow {
    /// A fetch returned to a worker.
    pub(in crate::simulation) fn received(&mut self, life: u64, deliveries: &[Delivery], now: Duration) {
        for delivery in deliveries {
            let belief = Belief {
                receipt: delivery.receipt,
                until: delivery.lease.remaining.map(|rest| now + rest),
                must_mark: delivery.redelivered,
                attempt: delivery.attempt,
                started: false,
            };
            self.believed.entry((life, delivery.envelope.id)).or_default().push(belief);
        }
    }

    /// A heartbeat returned to a worker. A lease counts from before the beat was sent, and none is shorter for having been extended: who
    /// answers may have taken its own way from what remains, and was told of more before.
    pub(in crate::simulation) fn heard(
        &mut self,
        at: At,
        life: u64,
        beats: &[Beat],
        outcomes: &[BeatOutcome],
        sent: Duration,
    ) {
        for (beat, outcome) in beats.iter().zip(outcomes) {
            let Some(beliefs) = self.believed.get_mut(&(life, beat.receipt.id)) else { continue };
            for belief in beliefs.iter_mut().filter(|belief| belief.receipt == beat.receipt) {
                match outcome {
                    BeatOutcome::Held(lease) => {
                        let until = lease.remaining.map(|rest| sent + rest);
                        belief.until = until.map(|until| belief.until.map_or(until, |before| before.max(until)));
                        belief.must_mark &= !beat.started;
                    }
                    BeatOutcome::Lost => belief.until = Some(belief.until.map_or(at.mono, |until| until.min(at.mono))),
                    BeatOutcome::Unknown(_) => {}
                }
            }
        }
    }

    /// A handler begins.
    pub(in crate::simulation) fn run_begins(&mut self, at: At, life: u64, id: JobId, attempt: u32) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.runs += 1;
            if job.outlived(at) {
                self.wrong_with(id, "its handler begins after its time to live");
            }
        }
        if self.promises.exclusive && self.is_running(at, id) {
            self.wrong_with(id, "runs while another of its handlers runs on a lease that stands");
        }
        self.running.insert((life, id));
        // A handler does not say by which of several deliveries it runs.
        let beliefs = self.believed.entry((life, id)).or_default();
        match beliefs.iter_mut().rev().find(|belief| belief.objection(at, attempt).is_none()) {
            Some(belief) => belief.started = true,
            None => {
                let objection = beliefs.last().and_then(|belief| belief.objection(at, attempt));
                let never = || "its handler runs, and the process was never given it".to_owned();
                self.wrong_with(id, objection.unwrap_or_else(never));
            }
        }
    }

    fn is_running(&self, at: At, id: JobId) -> bool {
        self.running.iter().filter(|(_, job)| *job == id).any(|runner| {
            let beliefs = self.believed.get(runner).map_or(&[][..], Vec::as_slice);
            beliefs.iter().any(|belief| belief.started && belief.until.is_none_or(|until| at.mono < until))
        })
    }

    /// A handler ended, or was dropped.
    pub(in crate::simulation) fn run_ends(&mut self, at: At, life: u64, id: JobId) {
        if !self.running.remove(&(life, id)) || self.dead_lives.contains(&life) {
            return;
        }
        let beliefs = self.believed.get(&(life, id)).map_or(&[][..], Vec::as_slice);
        let ends = beliefs.iter().map(|belief| belief.until.unwrap_or(Duration::MAX));
        if let Some(until) = ends.max().filter(|until| until.saturating_add(GRACE) < at.mono) {
            let late = at.mono.saturating_sub(until);
            self.wrong_with(id, format!("its handler ran on for {late:?} after its lease had ended"));
        }
    }
}

/// Who leads a role.
#[derive(Debug)]
pub(super) struct Lead {
    candidate: String,
    epoch: u64,
    until: Duration,
}

impl Lead {
    /// Nobody knows of it any more, but for its epoch.
    pub(super) fn end(&mut self, at: At) {
        self.until = self.until.min(at.mono);
    }
}

impl Shadow {
    /// Somebody was given the lead of a role.
    pub(in crate::simulation) fn led(
        &mut self,
        at: At,
        role: &str,
        candidate: &str,
        lead: &Leadership,
        term: Duration,
    ) {
        let next = Lead { candidate: candidate.to_owned(), epoch: lead.epoch, until: at.mono + term };
        let Some(last) = self.leads.insert(role.to_owned(), next) else { return };
        if last.candidate == candidate {
            return;
        }
        if at.mono < last.until.saturating_sub(self.promises.slack) {
            self.wrong(format!("two lead {role} at a time"));
        }
        if lead.epoch <= last.epoch {
            self.wrong(format!("the lead of {role} changed, and its epoch did not rise"));
        }
    }
}
