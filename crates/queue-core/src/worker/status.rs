//! How a worker is doing, for health, statistics and explanations.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::pool::Pool;
use crate::job::{JobId, JobKind, QueueName};

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
    /// Whether it does its work: a fetch waits, or ended well, or there is no room for more; there are slots that answer, and
    /// the runtime they are on does. `false` where fetches have failed for longer than the
    /// [sign of life](super::WorkerBuilder::sign_of_life), where one does not return so long after it should have, and where
    /// handlers block all threads.
    pub consuming: bool,
    /// How long ago the last fetch ended well, or a waiting one began.
    pub fetched_ago: Duration,
    /// Slots that answer.
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
    /// How long a run took on average; zero before the first.
    #[must_use]
    pub fn run_time_average(&self) -> Duration {
        let nanos = self.run_time_total.as_nanos().checked_div(self.ended_total.into()).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether it runs jobs of this kind.
    #[must_use]
    pub fn takes(&self, kind: &JobKind) -> bool {
        self.any_kind || self.kinds.contains(kind)
    }
}

/// A job that is being run, or was and is not yet [observed](super::WorkerBuilder::observe).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AtWork {
    /// Which.
    pub job: JobId,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// How long ago its slot took it.
    pub for_so_long: Duration,
    /// How long its slot had it, where it has it no more: it is being settled, or about to be told of.
    pub ended_after: Option<Duration>,
}

impl AtWork {
    /// A job that runs, for tests of what is made of it.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(job: JobId, attempt: u32, for_so_long: Duration) -> Self {
        Self { job, attempt, for_so_long, ended_after: None }
    }
}

/// What has run so far. Written by the completer, once a batch.
#[derive(Debug, Default)]
pub(super) struct Totals {
    ended: AtomicU64,
    run_nanos: AtomicU64,
}

impl Totals {
    pub(super) fn add(&self, runs: u64, time: Duration) {
        self.ended.fetch_add(runs, Ordering::Relaxed);
        self.run_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> (u64, Duration) {
        (self.ended.load(Ordering::Relaxed), Duration::from_nanos(self.run_nanos.load(Ordering::Relaxed)))
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

    fn pools(&self) -> Vec<Arc<Pool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    /// What runs, or ran and is not told of, also in pools that stop.
    pub(crate) fn at_work(&self) -> Vec<AtWork> {
        self.pools().iter().flat_map(|pool| pool.at_work()).collect()
    }

    /// Pools of one name are one worker.
    pub(crate) fn workers(&self) -> Vec<WorkerStatus> {
        let pools = self.pools();
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
