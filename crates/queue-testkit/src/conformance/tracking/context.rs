//! What a case of the tracking store works with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Env, Envelope, JobId, JobRef, QueueName,
    job::{JobKind, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Beat, BeatOutcome, Disposition, Receipt, SettleOutcome, Settlement},
    store::{
        Claim, Fence, JobRecord, Lookup, Scope, StageOutcome, StagedJob, TrackedOutcome, TrackedSettle, TrackingStore,
        Verdict,
    },
};

use crate::{
    conformance::{Failed, Outcome},
    harness::StoreUnderTest,
};

/// How long a publisher has before the sweep takes over.
pub(super) const STAGE: Duration = Duration::from_secs(2);
/// How long a claim holds.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// Added to a time before what it ends must have happened.
pub(super) const SLACK: Duration = Duration::from_millis(300);

/// The store under test, seen from one case.
#[derive(Debug)]
pub struct StoreCtx {
    pub(super) store: Arc<dyn TrackingStore>,
    env: Env,
    named: AtomicU32,
}

impl StoreCtx {
    pub(super) fn new(tested: &StoreUnderTest) -> Self {
        Self { store: Arc::clone(&tested.store), env: tested.env.clone(), named: AtomicU32::new(0) }
    }

    /// A queue that no other case uses.
    #[allow(clippy::expect_used, reason = "the suite's own names")]
    pub(super) fn queue(&self) -> QueueName {
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        let random = self.env.random.next_u64();
        QueueName::new(format!("track.{random:016x}.{number}")).expect("the suite's names are valid")
    }

    pub(super) fn now(&self) -> queue_core::Timestamp {
        self.env.now()
    }

    /// A job that is stamped with the store.
    pub(super) fn job(&self, text: &str) -> Envelope {
        let id = JobId::fresh(&self.env);
        let mut job = Envelope::builder(id, JobKind::from_static("test.job"), text.as_bytes().to_vec(), self.now());
        job.store = Some(self.store.id());
        job.seal()
    }

    #[allow(clippy::expect_used, reason = "the suite's own keys")]
    pub(super) fn unique(&self, text: &str, key: &str) -> Envelope {
        let key = UniqueKey::new(key).expect("1 to 256 bytes");
        self.job(text).edit(|job| job.unique = Some(Box::new(Unique { key, window: None })))
    }

    pub(super) async fn offer(&self, queue: &QueueName, job: &Envelope) -> Outcome<StageOutcome> {
        let staged = staged(queue, job);
        only(self.store.stage(&[staged], STAGE).await)
    }

    /// Staged, which it must be.
    pub(super) async fn stage(&self, queue: &QueueName, job: &Envelope) -> Outcome<JobRef> {
        match self.offer(queue, job).await? {
            StageOutcome::Staged => Ok(JobRef::new(queue.clone(), job.id)),
            other => Err(Failed(format!("a fresh job was answered {other:?}"))),
        }
    }

    pub(super) async fn confirm(&self, job: &JobRef, generation: u32) -> Outcome {
        only(self.store.confirm(&[(job.clone(), generation)]).await)?.map_err(Failed::from)
    }

    /// Staged and confirmed.
    pub(super) async fn publish(&self, queue: &QueueName, job: &Envelope) -> Outcome<JobRef> {
        let staged = self.stage(queue, job).await?;
        self.confirm(&staged, job.generation).await?;
        Ok(staged)
    }

    pub(super) async fn judge(&self, queue: &QueueName, copy: &Envelope, worker: &str) -> Outcome<Verdict> {
        let job = JobRef::new(queue.clone(), copy.id);
        let (provider, envelope) = (PROVIDER.into(), copy.clone());
        let claim = Claim { provider, job, envelope, worker: worker.into(), lease: LEASE };
        only(self.store.claim(&[claim]).await)
    }

    /// Claimed, which it must be able to be.
    pub(super) async fn run(&self, queue: &QueueName, copy: &Envelope) -> Outcome<(Fence, u32)> {
        match self.judge(queue, copy, "worker").await? {
            Verdict::Run { fence, attempt, .. } => Ok((fence, attempt)),
            other => Err(Failed(format!("a copy that may run was judged {other:?}"))),
        }
    }

    /// Published and claimed.
    pub(super) async fn running(&self, text: &str) -> Outcome<(JobRef, Envelope, Fence)> {
        let (queue, job) = (self.queue(), self.job(text));
        let published = self.publish(&queue, &job).await?;
        let (fence, _) = self.run(&queue, &job).await?;
        Ok((published, job, fence))
    }

    pub(super) async fn settle(&self, fence: Fence, disposition: Disposition) -> Outcome<SettleOutcome> {
        self.settle_with(tracked(fence, disposition)).await
    }

    /// With what is left to publish.
    pub(super) async fn settle_whole(&self, settle: TrackedSettle) -> Outcome<TrackedOutcome> {
        only(self.store.settle(&[settle], STAGE).await)
    }

    pub(super) async fn settle_with(&self, settle: TrackedSettle) -> Outcome<SettleOutcome> {
        Ok(self.settle_whole(settle).await?.outcome)
    }

    pub(super) async fn beat(&self, fence: Fence, change: impl FnOnce(&mut Beat)) -> Outcome<BeatOutcome> {
        let mut beat = Beat::extend(receipt(fence), LEASE);
        change(&mut beat);
        only(self.store.heartbeat(&[(fence, beat)]).await)
    }

    /// What the sweep must publish of this queue.
    pub(super) async fn due(&self, queue: &QueueName, dead_leases: bool) -> Outcome<Vec<StagedJob>> {
        let scope = scope(queue);
        Ok(self.store.due(&scope, dead_leases, 100, STAGE).await?)
    }

    pub(super) async fn record(&self, job: &JobRef) -> Outcome<JobRecord> {
        match only(self.store.get(std::slice::from_ref(job)).await)?? {
            Lookup::Found(record) => Ok(*record),
            other => Err(Failed(format!("no record of {job}: {other:?}"))),
        }
    }

    pub(super) async fn state(&self, job: &JobRef) -> Outcome<JobState> {
        Ok(self.record(job).await?.state)
    }
}

/// What the suite's transport is called.
const PROVIDER: &str = "suite";

pub(super) fn staged(queue: &QueueName, envelope: &Envelope) -> StagedJob {
    StagedJob::new(PROVIDER, JobRef::new(queue.clone(), envelope.id), envelope.clone())
}

pub(super) fn scope(queue: &QueueName) -> Scope {
    Scope { provider: PROVIDER.into(), queues: Some(vec![queue.clone()]) }
}

/// The store goes by the fence; the receipt beside it is the transport's.
pub(super) fn receipt(fence: Fence) -> Receipt {
    Receipt { id: fence.id, slot: 0, epoch: fence.epoch }
}

pub(super) fn tracked(fence: Fence, disposition: Disposition) -> TrackedSettle {
    TrackedSettle { fence, settlement: Settlement::new(receipt(fence), disposition), successor: None }
}

/// The one answer to a batch of one.
pub(super) fn only<T>(mut answers: Vec<T>) -> Outcome<T> {
    match (answers.len(), answers.pop()) {
        (1, Some(answer)) => Ok(answer),
        (n, _) => Err(Failed(format!("{n} answers for a batch of one"))),
    }
}
