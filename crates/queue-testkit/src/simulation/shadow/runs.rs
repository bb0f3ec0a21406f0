//! What handlers see.

use std::time::Duration;

use queue_core::{
    JobId,
    provider::{Beat, BeatOutcome, Delivery},
    store::Leadership,
};

use super::{At, Shadow};

/// What a worker may believe of a delivery in its hands.
#[derive(Debug, Clone)]
pub(super) struct Belief {
    /// Until when the lease stands, as it was told; `None` for a session.
    until: Option<Duration>,
    /// It has to mark the start first.
    must_mark: bool,
    attempt: u32,
    handed: u32,
    started: u32,
}

/// Timers count in milliseconds, and who must stop has its turn a little later.
const GRACE: Duration = Duration::from_millis(20);

impl Shadow {
    /// A fetch returned to a worker.
    pub(in crate::simulation) fn received(&mut self, life: u64, deliveries: &[Delivery], now: Duration) {
        for delivery in deliveries {
            let belief = Belief {
                until: delivery.lease.remaining.map(|rest| now + rest),
                must_mark: delivery.redelivered,
                attempt: delivery.attempt,
                handed: 1,
                started: 0,
            };
            let id = (life, delivery.envelope.id);
            let handed = self.believed.get(&id).map_or(0, |before| before.handed);
            let started = self.believed.get(&id).map_or(0, |before| before.started);
            self.believed.insert(id, Belief { handed: handed + 1, started, ..belief });
        }
    }

    /// A heartbeat returned to a worker. A lease counts from before the beat was sent.
    pub(in crate::simulation) fn heard(
        &mut self,
        at: At,
        life: u64,
        beats: &[Beat],
        outcomes: &[BeatOutcome],
        sent: Duration,
    ) {
        for (beat, outcome) in beats.iter().zip(outcomes) {
            let Some(belief) = self.believed.get_mut(&(life, beat.receipt.id)) else { continue };
            match outcome {
                BeatOutcome::Held(lease) => {
                    belief.until = lease.remaining.map(|rest| sent + rest);
                    belief.must_mark &= !beat.started;
                }
                BeatOutcome::Lost => belief.until = Some(belief.until.map_or(at.mono, |until| until.min(at.mono))),
                BeatOutcome::Unknown(_) => {}
            }
        }
    }

    /// A handler begins.
    pub(in crate::simulation) fn run_begins(&mut self, at: At, life: u64, id: JobId, attempt: u32) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.runs += 1;
        }
        if self.running.insert((life, id), at.mono).is_some() {
            self.wrong_with(id, "its handler runs twice at a time in one process");
        }
        let Some(belief) = self.believed.get_mut(&(life, id)) else {
            return self.wrong_with(id, "its handler runs, and the process was never given it");
        };
        belief.started += 1;
        let belief = belief.clone();
        if belief.started > belief.handed {
            self.wrong_with(id, "its handler runs more often than it was given out");
        }
        if belief.until.is_some_and(|until| until + GRACE < at.mono) {
            self.wrong_with(id, "its handler begins after its lease has ended");
        }
        if belief.must_mark {
            self.wrong_with(id, "its handler begins, and the start of a redelivered job was not marked");
        }
        if belief.attempt != attempt {
            self.wrong_with(id, format!("runs as attempt {attempt}, and was given out as {}", belief.attempt));
        }
    }

    /// A handler ended, or was dropped.
    pub(in crate::simulation) fn run_ends(&mut self, at: At, life: u64, id: JobId) {
        if self.running.remove(&(life, id)).is_none() || self.dead_lives.contains(&life) {
            return;
        }
        let until = self.believed.get(&(life, id)).and_then(|belief| belief.until);
        if let Some(until) = until.filter(|until| *until + GRACE < at.mono) {
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

impl Shadow {
    /// Somebody was given the lead of a role.
    pub(in crate::simulation) fn led(&mut self, at: At, role: &str, candidate: &str, lead: &Leadership, term: Duration) {
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
