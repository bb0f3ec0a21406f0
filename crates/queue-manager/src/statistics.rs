//! The numbers of everything at one moment.

use std::time::Duration;

use queue_core::{Result, Timestamp, stats::QueueStats, worker::WorkerStatus};
use serde::{Deserialize, Serialize};

use crate::{HealthFault, config::ProviderName};

/// The numbers of all queues of all providers, and of the workers of this process. It serialises to JSON as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Statistics {
    /// When they were read, by this process's clock.
    pub at: Timestamp,
    /// All queues together.
    pub totals: Totals,
    /// The workers of this process together.
    pub workers: WorkerTotals,
    /// Each provider, the one called `default` first, then by name.
    pub providers: Vec<ProviderStatistics>,
    /// Each queue, by name.
    pub queues: Vec<QueueStatistics>,
}

/// Jobs by their state now, and how many went through since the providers began to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Totals {
    /// Ready to be claimed, parked ones included.
    pub pending: u64,
    /// Of these, waiting for a key.
    pub parked: u64,
    /// Waiting for their time.
    pub scheduled: u64,
    /// Failed and waiting for the next attempt.
    pub retrying: u64,
    /// Leased.
    pub running: u64,
    /// Dead.
    pub dead: u64,
    /// Finished and still remembered.
    pub finished: u64,
    /// Accepted so far.
    pub submitted_total: u64,
    /// Completed so far.
    pub completed_total: u64,
    /// Attempts that failed so far.
    pub failed_total: u64,
}

/// A provider's share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProviderStatistics {
    /// What the configuration calls it.
    pub name: ProviderName,
    /// Its scheme.
    pub provider: String,
    /// How many queues it has.
    pub queues: u64,
    /// Its queues together.
    pub totals: Totals,
    /// Why there are no numbers, where there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<HealthFault>,
}

/// A queue's numbers, of all its providers together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueueStatistics {
    /// The providers that have it.
    pub providers: Vec<ProviderName>,
    /// Its numbers.
    #[serde(flatten)]
    pub stats: QueueStats,
}

/// The workers of this process together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerTotals {
    /// Workers.
    pub workers: u64,
    /// Their slots.
    pub slots: u64,
    /// Of these, running a job.
    pub busy: u64,
    /// Of these, waiting for one.
    pub idle: u64,
    /// Slots that do not answer and were replaced.
    pub unhealthy: u64,
    /// Jobs fetched and not settled.
    pub in_hand: u64,
    /// Runs that ended so far, by the workers that are there now.
    pub ended_total: u64,
    /// How long these runs took in all.
    pub run_time_total_ms: u64,
    /// How long a run took on average. Absent before the first has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub average_run_ms: Option<f64>,
}

/// How much went through in a stretch of time, per second; see [`Statistics::since`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Throughput {
    /// The stretch.
    pub over_ms: u64,
    /// Jobs accepted.
    pub submitted_per_second: f64,
    /// Jobs completed.
    pub completed_per_second: f64,
    /// Attempts that failed.
    pub failed_per_second: f64,
}

impl Statistics {
    pub(crate) fn new(
        at: Timestamp,
        providers: Vec<ProviderStatistics>,
        queues: Vec<QueueStatistics>,
        workers: &[WorkerStatus],
    ) -> Self {
        let totals = Totals::of(queues.iter().map(|queue| &queue.stats));
        Self { at, totals, workers: WorkerTotals::of(workers), providers, queues }
    }

    /// What went through since an earlier reading. A count that has shrunk meanwhile, as when a queue was dropped or a provider
    /// began anew, counts as nothing; so does everything where no time has passed.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Throughput {
        let over = self.at - earlier.at;
        let (now, then) = (&self.totals, &earlier.totals);
        let rate = |now: u64, then: u64| match over {
            Duration::ZERO => 0.0,
            over => now.saturating_sub(then) as f64 / over.as_secs_f64(),
        };
        Throughput {
            over_ms: millis(over),
            submitted_per_second: rate(now.submitted_total, then.submitted_total),
            completed_per_second: rate(now.completed_total, then.completed_total),
            failed_per_second: rate(now.failed_total, then.failed_total),
        }
    }
}

impl Totals {
    /// The sum of these queues.
    pub fn of<'a>(queues: impl IntoIterator<Item = &'a QueueStats>) -> Self {
        queues.into_iter().fold(Self::default(), |mut sum, queue| {
            sum.pending += queue.pending;
            sum.parked += queue.parked;
            sum.scheduled += queue.scheduled;
            sum.retrying += queue.retrying;
            sum.running += queue.running;
            sum.dead += queue.dead;
            sum.finished += queue.finished;
            sum.submitted_total += queue.submitted_total;
            sum.completed_total += queue.completed_total;
            sum.failed_total += queue.failed_total;
            sum
        })
    }
}

impl ProviderStatistics {
    pub(crate) fn new(name: &ProviderName, provider: &str, stats: &Result<Vec<QueueStats>>) -> Self {
        let queues = stats.as_deref().unwrap_or_default();
        Self {
            name: name.clone(),
            provider: provider.to_owned(),
            queues: queues.len() as u64,
            totals: Totals::of(queues),
            fault: stats.as_ref().err().map(HealthFault::from),
        }
    }
}

impl WorkerTotals {
    fn of(workers: &[WorkerStatus]) -> Self {
        let mut sum = Self { workers: workers.len() as u64, ..Self::default() };
        let mut run_time = Duration::ZERO;
        for pool in workers.iter().flat_map(|worker| &worker.pools) {
            sum.slots += pool.slots as u64;
            sum.busy += pool.busy as u64;
            sum.idle += pool.slots.saturating_sub(pool.busy) as u64;
            sum.unhealthy += pool.unhealthy as u64;
            sum.in_hand += pool.in_hand as u64;
            sum.ended_total += pool.ended_total;
            run_time += pool.run_time_total;
        }
        sum.run_time_total_ms = millis(run_time);
        sum.average_run_ms = (sum.ended_total > 0).then(|| run_time.as_secs_f64() * 1_000.0 / sum.ended_total as f64);
        sum
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64, completed: u64) -> Statistics {
        let mut stats = QueueStats::empty(queue_core::QueueName::from_static("q"));
        stats.completed_total = completed;
        let queue = QueueStatistics { providers: vec![], stats };
        Statistics::new(Timestamp::from_millis(millis), vec![], vec![queue], &[])
    }

    #[test]
    fn throughput_is_what_went_through_in_between() {
        let (early, late) = (at(1_000, 10), at(3_500, 20));
        let through = late.since(&early);
        assert_eq!((through.over_ms, through.completed_per_second, through.submitted_per_second), (2_500, 4.0, 0.0));
        assert_eq!(early.since(&early).completed_per_second, 0.0, "no time has passed");
        assert_eq!(at(9_000, 3).since(&late).completed_per_second, 0.0, "a queue was dropped");
    }
}
