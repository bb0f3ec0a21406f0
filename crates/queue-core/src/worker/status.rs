//! How a worker is doing, for health, statistics and explanations.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::pool::Pool;
use crate::job::{JobKind, QueueName};

/// A running worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its queues.
    pub pools: Vec<PoolStatus>,
}

/// One queue's slots in a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// The queue.
    pub queue: QueueName,
    /// Whether jobs come in: a fetch waits or has just ended well, and there are slots that answer.
    pub consuming: bool,
    /// How long ago the last fetch ended well, or a waiting one began.
    pub fetched_ago: Duration,
    /// Slots.
    pub slots: usize,
    /// Of these, running a job.
    pub busy: usize,
    /// Slots that do not answer and were replaced, and are not back yet.
    pub unhealthy: usize,
    /// Jobs in hand: fetched and not settled, running ones included.
    pub in_hand: usize,
    /// Runs that ended so far.
    pub ended_total: u64,
    /// Time that these runs took in all.
    pub run_time_total: Duration,
    /// The kinds it has handlers for.
    pub kinds: Vec<JobKind>,
    /// Whether it runs jobs of every kind.
    pub any_kind: bool,
}

impl PoolStatus {
    /// Whether it runs jobs of this kind.
    #[must_use]
    pub fn takes(&self, kind: &JobKind) -> bool {
        self.any_kind || self.kinds.contains(kind)
    }
}

/// The pools that work for a scheduler, for as long as they live.
#[derive(Debug, Default)]
pub(crate) struct Roll(Mutex<Vec<Weak<Pool>>>);

impl Roll {
    pub(crate) fn enter(&self, pool: &Arc<Pool>) {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// Pools of one name are one worker.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        let pools: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        let mut workers: Vec<WorkerStatus> = Vec::new();
        for pool in pools.iter().filter(|pool| !pool.is_stopping()) {
            let name = &pool.setup.options.worker;
            match workers.iter_mut().find(|worker| worker.name == *name) {
                Some(worker) => worker.pools.push(pool.status()),
                None => workers.push(WorkerStatus { name: Arc::clone(name), pools: vec![pool.status()] }),
            }
        }
        workers
    }
}
