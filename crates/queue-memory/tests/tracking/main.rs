//! The tracking store, rule by rule: each test fails when its rule is taken away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod claim;
mod model;
mod records;
mod settle;
mod stage;
mod sweep;
mod walk;

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, JobId, QueueName, Timestamp,
    job::{Envelope, JobError, JobKind, JobRef, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Beat, BeatOutcome, Disposition, FollowUp, ParkKey, Receipt, SettleOutcome, Settlement},
    store::{
        Claim, Fence, JobRecord, JobStore, Lookup, Scope, StageOutcome, StagedJob, TrackedSettle, TrackingStore,
        Verdict,
    },
};
use queue_memory::{MemoryTracking, TrackingLimits};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const STAGE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(10);

/// A store, and the short words for what a tracking layer asks of it.
struct Bed {
    env: Env,
    store: MemoryTracking,
}

fn queue() -> QueueName {
    QueueName::from_static("q")
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn unique(key: &str, window: Option<Duration>) -> Option<Box<Unique>> {
    Some(Box::new(Unique { key: UniqueKey::new(key).unwrap(), window }))
}

fn failed() -> JobError {
    JobError::custom("FAILED", "it failed")
}

fn refused() -> JobError {
    JobError::custom("REFUSED", "the transport does not take it")
}

fn retry(after: Duration) -> Disposition {
    Disposition::Retry { after, error: failed() }
}

fn release(after: Duration) -> Disposition {
    Disposition::Release { after, reason: queue_core::provider::ReleaseReason::Busy }
}

fn park(key: &str, at_most: Duration) -> Disposition {
    Disposition::Park { key: ParkKey(key.into()), at_most }
}

fn done() -> Disposition {
    Disposition::Complete { result: Some("result".into()) }
}

fn everything() -> Scope {
    Scope { provider: PROVIDER.into(), queues: None }
}

/// The copy that follows a failed attempt.
fn successor(envelope: &Envelope) -> Envelope {
    envelope.edit(|copy| {
        copy.generation += 1;
        copy.attempt += 1;
    })
}

const PROVIDER: &str = "rabbit";

fn claim_of(job: JobRef, envelope: &Envelope) -> Claim {
    Claim { provider: PROVIDER.into(), job, envelope: envelope.clone(), worker: "w".into(), lease: LEASE }
}

fn staged(envelope: &Envelope) -> StagedJob {
    StagedJob::new(PROVIDER, reference(envelope), envelope.clone())
}

fn reference(envelope: &Envelope) -> JobRef {
    JobRef::new(queue(), envelope.id)
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

impl Bed {
    fn new() -> Self {
        Self::bounded(TrackingLimits::default())
    }

    fn bounded(limits: TrackingLimits) -> Self {
        let env = Env::seeded(START, 1);
        Self { store: MemoryTracking::with_limits(env.clone(), limits), env }
    }

    fn job(&self) -> Envelope {
        self.job_with(|_| ())
    }

    fn job_with(&self, change: impl FnOnce(&mut queue_core::job::EnvelopeBuilder)) -> Envelope {
        let mut builder =
            Envelope::builder(JobId::fresh(&self.env), JobKind::from_static("k"), vec![0; 20], self.env.now());
        change(&mut builder);
        builder.seal()
    }

    async fn stage(&self, envelope: &Envelope) -> StageOutcome {
        self.store.stage(&[staged(envelope)], STAGE).await.remove(0)
    }

    async fn hold(&self, envelope: &Envelope, hold: Duration) -> StageOutcome {
        self.store.stage(&[staged(envelope).held(hold)], STAGE).await.remove(0)
    }

    async fn confirm(&self, envelope: &Envelope) {
        self.store.confirm(&[(reference(envelope), envelope.generation)]).await.remove(0).unwrap();
    }

    async fn unstage(&self, envelope: &Envelope) -> bool {
        self.store.unstage(&[(reference(envelope), envelope.generation)]).await.remove(0).unwrap()
    }

    async fn refuse(&self, envelope: &Envelope) {
        self.store.refuse(&[(reference(envelope), envelope.generation, refused())]).await.remove(0).unwrap();
    }

    /// A job that is published.
    async fn published(&self, envelope: &Envelope) {
        assert!(matches!(self.stage(envelope).await, StageOutcome::Staged));
        self.confirm(envelope).await;
    }

    async fn claim(&self, envelope: &Envelope) -> Verdict {
        let (job, envelope) = (reference(envelope), envelope.clone());
        self.store.claim(&[claim_of(job, &envelope)]).await.remove(0)
    }

    async fn run(&self, envelope: &Envelope) -> Fence {
        match self.claim(envelope).await {
            Verdict::Run { fence, .. } => fence,
            other => panic!("{other:?}"),
        }
    }

    async fn running(&self, envelope: &Envelope) -> Fence {
        self.published(envelope).await;
        self.run(envelope).await
    }

    async fn settle(&self, fence: Fence, disposition: Disposition) -> SettleOutcome {
        self.settle_with(fence, disposition, None, Vec::new()).await
    }

    async fn settle_with(
        &self,
        fence: Fence,
        disposition: Disposition,
        successor: Option<Envelope>,
        then: Vec<FollowUp>,
    ) -> SettleOutcome {
        let mut settlement = Settlement::new(receipt(fence), disposition);
        settlement.then = then;
        self.store.settle(&[TrackedSettle { fence, settlement, successor }], STAGE).await.remove(0).outcome
    }

    async fn beat(&self, fence: Fence, change: impl FnOnce(&mut Beat)) -> BeatOutcome {
        let mut beat = Beat::extend(receipt(fence), LEASE);
        change(&mut beat);
        self.store.heartbeat(&[(fence, beat)]).await.remove(0)
    }

    async fn due(&self) -> Vec<StagedJob> {
        self.store.due(&everything(), false, 100, STAGE).await.unwrap()
    }

    async fn due_and_dead(&self) -> Vec<StagedJob> {
        self.store.due(&everything(), true, 100, STAGE).await.unwrap()
    }

    async fn look(&self, envelope: &Envelope) -> Lookup {
        self.store.get(&[reference(envelope)]).await.remove(0).unwrap()
    }

    async fn record(&self, envelope: &Envelope) -> JobRecord {
        match self.look(envelope).await {
            Lookup::Found(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    async fn state(&self, envelope: &Envelope) -> JobState {
        self.record(envelope).await.state
    }

    /// Forgets every finished job but the dead.
    async fn evict(&self) -> usize {
        self.store.evict(&queue(), &queue_core::queue_spec::Retention::none(), 100).await.unwrap()
    }
}

fn receipt(fence: Fence) -> Receipt {
    Receipt { id: fence.id, slot: 0, epoch: fence.epoch }
}

fn provider(name: &str) -> Scope {
    Scope { provider: Arc::from(name), queues: None }
}
