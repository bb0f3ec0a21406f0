//! Queues, one at a time.

use std::sync::Arc;

use futures_util::future::join_all;
use queue_core::{ErrorCode, QueueName, QueueSpec, Result, stats::QueueStats};

use super::QueueManager;
use crate::{DeadLetters, listing::names, routes::Member, several::merge_stats};

/// # Queues
///
/// What is asked of a queue whose jobs may be on several providers is asked of all of them, and the numbers are added up.
/// Where one of them refuses, that is the answer; what the others did stays done.
impl QueueManager {
    /// Declares a queue, with which its defaults apply to what is submitted here. Idempotent.
    ///
    /// # Errors
    /// `UNROUTABLE` where no route matches; else as [`queue_core::QueueProvider::declare`].
    pub async fn declare(&self, spec: QueueSpec) -> Result<()> {
        for member in self.inner.routes.places(&spec.name)? {
            member.scheduler.declare(spec.clone()).await?;
        }
        Ok(())
    }

    /// The queue as it was declared, here or by another process; the default where nobody did. What is submitted here and
    /// worked on here goes by it.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; `UNROUTABLE`; `UNAVAILABLE`.
    pub async fn spec(&self, queue: impl AsRef<str>) -> Result<Arc<QueueSpec>> {
        let queue = QueueName::new(queue)?;
        let default = QueueSpec::new(queue.clone());
        for member in self.inner.routes.places(&queue)? {
            let spec = member.scheduler.declared(&queue).await?;
            if *spec != default {
                return Ok(spec);
            }
        }
        Ok(Arc::new(default))
    }

    /// Removes a queue with everything in it. A queue that does not exist is no error.
    ///
    /// # Errors
    /// `CONFLICT` where `only_if_empty` and a job waits or runs.
    pub async fn drop_queue(&self, queue: impl AsRef<str>, only_if_empty: bool) -> Result<()> {
        let queue = QueueName::new(queue)?;
        self.route(&queue)?.drop_queue(&queue, only_if_empty).await
    }

    /// Every queue of every provider, by name. Of a provider whose broker cannot list its queues (RabbitMQ) they are those of
    /// the store that it is paired with, and without one those that this process declared, submitted to or works on.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn queues(&self) -> Result<Vec<QueueName>> {
        self.queues_with("").await
    }

    pub(super) async fn queues_with(&self, prefix: &str) -> Result<Vec<QueueName>> {
        let mut all = Vec::new();
        for member in self.distinct() {
            all.extend(names(&member.scheduler, prefix, usize::MAX).await?);
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Numbers of one queue.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNROUTABLE`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn stats(&self, queue: impl AsRef<str>) -> Result<QueueStats> {
        let queue = QueueName::new(queue)?;
        self.route(&queue)?.stats(&queue).await
    }

    /// Numbers of every queue of every provider, by name: of the queues that [`QueueManager::queues`] finds.
    ///
    /// # Errors
    /// `UNAVAILABLE`. [`QueueManager::statistics`] leaves out who cannot tell.
    pub async fn stats_all(&self) -> Result<Vec<QueueStats>> {
        let mut all = Vec::new();
        for stats in join_all(self.distinct().map(stats_of)).await {
            all.extend(stats?);
        }
        Ok(merged(all))
    }

    /// How many jobs wait in a queue: pending, scheduled and retrying, as `max_len` counts them.
    ///
    /// # Errors
    /// As [`QueueManager::stats`].
    pub async fn size(&self, queue: impl AsRef<str>) -> Result<u64> {
        Ok(self.stats(queue).await?.waiting())
    }

    /// Holds all workers of a queue back, within 1 s. Running jobs finish. Idempotent. Where one of several providers has not
    /// met the queue yet, it is declared there first, so that nothing that comes later slips past.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNROUTABLE`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn pause(&self, queue: impl AsRef<str>) -> Result<()> {
        self.set_paused(queue, true).await
    }

    /// Lets the workers of a paused queue go on. Idempotent.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNROUTABLE`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn resume(&self, queue: impl AsRef<str>) -> Result<()> {
        self.set_paused(queue, false).await
    }

    async fn set_paused(&self, queue: impl AsRef<str>, paused: bool) -> Result<()> {
        let queue = QueueName::new(queue)?;
        self.route(&queue)?.admin().pause(&queue, paused).await
    }

    /// Removes every waiting job of a queue and says how many. Running and finished ones stay.
    ///
    /// # Errors
    /// `UNROUTABLE`, `UNSUPPORTED`, `UNAVAILABLE`.
    pub async fn purge(&self, queue: impl AsRef<str>) -> Result<u64> {
        let queue = QueueName::new(queue)?;
        self.route(&queue)?.admin().purge(&queue).await
    }

    /// The dead jobs of a queue; of several providers, one provider's after the other's.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; `UNROUTABLE` where no route matches.
    pub fn dead_letters(&self, queue: impl AsRef<str>) -> Result<DeadLetters> {
        let queue = QueueName::new(queue)?;
        Ok(DeadLetters::new(self.route(&queue)?, queue))
    }
}

/// Numbers of all queues of a provider.
pub(super) async fn stats_of(member: &Member) -> Result<Vec<QueueStats>> {
    let names = names(&member.scheduler, "", usize::MAX).await?;
    let mut all = Vec::new();
    for stats in member.scheduler.admin().stats(&names).await {
        match stats {
            Ok(stats) => all.push(stats),
            // It was dropped in between, or was never there.
            Err(error) if error.code() == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// By name, those of one name added up.
pub(super) fn merged(mut all: Vec<QueueStats>) -> Vec<QueueStats> {
    all.sort_by(|a, b| a.queue.cmp(&b.queue));
    let mut sums: Vec<QueueStats> = Vec::with_capacity(all.len());
    for stats in all {
        match sums.pop() {
            Some(last) if last.queue == stats.queue => sums.push(merge_stats(last, stats)),
            last => sums.extend(last.into_iter().chain([stats])),
        }
    }
    sums
}
