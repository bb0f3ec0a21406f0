//! The jobs of the soak: what each does follows from its number and the seed.

use std::time::Duration;

use queue_core::{
    Failure, Job, JobContext, JobId, Priority, QueueName, QueueSpec, RetryPolicy,
    job::JobKind,
    provider::Durability,
    queue_spec::Retention,
    scheduler::{JobOptions, NewJob, Start},
};
use serde::{Deserialize, Serialize};
use validator::Validate;

/// A worker that dies holds its jobs so long.
pub(crate) const LEASE: Duration = Duration::from_secs(6);
/// Longer than a lease, so that it must be renewed.
const LONG: Duration = Duration::from_secs(8);
const RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Plan {
    Completes,
    /// Its first attempt fails.
    FailsOnce,
    Dies,
}

#[derive(Debug, Serialize, Deserialize, Validate)]
pub(crate) struct SoakJob {
    pub(crate) millis: u64,
    pub(crate) plan: Plan,
    /// 200 bytes and more, as of a job of everyday life.
    pub(crate) padding: String,
}

impl Job for SoakJob {
    const KIND: &'static str = "soak";
    const QUEUE: &'static str = "soak";
    type Output = ();
}

/// Uniform numbers from a seed and a number, without a state.
pub(crate) fn dice(seed: u64, number: u64, what: u64) -> u64 {
    let mut z = seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ what.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the jobs of a phase have in common.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) seed: u64,
    pub(crate) queue: QueueName,
    /// The mean time of a run.
    pub(crate) run: Duration,
}

impl Load {
    /// One id for each number, so that publishing it twice is one job.
    pub(crate) fn id(&self, number: u64) -> JobId {
        JobId::derive(format!("{}/{}", self.queue, self.seed).as_bytes(), number)
    }

    pub(crate) fn plan(&self, number: u64) -> Plan {
        match dice(self.seed, number, 1) % 1_000 {
            0..20 => Plan::FailsOnce,
            20..25 => Plan::Dies,
            _ => Plan::Completes,
        }
    }

    pub(crate) fn job(&self, number: u64) -> NewJob {
        let chance = dice(self.seed, number, 2) % 1_000;
        let mean = u64::try_from(self.run.as_millis()).unwrap_or(u64::MAX).max(1);
        let long = u64::try_from(LONG.as_millis()).unwrap_or(u64::MAX);
        let millis = if chance == 0 { long } else { dice(self.seed, number, 3) % (2 * mean + 1) };
        let job = SoakJob { millis, plan: self.plan(number), padding: "x".repeat(150) };
        let payload = serde_json::to_vec(&job).unwrap();
        let mut options = JobOptions::default();
        options.id = Some(self.id(number));
        options.priority = Priority::new(u8::try_from(dice(self.seed, number, 4) % 15 + 1).unwrap_or(7)).ok();
        if chance < 50 {
            options.start = Start::After(Duration::from_millis(dice(self.seed, number, 5) % 1_000));
        }
        options.retry = Some(RetryPolicy::fixed(3, RETRY));
        NewJob { kind: JobKind::from_static(SoakJob::KIND), payload: payload.into(), options }
    }
}

/// Everything that finished is remembered, for the checker looks it up.
pub(crate) fn spec(queue: QueueName, durability: Option<Durability>) -> QueueSpec {
    let mut spec = QueueSpec::new(queue);
    spec.retention = Retention { count: u64::from(u32::MAX), bytes: 1 << 40, ..Retention::default() };
    spec.max_deliveries = 100;
    spec.durability = durability;
    spec
}

/// What a worker does with a job.
pub(crate) async fn run(job: SoakJob, context: JobContext) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    match job.plan {
        Plan::Completes => Ok(()),
        Plan::FailsOnce if context.attempt() == 1 => Err(Failure::retry("as planned")),
        Plan::FailsOnce => Ok(()),
        Plan::Dies => Err(Failure::never("as planned")),
    }
}
