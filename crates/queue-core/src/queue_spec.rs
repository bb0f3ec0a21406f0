//! What a queue is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    config::{defaults, millis},
    error::{Error, ErrorCode, Result},
    job::{JobKind, Priority, QueueName, RetryPolicy, SlaClass},
    provider::Durability,
};

/// A queue's declaration. Declaring the same again changes nothing; another spec under the same name is a conflict.
///
/// A queue that nobody declared has the defaults from its first use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default = "QueueSpec::unnamed")]
#[non_exhaustive]
pub struct QueueSpec {
    /// Its name.
    pub name: QueueName,
    /// Which job is claimed first.
    pub order: Order,
    /// The priority of a job that names none.
    pub default_priority: Priority,
    /// The kind given to a plain message of another client.
    pub default_kind: JobKind,
    /// The longest an attempt runs unless the job says otherwise.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// How long after its submission a job may still be started, first or again, unless it says otherwise; `None`: for ever.
    #[serde(with = "millis::option")]
    pub ttl: Option<Duration>,
    /// When failed jobs run again unless they say otherwise.
    pub retry: RetryPolicy,
    /// Started deliveries after which a job is taken for the cause of its workers' deaths.
    pub max_deliveries: u32,
    /// The largest encoded job, in bytes.
    pub max_encoded_len: usize,
    /// How many jobs may wait (pending, scheduled, retrying); `None`: the provider's own bound.
    pub max_len: Option<u64>,
    /// What `Accepted` and `Settled` promise; `None`: the strongest the provider has by default.
    pub durability: Option<Durability>,
    /// How long finished jobs are remembered.
    pub retention: Retention,
    /// Whether each job has a record.
    pub tracking: Tracking,
    /// Named parts of the queue, served in proportion to their weights while they have jobs. A job names its own in
    /// [`LimitKeys::partition`](crate::job::LimitKeys::partition); one that names none is in [`QueueSpec::DEFAULT_PARTITION`],
    /// which is there with weight 1 unless it is given another. Empty: the queue is one line.
    pub partitions: BTreeMap<Arc<str>, Partition>,
    /// The SLA class of a job that names none.
    pub sla: Option<SlaClass>,
    /// Over how many parts of the broker the queue is spread, 1 to [`QueueSpec::MAX_SHARDS`], where one part is too small for it.
    /// Order holds within each part only. `None`: the provider's own number, which is 1 unless it was told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u16>,
}

/// A part of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Partition {
    /// Its share of the claims while others have jobs too, 1 to 1,000.
    pub weight: u32,
    /// At most so many of its jobs run at a time, in all workers together.
    pub max_concurrency: Option<u32>,
}

impl Default for Partition {
    fn default() -> Self {
        Self { weight: 1, max_concurrency: None }
    }
}

/// Which pending job is claimed first, within a partition and a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// By priority, then first in, first out.
    Strict,
    /// The same, but nothing that is ready waits longer than the bound behind higher priorities.
    Aged {
        /// The longest wait.
        #[serde(with = "millis")]
        bound: Duration,
    },
}

/// Whether jobs have records that can be looked up, cancelled and awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tracking {
    /// Each job has a record.
    Full,
    /// None has; the envelope alone is enough to run it.
    Off,
}

/// How long finished jobs are remembered. Waiting jobs are never removed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// At most that long after they finished.
    #[serde(with = "millis")]
    pub age: Duration,
    /// At most so many, the oldest first.
    pub count: u64,
    /// At most so many bytes of payloads and results, the oldest first.
    pub bytes: u64,
    /// Dead jobs, which count and bytes do not touch, at most that long.
    #[serde(with = "millis")]
    pub dead: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: defaults::RETAIN_AGE,
            count: defaults::RETAIN_COUNT,
            bytes: defaults::RETAIN_BYTES,
            dead: defaults::RETAIN_DEAD,
        }
    }
}

impl Retention {
    /// Forget a job as soon as it is finished; dead ones stay as long as by default.
    #[must_use]
    pub fn none() -> Self {
        Self { age: Duration::ZERO, count: 0, bytes: 0, ..Self::default() }
    }
}

