//! Queues as a file declares them.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Priority, QueueName, QueueSpec, RetryPolicy,
    config::defaults,
    job::{Backoff, JobKind, RawHeaders, SlaClass},
    provider::Durability,
    queue_spec::{Order, Partition, Retention, Tracking},
};
use validator::ValidationError;

use super::{positive, section::section, value::Size};

section! {
    /// A queue, declared when the manager connects. `NAME` is the queue's name, quoted where it holds more than letters,
    /// digits, `-` and `_`. What is left out is the default; a queue that exists with other properties is a conflict.
    QueueConfig {
        /// Which job is claimed first: by priority and then first in, first out, or the same with a bound on how long
        /// anything waits behind higher priorities.
        order: Order = Order::Strict,
        /// The priority of a job that names none.
        default_priority: Priority = Priority::NORMAL,
        /// The kind given to a plain message of another client.
        default_kind: JobKind = JobKind::from_static("message"),
        /// The longest an attempt runs unless the job says otherwise.
        #[validate(custom(function = "positive"))]
        timeout: Duration = defaults::JOB_TIMEOUT,
        /// How long after its submission a job may still be started, first or again, unless it says otherwise.
        ttl: Option<Duration> = None,
        /// Started deliveries after which a job is taken for the cause of its workers' deaths.
        #[validate(range(min = 1, message = "at least 1"))]
        max_deliveries: u32 = defaults::MAX_DELIVERIES,
        /// The largest encoded job.
        #[validate(custom(function = "some_bytes"))]
        max_encoded_len: Size = Size((defaults::MAX_PAYLOAD + RawHeaders::MAX) as u64),
        /// How many jobs may wait; `none` leaves it to the provider.
        #[validate(range(min = 1, message = "at least 1; pause the queue to keep jobs out of the workers"))]
        max_len: Option<u64> = None,
        /// What an accepted job survives; `none` is the strongest that the provider has by default.
        durability: Option<Durability> = None,
        /// Whether each job has a record that can be looked up, cancelled and awaited.
        tracking: Tracking = Tracking::Full,
        /// The SLA class of a job that names none: how long it may take from its submission to its completion.
        sla: Option<SlaClass> = None,
        /// Over how many parts of the broker the queue is spread, where one is too small for it (Redis). Order holds within each;
        /// `none` leaves it to the provider.
        #[validate(range(min = 1, max = 64, message = "between 1 and 64"))]
        shards: Option<u32> = None,
    }
    sections {
        /// When failed jobs run again.
        retry: RetryConfig,
        /// How long finished jobs are remembered.
        retention: RetentionConfig,
    }
    named {
        /// Its partitions, by name.
        partitions: Arc<str> => PartitionConfig as "PARTITION",
    }
}

section! {
    /// A part of the queue. Jobs that name none are in `default`, which has weight 1 unless it is given another. Without any
    /// partition the queue is one line.
    PartitionConfig {
        /// Its share of the claims while other partitions have jobs too.
        #[validate(range(min = 1, max = 1_000, message = "between 1 and 1000"))]
        weight: u32 = Partition::default().weight,
        /// At most so many of its jobs run at a time, in all workers together.
        #[validate(range(min = 1, message = "at least 1"))]
        max_concurrency: Option<u32> = None,
    }
}

section! {
    /// When failed jobs run again unless they say otherwise.
    RetryConfig {
        /// How many executions in all; 1 means never again.
        #[validate(range(min = 1, message = "at least 1: it counts executions"))]
        max_attempts: u32 = RetryPolicy::default().max_attempts,
        /// How long to wait between them.
        #[validate(custom(function = "some_delays"))]
        backoff: Backoff = RetryPolicy::default().backoff,
        /// The growth of an `exp` backoff from one delay to the next.
        #[validate(custom(function = "growth"))]
        factor: f64 = 2.0,
        /// Each delay is spread evenly by this share of itself in both directions.
        #[validate(range(min = 0.0, max = 1.0, message = "a share between 0.0 and 1.0"))]
        jitter: f64 = RetryPolicy::default().jitter,
    }
}

