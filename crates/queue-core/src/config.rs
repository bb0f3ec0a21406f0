//! Numbers that somebody may want to change, in one place.

/// The defaults, each with its reason.
pub mod defaults {
    use std::time::Duration;

    /// The longest an attempt runs unless the job or its queue says otherwise.
    pub const JOB_TIMEOUT: Duration = Duration::from_secs(60);
    /// How long a claim holds without a heartbeat.
    pub const LEASE: Duration = Duration::from_secs(30);
    /// A lease is renewed three times in its life, so that two lost heartbeats do not lose a job.
    pub const HEARTBEATS_PER_LEASE: u32 = 3;
    /// How often the maintenance task runs where nothing asks for it earlier.
    pub const MAINTENANCE_TICK: Duration = Duration::from_secs(1);
    /// How long the maintenance leader leads without renewing.
    pub const LEADER_TERM: Duration = Duration::from_secs(15);
    /// How long a staged job is left to its publisher before the sweep publishes it.
    pub const STAGE_LEASE: Duration = Duration::from_secs(30);
    /// The completer settles so many at once at most.
    pub const SETTLE_BATCH: usize = 100;
    /// Started deliveries after which a job is taken for the cause of its workers' deaths.
    pub const MAX_DELIVERIES: u32 = 10;
    /// Finished jobs are kept that long,
    pub const RETAIN_AGE: Duration = Duration::from_secs(24 * 3600);
    /// at most so many,
    pub const RETAIN_COUNT: u64 = 10_000;
    /// and at most so many bytes.
    pub const RETAIN_BYTES: u64 = 64 << 20;
    /// Dead jobs are kept that long.
    pub const RETAIN_DEAD: Duration = Duration::from_secs(7 * 24 * 3600);
    /// The largest payload.
    pub const MAX_PAYLOAD: usize = 1 << 20;
    /// How long a publish may take.
    pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);
    /// How long a graceful stop waits for running jobs.
    pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
    /// How long a cancelled handler may take to stop by itself.
    pub const CANCEL_GRACE: Duration = Duration::from_secs(5);
    /// A slot that blocks its thread is reported within that time.
    pub const HEALTH_INTERVAL: Duration = Duration::from_secs(60);
    /// A slot that comes to no await for so long does not answer; a fetch that fails for so long brings nothing.
    pub const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
    /// How often a queue is looked at for more or fewer slots.
    pub const SCALE_INTERVAL: Duration = Duration::from_secs(5);
    /// No slot is removed for so long after some were added.
    pub const SCALE_COOLDOWN: Duration = Duration::from_secs(60);
    /// A job that waits longer has too few slots: what the second of the SLA classes allows.
    pub const SCALE_UP_WAIT: Duration = Duration::from_secs(10);
    /// How long a job written by a newer version is left to a newer worker.
    pub const NEWER_FORMAT_DELAY: Duration = Duration::from_secs(60);
    /// How long a job stays parked under a limit's key if nobody lets it go: a safety net under the doorkeepers, who do.
    pub const PARK_AT_MOST: Duration = Duration::from_secs(3_600);
    /// How often a worker looks for jobs that others left parked.
    pub const ADOPTION_TICK: Duration = Duration::from_secs(30);
    /// How often a worker asks whether there is room under a key that other processes hold too, while jobs wait for it and
    /// nothing says when there will be.
    pub const SHARED_LIMIT_TICK: Duration = Duration::from_secs(1);
    /// Where jobs cannot be parked: how soon one that a limit held comes to ask again,
    pub const LIMITED_DELAY_MIN: Duration = Duration::from_millis(50);
    /// and how late.
    pub const LIMITED_DELAY_MAX: Duration = Duration::from_secs(60);
    /// How often an awaited result is read again, events or not.
    pub const RESULT_POLL: Duration = Duration::from_secs(1);
    /// How many jobs a queue holds in an in-process provider unless its spec says otherwise.
    pub const MEMORY_MAX_LEN: u64 = 1_000_000;
}

/// Durations as whole milliseconds, for serde.
pub mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    fn whole(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes milliseconds.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(whole(*duration))
    }

    /// Reads milliseconds.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }

    /// For `Option<Duration>`.
    pub mod option {
        use super::{Deserialize, Deserializer, Duration, Serializer, whole};

        /// Writes milliseconds or null.
        ///
        /// # Errors
        /// The serializer's.
        #[allow(clippy::ref_option, reason = "the shape serde calls")]
        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => serializer.serialize_some(&whole(*duration)),
                None => serializer.serialize_none(),
            }
        }

        /// Reads milliseconds or null.
        ///
        /// # Errors
        /// The deserializer's.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
        }
    }

    /// For `Vec<Duration>`.
    pub mod list {
        use super::{Deserialize, Deserializer, Duration, Serializer, whole};

        /// Writes a list of milliseconds.
        ///
        /// # Errors
        /// The serializer's.
        pub fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(durations.iter().copied().map(whole))
        }

        /// Reads a list of milliseconds.
        ///
        /// # Errors
        /// The deserializer's.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
            Ok(Vec::<u64>::deserialize(deserializer)?.into_iter().map(Duration::from_millis).collect())
        }
    }
}