impl QueueSpec {
    /// The partition of a job that names none.
    pub const DEFAULT_PARTITION: &'static str = "default";
    /// The most partitions.
    pub const MAX_PARTITIONS: usize = 64;
    /// The most shards.
    pub const MAX_SHARDS: u16 = 64;

    /// A queue with the defaults.
    #[must_use]
    pub fn new(name: QueueName) -> Self {
        Self {
            name,
            order: Order::Strict,
            default_priority: Priority::NORMAL,
            default_kind: JobKind::from_static("message"),
            timeout: defaults::JOB_TIMEOUT,
            ttl: None,
            retry: RetryPolicy::default(),
            max_deliveries: defaults::MAX_DELIVERIES,
            max_encoded_len: defaults::MAX_PAYLOAD + crate::job::RawHeaders::MAX,
            max_len: None,
            durability: None,
            retention: Retention::default(),
            tracking: Tracking::Full,
            partitions: BTreeMap::new(),
            sla: None,
            shards: None,
        }
    }

    fn unnamed() -> Self {
        Self::new(QueueName::from_static("default"))
    }

    /// Checks the ranges that no provider can change.
    ///
    /// # Errors
    /// `VALIDATION`, naming the field.
    pub fn validate(&self) -> Result<()> {
        self.retry.validate()?;
        let refuse = |rule: &'static str| Err(Error::new(ErrorCode::Validation, rule).on(&self.name));
        if self.timeout.is_zero() {
            return refuse("timeout is longer than zero");
        }
        if self.max_deliveries == 0 {
            return refuse("max_deliveries is at least 1");
        }
        if self.max_len == Some(0) {
            return refuse("max_len is at least 1; pause the queue to keep jobs out of the workers");
        }
        if matches!(self.order, Order::Aged { bound } if bound.is_zero()) {
            return refuse("order.aged.bound is longer than zero");
        }
        if self.partitions.len() > Self::MAX_PARTITIONS {
            return refuse("a queue has at most 64 partitions");
        }
        if self.partitions.keys().any(|name| name.is_empty() || name.len() > 64) {
            return refuse("a partition's name has 1 to 64 bytes");
        }
        if self.partitions.values().any(|partition| !(1..=1_000).contains(&partition.weight)) {
            return refuse("a partition's weight is 1 to 1000");
        }
        if self.partitions.values().any(|partition| partition.max_concurrency == Some(0)) {
            return refuse("a partition's max_concurrency is at least 1");
        }
        let shards = self.shards.unwrap_or(1);
        if !(1..=Self::MAX_SHARDS).contains(&shards) {
            return refuse("shards is 1 to 64");
        }
        if self.max_len.is_some_and(|max_len| max_len < u64::from(shards)) {
            return refuse("max_len is at least the number of shards: each has its share of it");
        }
        Ok(())
    }

    /// Checks that the queue has the partition that a job names; a job that names none is in the default one.
    ///
    /// # Errors
    /// `VALIDATION`, naming the partition and those that exist.
    pub fn check_partition(&self, named: Option<&str>) -> Result<()> {
        let Some(named) = named.filter(|named| *named != Self::DEFAULT_PARTITION) else { return Ok(()) };
        if self.partitions.contains_key(named) {
            return Ok(());
        }
        let others = self.partitions.keys().map(|name| &**name).filter(|name| *name != Self::DEFAULT_PARTITION);
        let exist: Vec<&str> = std::iter::once(Self::DEFAULT_PARTITION).chain(others).collect();
        let message = format!("the queue has no partition `{named}`, only: {}", exist.join(", "));
        Err(Error::new(ErrorCode::Validation, message).at("publish").on(&self.name))
    }

