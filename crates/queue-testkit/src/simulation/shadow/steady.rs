//! What must hold where things go wrong in one way only: the store alone is away, or a queue is cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use queue_core::{
    Envelope, JobId, QueueName,
    provider::{Delivery, Disposition, PublishOutcome},
};

use super::{At, Shadow, State, settle};
use crate::checker::End;

/// Since the store was last away, by life.
#[derive(Debug, Default)]
pub(super) struct Away {
    since: Option<Duration>,
    /// Fetches that brought something which nobody could claim.
    in_vain: BTreeMap<u64, u32>,
    /// Publishes of which nothing was known.
    unknown: BTreeMap<u64, u32>,
}

/// A process has to find out, and an answer that was on its way may deceive it.
const FETCHES_TO_FIND_OUT: u32 = 4;
const PUBLISHES_TO_FIND_OUT: u32 = 2;

impl Shadow {
    /// The store alone cannot be reached from now on, or can be again.
    pub(in crate::simulation) fn store_is_away(&mut self, at: At, away: bool) {
        self.away = Away { since: away.then_some(at.mono), ..Away::default() };
        if !away {
            self.reachable_again(at);
        }
    }

    /// A layer got something from its transport.
    pub(in crate::simulation) fn copies_fetched(&mut self, life: u64) {
        if !self.promises.steady || self.away.since.is_none() {
            return;
        }
        let fetched = self.away.in_vain.entry(life).or_default();
        *fetched += 1;
        let fetched = *fetched;
        if fetched == FETCHES_TO_FIND_OUT + 1 {
            self.wrong(format!("{fetched} fetches of a process brought jobs while the store was away"));
        }
    }

    /// A layer published copies of jobs.
    pub(in crate::simulation) fn copies_published<'a>(&mut self, batch: impl Iterator<Item = &'a Envelope>) {
        if !self.promises.thrifty {
            return;
        }
        for copy in batch {
            if !self.copied.insert((copy.id, copy.attempt)) {
                let text = format!("attempt {} was published twice, and nothing had gone wrong", copy.attempt);
                self.wrong_with(copy.id, text);
            }
        }
    }

    /// A publish was answered. What needs no store goes on without it.
    pub(in crate::simulation) fn published_without_store(
        &mut self,
        began: Duration,
        life: u64,
        batch: &[Envelope],
        outcomes: &[PublishOutcome],
    ) {
        if !self.promises.steady || self.away.since.is_none_or(|since| began < since) {
            return;
        }
        let needs_store = |job: &Envelope| job.unique.is_some() || job.not_before.is_some();
        let unknown = |(job, outcome): (&Envelope, &PublishOutcome)| {
            matches!(outcome, PublishOutcome::Unknown(_)) && !needs_store(job)
        };
        if !batch.iter().zip(outcomes).any(unknown) {
            return;
        }
        let times = self.away.unknown.entry(life).or_default();
        *times += 1;
        let times = *times;
        if times == PUBLISHES_TO_FIND_OUT + 1 {
            self.wrong(format!("{times} publishes of a process are not known to have worked while the store is away"));
        }
    }

    /// Whether what a process asked for, and could, is forgotten: its job is given out as if it had not.
    pub(super) fn forgotten(&self, id: JobId, delivery: &Delivery) -> Option<&'static str> {
        let job = self.jobs.get(&id).filter(|_| self.promises.steady)?;
        let State::Held(hold) = &job.state else { return None };
        let asked = *self.asked.get(&settle::key(&hold.receipt))?;
        let lives = self.consumers.get(&hold.consumer).is_some_and(|consumer| !consumer.gone);
        if !lives || hold.until.is_some_and(|until| until < asked) || job.doubts.is_empty() {
            return None;
        }
        let all = |is: fn(&Disposition) -> bool| job.doubts.iter().all(is);
        if all(|doubt| End::of(doubt).is_final()) {
            return Some("given out although it was settled for good while its lease stood");
        }
        let retried = all(|doubt| matches!(doubt, Disposition::Retry { .. }));
        (retried && delivery.attempt == job.attempt)
            .then_some("given out as if its last attempt, which was settled while its lease stood, had not been")
    }

    /// Nothing finds its way to the queue any more: what waits for that ends, and nobody says when.
    pub(in crate::simulation) fn cut_off(&mut self, queue: &QueueName) {
        self.cut.insert(queue.clone());
    }

    pub(super) fn is_cut(&self, queue: &QueueName) -> bool {
        self.cut.contains(queue)
    }
}

pub(super) type Cut = BTreeSet<QueueName>;
pub(super) type Copied = BTreeSet<(JobId, u32)>;