section! {
    /// How long finished jobs are remembered. Waiting jobs are never removed by it.
    RetentionConfig {
        /// At most that long after they finished.
        age: Duration = defaults::RETAIN_AGE,
        /// At most so many, the oldest go first.
        count: u64 = defaults::RETAIN_COUNT,
        /// At most so many bytes of payloads and results, the oldest go first.
        bytes: Size = Size(defaults::RETAIN_BYTES),
        /// Dead jobs, which `count` and `bytes` do not touch, at most that long.
        dead: Duration = defaults::RETAIN_DEAD,
    }
}

impl QueueConfig {
    /// The declaration that this describes.
    #[must_use]
    pub fn spec(&self, name: QueueName) -> QueueSpec {
        let Self {
            order,
            default_priority,
            default_kind,
            timeout,
            ttl,
            max_deliveries,
            max_encoded_len,
            max_len,
            durability,
            tracking,
            sla,
            shards,
            retry,
            retention,
            partitions,
        } = self;
        let mut spec = QueueSpec::new(name);
        spec.order = *order;
        spec.default_priority = *default_priority;
        spec.default_kind = default_kind.clone();
        spec.timeout = *timeout;
        spec.ttl = *ttl;
        spec.max_deliveries = *max_deliveries;
        spec.max_encoded_len = usize::try_from(max_encoded_len.0).unwrap_or(usize::MAX);
        spec.max_len = *max_len;
        spec.durability = *durability;
        spec.tracking = *tracking;
        spec.sla = *sla;
        spec.shards = shards.map(|shards| u16::try_from(shards).unwrap_or(u16::MAX));
        let part = |(name, part): (&Arc<str>, &PartitionConfig)| {
            let PartitionConfig { weight, max_concurrency } = *part;
            (Arc::clone(name), Partition { weight, max_concurrency })
        };
        spec.partitions = partitions.iter().map(part).collect();
        spec.retry = retry.policy();
        let RetentionConfig { age, count, bytes, dead } = retention;
        spec.retention = Retention { age: *age, count: *count, bytes: bytes.0, dead: *dead };
        spec
    }
}

impl RetryConfig {
    /// The policy that this describes.
    #[must_use]
    pub fn policy(&self) -> RetryPolicy {
        let backoff = match self.backoff.clone() {
            Backoff::Exponential { base, cap, .. } => Backoff::Exponential { base, factor: self.factor, cap },
            other => other,
        };
        RetryPolicy { max_attempts: self.max_attempts, backoff, jitter: self.jitter }
    }
}

fn rule(code: &'static str, message: &'static str) -> ValidationError {
    ValidationError::new(code).with_message(message.into())
}

fn some_bytes(size: &Size) -> Result<(), ValidationError> {
    if size.0 == 0 { Err(rule("size", "more than zero bytes")) } else { Ok(()) }
}

fn growth(factor: f64) -> Result<(), ValidationError> {
    if factor.is_finite() && factor >= 1.0 { Ok(()) } else { Err(rule("factor", "at least 1")) }
}

pub(super) fn some_delays(backoff: &Backoff) -> Result<(), ValidationError> {
    match backoff {
        Backoff::Custom(delays) if delays.is_empty() || delays.len() > 64 => Err(rule("delays", "1 to 64 delays")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_default_spec() {
        let mail = QueueName::from_static("mail");
        assert_eq!(QueueConfig::default().spec(mail.clone()), QueueSpec::new(mail));
    }

    #[test]
    fn a_growth_reaches_the_policy() {
        let retry = RetryConfig { factor: 3.0, ..RetryConfig::default() };
        assert!(matches!(retry.policy().backoff, Backoff::Exponential { factor, .. } if factor == 3.0));
    }
}
