//! Finding what the transport lost.
//!
//! Nothing can be looked up there, so what is pending is published again only where nothing at all was in the queue for a while:
//! neither waiting, nor out. A copy that turns up all the same is outdated, and dropped at its claim.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue_core::{QueueName, Result, queue_spec::Tracking, stats::QueueStats};

use super::{core::Core, rule::Rule};

/// Since when queues were found empty, each time they were looked at.
#[derive(Debug, Default)]
pub(super) struct Emptiness(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    looked: Option<Duration>,
    since: BTreeMap<QueueName, Duration>,
}

impl Emptiness {
    /// Whether it is time to look again.
    fn is_due(&self, now: Duration, every: Duration) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.looked.is_none_or(|looked| now >= looked + every);
        if due {
            state.looked = Some(now);
        }
        due
    }

    /// For how long it has been found empty.
    fn note(&self, queue: &QueueName, empty: bool, now: Duration) -> Option<Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !empty {
            state.since.remove(queue);
            return None;
        }
        Some(now.saturating_sub(*state.since.entry(queue.clone()).or_insert(now)))
    }

    pub(super) fn forget(&self, queue: &QueueName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since.remove(queue);
    }
}

/// Looks in an interval: a queue that held something in between is seen by one of them, or by the generation at the claim.
const LOOKS: u32 = 4;

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
            // A transport that does not answer, or cannot count, was not found empty.
            let empty = stats.as_ref().is_ok_and(is_empty) || !self.keeps(Rule::SilentOnlyWhenEmpty);
            let empty_for = self.emptiness.note(queue, empty, self.now());
            if empty_for.is_some_and(|empty_for| empty_for >= after) {
                self.republish(queue, after).await?;
            }
        }
        Ok(())
    }

    async fn republish(&self, queue: &QueueName, after: Duration) -> Result<()> {
        let scope = self.scope(Some(vec![queue.clone()]));
        let call = self.store.silent(&scope, after, self.options.sweep_batch, self.options.stage_lease);
        let silent = self.ask(call).await?;
        if !silent.is_empty() {
            tracing::warn!(%queue, jobs = silent.len(), "the transport has lost jobs: they are published again");
        }
        self.publish_promised(silent).await;
        Ok(())
    }
}

fn is_empty(stats: &QueueStats) -> bool {
    stats.waiting() == 0 && stats.running == 0
}