    /// The first field in which `other` differs, for the message of a conflict.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let Self {
            name,
            order,
            default_priority,
            default_kind,
            timeout,
            ttl,
            retry,
            max_deliveries,
            max_encoded_len,
            max_len,
            durability,
            retention,
            tracking,
            partitions,
            sla,
            shards,
        } = self;
        let fields = [
            ("name", *name == other.name),
            ("order", *order == other.order),
            ("default_priority", *default_priority == other.default_priority),
            ("default_kind", *default_kind == other.default_kind),
            ("timeout", *timeout == other.timeout),
            ("ttl", *ttl == other.ttl),
            ("retry", *retry == other.retry),
            ("max_deliveries", *max_deliveries == other.max_deliveries),
            ("max_encoded_len", *max_encoded_len == other.max_encoded_len),
            ("max_len", *max_len == other.max_len),
            ("durability", *durability == other.durability),
            ("retention", *retention == other.retention),
            ("tracking", *tracking == other.tracking),
            ("partitions", *partitions == other.partitions),
            ("sla", *sla == other.sla),
            ("shards", *shards == other.shards),
        ];
        fields.iter().find(|(_, same)| !same).map(|(field, _)| *field)
    }

    /// The error of declaring `other` where this spec stands.
    #[must_use]
    pub fn conflict(&self, other: &Self) -> Option<Error> {
        let field = self.difference(other)?;
        let message = format!("the queue exists with another `{field}`: drop it first, or declare it as it is");
        Some(Error::new(ErrorCode::Conflict, message).at("declare").on(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_the_field() {
        let spec = QueueSpec::new(QueueName::from_static("mail"));
        assert!(spec.conflict(&spec.clone()).is_none());
        let other = QueueSpec { max_len: Some(3), ..spec.clone() };
        let error = spec.conflict(&other).unwrap();
        assert_eq!(error.code(), ErrorCode::Conflict);
        assert!(error.message().contains("`max_len`"));
    }

    #[test]
    fn a_file_names_only_what_it_changes_and_unknown_keys_are_errors() {
        let spec: QueueSpec = serde_json::from_str(r#"{"name":"mail","max_len":7}"#).unwrap();
        assert_eq!(spec, QueueSpec { max_len: Some(7), ..QueueSpec::new(QueueName::from_static("mail")) });
        // What older versions read says nothing of shards where there is one.
        assert!(!serde_json::to_string(&spec).unwrap().contains("shards"));
        let error = serde_json::from_str::<QueueSpec>(r#"{"name":"mail","max_length":7}"#).unwrap_err();
        assert!(error.to_string().contains("max_length"), "{error}");
    }

    #[test]
    fn an_unknown_partition_is_refused_by_name() {
        let mut spec = QueueSpec::new(QueueName::from_static("mail"));
        assert!(spec.check_partition(None).is_ok() && spec.check_partition(Some("default")).is_ok());
        let error = spec.check_partition(Some("bulk")).unwrap_err();
        assert!(error.message().contains("`bulk`") && error.message().ends_with("only: default"), "{error}");
        spec.partitions.insert("bulk".into(), Partition::default());
        spec.partitions.insert("default".into(), Partition::default());
        assert!(spec.check_partition(Some("bulk")).is_ok() && spec.check_partition(Some("default")).is_ok());
        let error = spec.check_partition(Some("Bulk")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Validation);
        assert!(error.message().ends_with("only: default, bulk"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        let spec = QueueSpec::new(QueueName::from_static("mail"));
        let part = |partition| BTreeMap::from([(Arc::from("bulk"), partition)]);
        for bad in [
            QueueSpec { max_len: Some(0), ..spec.clone() },
            QueueSpec { timeout: Duration::ZERO, ..spec.clone() },
            QueueSpec { max_deliveries: 0, ..spec.clone() },
            QueueSpec { order: Order::Aged { bound: Duration::ZERO }, ..spec.clone() },
            QueueSpec { shards: Some(0), ..spec.clone() },
            QueueSpec { shards: Some(65), ..spec.clone() },
            QueueSpec { shards: Some(4), max_len: Some(3), ..spec.clone() },
            QueueSpec { partitions: part(Partition { weight: 0, ..Partition::default() }), ..spec.clone() },
            QueueSpec {
                partitions: part(Partition { max_concurrency: Some(0), ..Partition::default() }),
                ..spec.clone()
            },
        ] {
            assert_eq!(bad.validate().unwrap_err().code(), ErrorCode::Validation);
        }
        assert!(spec.validate().is_ok());
    }
}
