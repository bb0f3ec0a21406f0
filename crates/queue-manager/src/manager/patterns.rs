//! Many queues at once, by a pattern of their names.

use queue_core::{
    QueueName, Result,
    provider::{Redrive, RedriveReport},
};

use super::QueueManager;
use crate::config::Pattern;

/// # Many queues
///
/// In a pattern `*` stands for anything. The answers are by name.
impl QueueManager {
    /// The queues that [`QueueManager::queues`] finds and whose names match.
    ///
    /// # Errors
    /// `VALIDATION` for what is no pattern; `UNAVAILABLE`.
    pub async fn queues_matching(&self, pattern: impl AsRef<str>) -> Result<Vec<QueueName>> {
        let pattern = Pattern::new(pattern)?;
        let queues = self.queues_with(pattern.prefix()).await?;
        Ok(queues.into_iter().filter(|queue| pattern.matches(queue.as_str())).collect())
    }

    /// Holds the workers of every matching queue back, as [`QueueManager::pause`].
    ///
    /// # Errors
    /// As [`QueueManager::queues_matching`]; then nothing is paused.
    pub async fn pause_matching(&self, pattern: impl AsRef<str>) -> Result<Vec<(QueueName, Result<()>)>> {
        self.each_matching(pattern, |queue| self.pause(queue)).await
    }

    /// Lets the workers of every matching queue go on.
    ///
    /// # Errors
    /// As [`QueueManager::queues_matching`]; then nothing is resumed.
    pub async fn resume_matching(&self, pattern: impl AsRef<str>) -> Result<Vec<(QueueName, Result<()>)>> {
        self.each_matching(pattern, |queue| self.resume(queue)).await
    }

    /// Removes every waiting job of every matching queue, and says how many of each.
    ///
    /// # Errors
    /// As [`QueueManager::queues_matching`]; then nothing is removed.
    pub async fn purge_matching(&self, pattern: impl AsRef<str>) -> Result<Vec<(QueueName, Result<u64>)>> {
        self.each_matching(pattern, |queue| self.purge(queue)).await
    }

    /// Gives dead jobs of every matching queue another life, from attempt 1, or only counts them.
    ///
    /// # Errors
    /// As [`QueueManager::queues_matching`]; then nothing is brought back.
    pub async fn redrive_matching(
        &self,
        pattern: impl AsRef<str>,
        what: &Redrive,
    ) -> Result<Vec<(QueueName, Result<RedriveReport>)>> {
        let redrive = |queue| async move { self.route(&queue)?.admin().redrive(&queue, what).await };
        self.each_matching(pattern, redrive).await
    }

    /// One after the other: these are an operator's calls, and a broker has more to do.
    async fn each_matching<T, F: Future<Output = Result<T>>>(
        &self,
        pattern: impl AsRef<str>,
        act: impl Fn(QueueName) -> F,
    ) -> Result<Vec<(QueueName, Result<T>)>> {
        let mut outcomes = Vec::new();
        for queue in self.queues_matching(pattern).await? {
            let outcome = act(queue.clone()).await;
            outcomes.push((queue, outcome));
        }
        Ok(outcomes)
    }
}
