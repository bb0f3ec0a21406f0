//! What was given out.

use std::time::Duration;

use queue_core::{JobId, QueueName, provider::Delivery};

use super::{At, Hold, Job, Offer, Shadow, State, settle};
use crate::{checker::End, simulation::words};

impl Shadow {
    /// A fetch was answered by the provider.
    pub(in crate::simulation) fn claimed(&mut self, at: At, consumer: u64, deliveries: &[Delivery]) {
        let Some(taker) = self.consumers.get(&consumer) else { return };
        let (life, queue, demand, asked) = (taker.life, taker.queue.clone(), taker.demand, taker.asked);
        let late = self.promises.pauses_within;
        let holds_back = |line: &super::Line| line.paused && !line.doubted && line.paused_since + late <= at.mono;
        if self.lines.get(&queue).is_some_and(holds_back) && !deliveries.is_empty() {
            self.wrong(format!("{} were given out of {queue} while it was paused", deliveries.len()));
        }
        for delivery in deliveries {
            self.claims += 1;
            self.claim(at, asked, (consumer, life), &queue, delivery);
        }
        let held =
            self.holds_of(consumer, |hold| hold.stands(at) && !self.asked.contains_key(&settle::key(&hold.receipt)));
        // It may have asked for less since it took what it has.
        if held > demand && !deliveries.is_empty() && self.promises.atomic {
            self.wrong(format!("a consumer holds {held} jobs of {queue} and asked for {demand} at most"));
        }
    }

    fn claim(&mut self, at: At, asked: Duration, (consumer, life): (u64, u64), queue: &QueueName, delivery: &Delivery) {
        let id = delivery.envelope.id;
        let Some(job) = self.jobs.get(&id) else {
            return self.wrong_with(id, "given out, and nobody published it");
        };
        let mut wrongs = job.check_travel(queue, delivery);
        let settling = matches!(&job.state, State::Held(hold) if self.asked.contains_key(&settle::key(&hold.receipt)));
        let reborn = job.redriving && matches!(job.state, State::Ended(End::Dead));
        if !settling && !reborn {
            wrongs.extend(job.check_turn(at, delivery));
            let waited = matches!(job.state, State::Waiting);
            if waited && job.orphaned && !delivery.redelivered && self.promises.records {
                wrongs.push("a lease of it was lost, whoever had it since never began, and nothing says so".to_owned());
            }
            // Where a call is many steps the claim is some time past: that no handler begins on it is looked at there.
            if self.promises.atomic && job.outlived(at) {
                wrongs.push("given out after its time to live".to_owned());
            }
        }
        if !(reborn || settling && self.promises.atomic) {
            wrongs.extend(job.check_counts(delivery, self.promises.counts_starts));
        }
        if self.promises.records
            && !reborn
            && job.must_tell(asked, self.promises.atomic)
            && delivery.lease.cancel.is_none()
        {
            wrongs.push("given out without a word of the cancel that was asked for".to_owned());
        }
        if self.promises.ordered {
            wrongs.extend(self.overtaken(at, id));
        }
        if self.calm && !settling && matches!(&job.state, State::Held(hold) if !hold.shaken) {
            wrongs.push("its lease was lost, and nothing had gone wrong".to_owned());
        }
        wrongs.extend(self.forgotten(id, delivery).map(str::to_owned));
        for wrong in wrongs {
            self.wrong_with(id, wrong);
        }
        let slack = self.promises.slack;
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if reborn {
            job.begin_again(at);
            (job.redriving, job.reborn) = (false, true);
        }
        if let (State::Held(hold), false) = (&job.state, settling) {
            if hold.forgotten || hold.mark_forgotten {
                (job.started_lost, job.started_kept) = (delivery.started_before, delivery.started_before);
            } else {
                job.started_lost += u32::from(hold.marked);
            }
            // A claim that is not known orphans nothing.
            job.orphaned |= !hold.forgotten || delivery.redelivered;
            job.losses += 1;
        }
        if (settling || reborn) && self.promises.atomic {
            // Whatever became of what was asked for.
            (job.started_lost, job.started_kept) = (delivery.started_before, 0);
            job.orphaned |= delivery.redelivered;
        }
        if settling && !self.promises.atomic {
            // What was asked for took effect unseen: whether a start came between is only known from here.
            job.orphaned = delivery.redelivered;
        }
        // What is given out was not ended by anybody, and what it was asked to become shows in its number.
        job.offer = Offer::Accepted;
        job.doubts.clear();
        job.attempt = delivery.attempt;
        job.claims += 1;
        job.recorded.get_or_insert(at.mono);
        job.fresh = false;
        job.parked = None;
        let noted = std::mem::take(&mut job.suspect);
        job.state = State::Held(Hold {
            receipt: delivery.receipt,
            life,
            consumer,
            until: delivery.lease.remaining.map(|rest| at.mono + rest.saturating_sub(slack)),
            shaken: self.promises.rebalances,
            starts: false,
            marked: false,
            forgotten: false,
            noted,
            redelivered: delivery.redelivered,
            mark_forgotten: false,
        });
    }

