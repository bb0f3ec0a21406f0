//! Finding what the transport lost.
//!
//! Nothing can be looked up there, so what is pending is published again only where nothing at all was in the queue for a while:
//! neither waiting, nor out. A copy that turns up all the same is outdated, and dropped at its claim.
//!
//! A transport whose numbers are estimates may say zero of what it cannot see: RabbitMQ does while the leader of a queue is away, and
//! never tells what is out. There nothing may run either, by the store, and one silent job is published again first. Once it is seen,
//! alone in the queue or at a worker, the transport sees what it has and has lost the others; until then they stay as they are. A
//! transport that has several lines for a queue, as RabbitMQ has for the priorities, shows by it one line alone: copies that another
//! cannot see meanwhile are outdated, which costs their place and never a second run.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{
    JobRef, QueueName, Result, lifecycle::JobState, queue_spec::Tracking, stats::QueueStats, store::Lookup,
};

use super::{core::Core, rule::Rule};

/// Since when queues were found empty, each time they were looked at.
#[derive(Debug, Default)]
pub(super) struct Emptiness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    looked: Option<Duration>,
    found: BTreeMap<QueueName, Found>,
}

/// A queue that was found empty.
#[derive(Debug)]
struct Found {
    since: Duration,
    /// The job that was published to prove it, and when.
    probe: Option<(JobRef, Duration)>,
}

impl Emptiness {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look again.
    fn is_due(&self, now: Duration, every: Duration) -> bool {
        let mut state = self.lock();
        let due = state.looked.is_none_or(|looked| now >= looked + every);
        if due {
            state.looked = Some(now);
        }
        due
    }

    /// For how long it has been found empty, now too.
    fn note(&self, queue: &QueueName, now: Duration) -> Duration {
        let mut state = self.lock();
        let found = state.found.entry(queue.clone()).or_insert(Found { since: now, probe: None });
        now.saturating_sub(found.since)
    }

    fn probe(&self, queue: &QueueName) -> Option<(JobRef, Duration)> {
        self.lock().found.get(queue).and_then(|found| found.probe.clone())
    }

    fn set_probe(&self, queue: &QueueName, probe: JobRef, now: Duration) {
        if let Some(found) = self.lock().found.get_mut(queue) {
            found.probe = Some((probe, now));
        }
    }

    /// It was not found empty, or it begins anew.
    pub(super) fn forget(&self, queue: &QueueName) {
        self.lock().found.remove(queue);
    }
}

/// Looks in an interval: a queue that held something in between is seen by one of them, or by the generation at the claim.
const LOOKS: u32 = 4;
/// After so many intervals a probe that nobody saw was lost itself, and it begins anew. Where the transport has it and cannot see it, this
/// costs another copy each time.
const PROBE_IS_LOST: u32 = 4;

impl Core {
    pub(super) async fn reconcile(&self) -> Result<()> {
        let after = self.options.reconcile_after;
        if !self.emptiness.is_due(self.now(), after / LOOKS) || !self.keeps(Rule::SilentIsRepublished) {
            return Ok(());
        }
        let tracked = self.known_queues().into_iter().filter(|spec| spec.tracking == Tracking::Full);
        let queues: Vec<QueueName> = tracked.map(|spec| spec.name.clone()).collect();
        let stats = self.transport.admin().stats(&queues).await;
        for (queue, stats) in queues.iter().zip(stats) {
            match stats {
                _ if !self.keeps(Rule::SilentOnlyWhenEmpty) => self.look_into(queue, true).await?,
                // A transport that does not answer, or cannot count, was not found empty.
                Err(_) => self.emptiness.forget(queue),
                Ok(stats) if stats.exact || !self.keeps(Rule::AnEstimateIsProven) => {
                    self.look_into(queue, is_empty(&stats)).await?;
                }
                Ok(stats) => self.look_into_estimate(queue, &stats).await?,
            }
        }
        Ok(())
    }

    async fn look_into(&self, queue: &QueueName, empty: bool) -> Result<()> {
        if !empty {
            self.emptiness.forget(queue);
        } else if self.emptiness.note(queue, self.now()) >= self.options.reconcile_after {
            self.republish(queue, self.options.sweep_batch).await?;
        }
        Ok(())
    }

    async fn look_into_estimate(&self, queue: &QueueName, stats: &QueueStats) -> Result<()> {
        if let Some((probe, sent)) = self.emptiness.probe(queue) {
            return self.look_for(queue, &probe, sent, stats).await;
        }
        if !is_empty(stats) || self.runs_something(queue).await? {
            self.emptiness.forget(queue);
            return Ok(());
        }
        if self.emptiness.note(queue, self.now()) < self.options.reconcile_after {
            return Ok(());
        }
        match self.republish(queue, 1).await?.pop() {
            Some(probe) => self.emptiness.set_probe(queue, probe, self.now()),
            // Nothing waits, or the transport does not take it.
            None => self.emptiness.forget(queue),
        }
        Ok(())
    }

    /// Whether the numbers show the job that was published to see whether they would.
    async fn look_for(&self, queue: &QueueName, probe: &JobRef, sent: Duration, stats: &QueueStats) -> Result<()> {
        let seen = stats.waiting() + stats.running;
        if seen > 1 {
            // There are others: the zero was none, or they are new.
            self.emptiness.forget(queue);
        } else if seen == 1 || !self.is_pending(probe).await? {
            self.emptiness.forget(queue);
            self.republish(queue, self.options.sweep_batch).await?;
        } else if self.now().saturating_sub(sent) >= self.options.reconcile_after * PROBE_IS_LOST {
            self.emptiness.forget(queue);
        }
        Ok(())
    }

    async fn runs_something(&self, queue: &QueueName) -> Result<bool> {
        let stats = self.ask_all(1, self.store.stats(std::slice::from_ref(queue))).await.into_iter().next();
        Ok(stats.transpose()?.is_some_and(|stats| stats.running > 0))
    }

    async fn is_pending(&self, job: &JobRef) -> Result<bool> {
        let found = self.ask_all(1, self.store.get(std::slice::from_ref(job))).await.into_iter().next();
        Ok(match found.transpose()? {
            Some(Lookup::Found(record)) => record.state == JobState::Pending,
            Some(Lookup::Gone | Lookup::NotFound) => false,
            Some(Lookup::Unknown) | None => true,
        })
    }

    /// Up to so many that are silent: those that the transport took.
    async fn republish(&self, queue: &QueueName, limit: usize) -> Result<Vec<JobRef>> {
        let scope = self.scope(Some(vec![queue.clone()]));
        let call = self.store.silent(&scope, self.options.reconcile_after, limit, self.options.stage_lease);
        let silent = self.ask(call).await?;
        if !silent.is_empty() {
            tracing::warn!(%queue, jobs = silent.len(), "the transport seems to have lost jobs: they are published again");
        }
        Ok(self.publish_promised(silent).await)
    }
}

fn is_empty(stats: &QueueStats) -> bool {
    stats.waiting() == 0 && stats.running == 0
}
