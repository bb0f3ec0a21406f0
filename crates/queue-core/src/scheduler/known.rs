//! The queues that this process knows: for brokers that cannot list theirs.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

use super::JobScheduler;
use crate::{error::Result, job::QueueName};

/// Queues that were used without anybody having declared them.
#[derive(Debug, Default)]
pub(super) struct Used(RwLock<BTreeSet<QueueName>>);

/// More than so many are not noted.
const MOST: usize = 10_000;

impl Used {
    pub(super) fn note(&self, queue: &QueueName) {
        // Nearly always it is known already.
        if self.0.read().unwrap_or_else(PoisonError::into_inner).contains(queue) {
            return;
        }
        let mut used = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if used.len() < MOST {
            used.insert(queue.clone());
        }
    }

    fn forget(&self, queue: &QueueName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }
}

impl JobScheduler {
    /// The queues that this process declared, submitted to or works on, by name: what is left to go by where the provider
    /// cannot list its queues. Asks nothing. At most 10,000 that nobody declared are among them.
    #[must_use]
    pub fn known_queues(&self) -> Vec<QueueName> {
        let specs = self.inner.specs.read().unwrap_or_else(PoisonError::into_inner);
        let mut known: BTreeSet<QueueName> = specs.keys().cloned().collect();
        drop(specs);
        known.extend(self.inner.used.0.read().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        known.extend(self.workers().into_iter().flat_map(|worker| worker.pools).map(|pool| pool.queue));
        known.into_iter().collect()
    }

    /// Removes a queue with everything in it, and what is known of it here. A queue that does not exist is no error.
    ///
    /// # Errors
    /// As [`crate::QueueProvider::drop_queue`].
    pub async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.inner.provider.drop_queue(queue, only_if_empty).await?;
        self.inner.specs.write().unwrap_or_else(PoisonError::into_inner).remove(queue);
        self.inner.used.forget(queue);
        Ok(())
    }
}