    /// Who should have been first.
    fn overtaken(&self, at: At, id: JobId) -> Option<String> {
        let taken = self.jobs.get(&id)?;
        let priority = taken.envelope.priority;
        let before = self.jobs.iter().find(|(other, job)| {
            let ready = job.offer == Offer::Accepted
                && matches!(job.state, State::Waiting)
                && job.doubts.is_empty()
                && job.parked.is_none()
                && !job.blurred
                && job.due.mono < at.mono
                // Who waited for room came in when the wall showed another time.
                && job.due.wall.is_none_or(|due| due < at.wall)
                && !job.may_have_expired(at);
            let higher = job.envelope.priority > priority;
            // Claimed before its publisher was answered, its place is not known.
            let placed = job.fresh && taken.fresh && taken.place != u64::MAX;
            let sooner = job.envelope.priority == priority && placed && job.place < taken.place;
            **other != id && job.queue == taken.queue && ready && (higher || sooner)
        })?;
        let (other, job) = before;
        Some(format!(
            "given out before {}, which was ready (priorities {} and {})",
            words::job(*other),
            priority.level(),
            job.envelope.priority.level()
        ))
    }
}

impl Job {
    /// What was given out must be what was put in.
    fn check_travel(&self, queue: &QueueName, delivery: &Delivery) -> Vec<String> {
        let (ours, theirs) = (&self.envelope, &delivery.envelope);
        let mut wrongs = Vec::new();
        if self.offer == Offer::Refused {
            wrongs.push("given out although it was refused".to_owned());
        }
        if self.queue != *queue {
            wrongs.push(format!("published to {} and given out of {queue}", self.queue));
        }
        let same = [
            ("payload", ours.payload == theirs.payload),
            ("kind", ours.kind == theirs.kind),
            ("priority", ours.priority == theirs.priority),
            ("headers", ours.headers == theirs.headers),
            ("timeout", ours.timeout == theirs.timeout),
            ("unique key", ours.unique == theirs.unique),
        ];
        wrongs.extend(same.iter().filter(|(_, same)| !same).map(|(field, _)| format!("another {field} came out")));
        wrongs
    }

    /// Whether anybody may have it now.
    fn check_turn(&self, at: At, delivery: &Delivery) -> Vec<String> {
        let mut wrongs = Vec::new();
        match &self.state {
            State::Ended(end) => wrongs.push(format!("given out after it was {}", ended(*end))),
            State::Held(hold) if hold.stands(at) => wrongs.push(format!(
                "given out a second time while its lease stands{}",
                hold.until.map_or_else(String::new, |until| format!(" for {:?}", until.saturating_sub(at.mono)))
            )),
            State::Held(hold) if !delivery.redelivered && !hold.forgotten => {
                wrongs.push("its last lease was lost, and nothing says that it was given out before".to_owned());
            }
            State::Held(_) => {}
            State::Waiting if self.due.is_early(at) => {
                wrongs.push(format!("given out {:?} too early", self.due.mono.saturating_sub(at.mono)));
            }
            State::Waiting => {}
        }
        wrongs
    }

    /// Nobody may begin it any more.
    pub(super) fn outlived(&self, at: At) -> bool {
        let end = self.envelope.expires_at.filter(|_| !self.ttl_lifted);
        end.is_some_and(|end| end < at.wall) && !self.blurred
    }

    /// Whether it carries the right numbers.
    fn check_counts(&self, delivery: &Delivery, exact: bool) -> Vec<String> {
        let mut wrongs = Vec::new();
        let doubted = self.doubts.iter().any(|doubt| End::of(doubt) == End::Retried);
        let expected = self.attempt..=self.attempt + u32::from(doubted);
        if !expected.contains(&delivery.attempt) {
            wrongs.push(format!("given out as attempt {}, where {} is due", delivery.attempt, self.attempt));
        }
        let lost = match &self.state {
            // A redelivered job's mark was on disk before it was answered, and all that was counted before with it.
            State::Held(hold) if hold.forgotten && hold.redelivered && hold.marked => {
                self.started_lost + 1..=self.started_lost + 1
            }
            // Where the claim is known and no more, it counts as a start.
            State::Held(hold) if hold.forgotten => self.started_kept..=self.started_lost + 1,
            // What was counted before went to the disk with the claim.
            State::Held(hold) if hold.mark_forgotten => self.started_lost..=self.started_lost + u32::from(hold.marked),
            State::Held(hold) => {
                self.started_lost + u32::from(hold.marked)..=self.started_lost + u32::from(hold.marked)
            }
            _ => self.started_lost..=self.started_lost,
        };
        if exact && !lost.contains(&delivery.started_before) {
            let counted = delivery.started_before;
            let lost = lost.end();
            wrongs.push(format!("{lost} starts of it ended in a lost lease, and {counted} are counted"));
        }
        wrongs
    }
}

pub(super) const fn ended(end: End) -> &'static str {
    match end {
        End::Completed => "completed",
        End::Dead => "dead",
        End::Cancelled => "cancelled",
        End::Expired => "expired",
        End::Retried => "retried",
        End::Released => "released",
    }
}
