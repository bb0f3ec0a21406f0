//! What a provider can do, as data: code branches on it, and the documentation's table is printed from it.

use std::time::Duration;

/// How a provider comes by a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The broker does it.
    Native,
    /// The provider does it on the broker's means.
    Emulated {
        /// By which means.
        how: &'static str,
        /// What a user should know.
        caveat: &'static str,
    },
    /// Asking for it is refused.
    Unsupported {
        /// What to do instead.
        instead: &'static str,
    },
}

impl Support {
    /// Whether it can be asked for.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        !matches!(self, Self::Unsupported { .. })
    }
}

/// How long a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseModel {
    /// Each message has its own lease, renewed by heartbeats.
    PerMessage {
        /// The shortest lease.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// As long as the connection or assignment lives.
    Session {
        /// After that the broker takes the message, or the connection, away.
        max_hold: Duration,
    },
}

/// What a provider can do for a queue.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How long a claim holds.
    pub lease: LeaseModel,
    /// Exact priority levels, or the bands that stand for them.
    pub priority_levels: u8,
    /// Higher priorities first.
    pub priority: Support,
    /// Not before a time.
    pub delay: Support,
    /// How finely a delay is kept. It is never early.
    pub delay_granularity: Duration,
    /// The longest delay, where there is one.
    pub delay_max: Option<Duration>,
    /// Another attempt after a delay.
    pub retry: Support,
    /// Dead jobs are kept, with their error.
    pub dead_letters: Support,
    /// Publishing the same id twice is one job.
    pub dedup_by_id: Support,
    /// At most one job of a unique key.
    pub unique_keys: Support,
    /// Follow-ups and settlement in one atomic step.
    pub atomic_then: Support,
    /// `Settled` means the broker said so. Elsewhere it means sent, and repeats are answered from the connection's memory.
    pub settle_confirmed: bool,
    /// Jobs wait for a key.
    pub park: Support,
    /// Hold all workers back.
    pub pause: Support,
    /// Remove everything that waits.
    pub purge: Support,
    /// Cancel a job that waits.
    pub cancel_pending: Support,
    /// Ask a running job to stop.
    pub cancel_running: Support,
    /// Exact numbers in the statistics.
    pub exact_depth: Support,
    /// A bound on what waits.
    pub max_len: Support,
    /// One publish, many queues.
    pub topics: Support,
    /// A bound on how long a job waits behind higher priorities.
    pub aged_order: Support,
    /// Weighted parts of a queue, with a concurrency of their own.
    pub partitions: Support,
    /// One queue spread over several parts of the broker.
    pub shards: Support,
    /// Jobs of one ordering key one after the other.
    pub order_by_key: Support,
    /// Crashes while a job runs are counted.
    pub started_count: Support,
    /// The largest encoded job, in bytes.
    pub max_encoded_len: usize,
    /// The most items in one call to the broker; larger batches are split.
    pub max_batch: usize,
    /// Times are the broker's.
    pub broker_clock: bool,
    /// The durabilities on offer, the default first.
    pub durability: &'static [&'static str],
}

impl Capabilities {
    /// A provider with one band, no durability and no feature: begin here and add.
    #[must_use]
    pub const fn none(lease: LeaseModel, instead: &'static str) -> Self {
        const fn no(instead: &'static str) -> Support {
            Support::Unsupported { instead }
        }
        Self {
            lease,
            priority_levels: 1,
            priority: no(instead),
            delay: no(instead),
            delay_granularity: Duration::from_millis(1),
            delay_max: None,
            retry: no(instead),
            dead_letters: no(instead),
            dedup_by_id: no(instead),
            unique_keys: no(instead),
            atomic_then: no(instead),
            settle_confirmed: false,
            park: no(instead),
            pause: no(instead),
            purge: no(instead),
            cancel_pending: no(instead),
            cancel_running: no(instead),
            exact_depth: no(instead),
            max_len: no(instead),
            topics: no(instead),
            aged_order: no(instead),
            partitions: no(instead),
            shards: no("leave it out"),
            order_by_key: no(instead),
            started_count: no(instead),
            max_encoded_len: usize::MAX,
            max_batch: usize::MAX,
            broker_clock: false,
            durability: &[],
        }
    }

    /// The features by name, in the order of the documentation's table.
    #[must_use]
    pub fn features(&self) -> [(&'static str, Support); 20] {
        [
            ("priority", self.priority),
            ("delay", self.delay),
            ("retry", self.retry),
            ("dead letters", self.dead_letters),
            ("deduplication by id", self.dedup_by_id),
            ("unique keys", self.unique_keys),
            ("atomic follow-ups", self.atomic_then),
            ("park", self.park),
            ("pause", self.pause),
            ("purge", self.purge),
            ("cancel a waiting job", self.cancel_pending),
            ("cancel a running job", self.cancel_running),
            ("exact depth", self.exact_depth),
            ("max_len", self.max_len),
            ("topics", self.topics),
            ("aged order", self.aged_order),
            ("partitions", self.partitions),
            ("shards", self.shards),
            ("order by key", self.order_by_key),
            ("crash count", self.started_count),
        ]
    }
}
