//! Faults of a job store, on demand.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use queue_core::{
    Error, ErrorCode, JobStore, Result,
    job::{JobError, JobRef, QueueName, StoreId},
    limit::Limiter,
    provider::{Beat, BeatOutcome, Cancel, Cursor, DeadFilter, DeadJob, Page, ParkKey, SettleOutcome},
    queue_spec::Retention,
    stats::QueueStats,
    store::{
        CancelOutcome, Claim, Fence, JobQuery, JobRecord, Leadership, Lookup, QueueControl, RedriveOutcome, Scope,
        StageOutcome, StagedJob, StoreScope, TrackedOutcome, TrackedSettle, TrackingStore, Verdict, Watch, Watched,
    },
};

/// A [`TrackingStore`] whose answers may fail to come: because it is away and wrote nothing ([`FaultyStore::outage`]), or
/// because it wrote and the reply was lost ([`FaultyStore::lose_replies`]). Either way the caller is told the same, `Unknown`
/// or `UNAVAILABLE`, as over a real network. Without a fault it changes nothing.
///
/// It wraps a store, so that a test reads the truth from the store inside. A clone shares the faults.
///
/// ```
/// use queue_core::{JobStore, QueueName};
/// use queue_memory::MemoryTracking;
/// use queue_testkit::faults::FaultyStore;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let truth = MemoryTracking::new();
/// let store = FaultyStore::new(truth.clone());
/// store.outage(true);
/// assert!(store.queue_control(&QueueName::from_static("mail")).await.is_err());
/// store.outage(false);
/// assert!(store.queue_control(&QueueName::from_static("mail")).await.is_ok());
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn TrackingStore>,
    plan: Arc<Mutex<Plan>>,
}

/// The calls of a store by name, one for each method that asks it something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the method of its name")]
#[non_exhaustive]
pub enum StoreCall {
    Get,
    List,
    Watch,
    Cancel,
    QueueControl,
    SetQueueControl,
    Evict,
    Lead,
    Stage,
    Confirm,
    Unstage,
    Refuse,
    Claim,
    Heartbeat,
    Settle,
    Unpark,
    Due,
    Silent,
    Queues,
    Parked,
    Dead,
    Redrive,
    ForgetDead,
    Stats,
    Position,
    Purge,
    DropQueue,
}

#[derive(Debug, Default)]
struct Plan {
    away: bool,
    lost_of_any: usize,
    lost: BTreeMap<StoreCall, usize>,
    calls: BTreeMap<StoreCall, usize>,
}

/// What a call meets.
enum Fate {
    Answer,
    NoWrite,
    NoReply,
}

impl FaultyStore {
    /// A store without faults yet.
    pub fn new(inner: impl TrackingStore) -> Self {
        Self { inner: Arc::new(inner), plan: Arc::default() }
    }

    /// While it is on, nothing is read or written, and every answer is `Unknown` or `UNAVAILABLE`.
    pub fn outage(&self, on: bool) {
        self.with(|plan| plan.away = on);
    }

    /// The next `n` calls, whichever they are, are carried out and their replies are lost.
    pub fn lose_replies(&self, n: usize) {
        self.with(|plan| plan.lost_of_any = n);
    }

    /// The next `n` calls of this kind are carried out and their replies are lost.
    pub fn lose_replies_to(&self, call: StoreCall, n: usize) {
        self.with(|plan| plan.lost.insert(call, n));
    }

    /// How many calls of this kind were made, answered or not.
    #[must_use]
    pub fn calls(&self, call: StoreCall) -> usize {
        self.with(|plan| plan.calls.get(&call).copied().unwrap_or(0))
    }

    fn with<R>(&self, act: impl FnOnce(&mut Plan) -> R) -> R {
        act(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn meet(&self, call: StoreCall) -> Fate {
        self.with(|plan| {
            *plan.calls.entry(call).or_default() += 1;
            if plan.away {
                return Fate::NoWrite;
            }
            let lost = match plan.lost.get_mut(&call) {
                Some(left) if *left > 0 => left,
                _ => &mut plan.lost_of_any,
            };
            let is_lost = *lost > 0;
            *lost = lost.saturating_sub(1);
            if is_lost { Fate::NoReply } else { Fate::Answer }
        })
    }

    async fn one<T>(&self, call: StoreCall, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.meet(call) {
            Fate::Answer => work.await,
            Fate::NoWrite => Err(silence()),
            Fate::NoReply => {
                let _ = work.await;
                Err(silence())
            }
        }
    }

    async fn each<T>(
        &self,
        call: StoreCall,
        items: usize,
        unknown: impl Fn(Error) -> T,
        work: impl Future<Output = Vec<T>>,
    ) -> Vec<T> {
        match self.meet(call) {
            Fate::Answer => return work.await,
            Fate::NoWrite => {}
            Fate::NoReply => drop(work.await),
        }
        (0..items).map(|_| unknown(silence())).collect()
    }
}

fn silence() -> Error {
    Error::new(ErrorCode::Unavailable, "the store was told not to answer")
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl JobStore for FaultyStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn scope(&self) -> StoreScope {
        self.inner.scope()
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        self.each(StoreCall::Get, jobs.len(), Err, self.inner.get(jobs)).await
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.one(StoreCall::List, self.inner.list(query, cursor, limit)).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        self.one(StoreCall::Watch, self.inner.watch(what)).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        self.each(StoreCall::Cancel, jobs.len(), Err, self.inner.cancel(jobs, cancel)).await
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.one(StoreCall::QueueControl, self.inner.queue_control(queue)).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.one(StoreCall::SetQueueControl, self.inner.set_queue_control(queue, control)).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.one(StoreCall::Evict, self.inner.evict(queue, retention, limit)).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.one(StoreCall::Lead, self.inner.lead(role, candidate, term)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl TrackingStore for FaultyStore {
    async fn stage(&self, jobs: &[StagedJob], stage_lease: Duration) -> Vec<StageOutcome> {
        self.each(StoreCall::Stage, jobs.len(), StageOutcome::Unknown, self.inner.stage(jobs, stage_lease)).await
    }

    async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        self.each(StoreCall::Confirm, jobs.len(), Err, self.inner.confirm(jobs)).await
    }

    async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        self.each(StoreCall::Unstage, jobs.len(), Err, self.inner.unstage(jobs)).await
    }

    async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        self.each(StoreCall::Refuse, jobs.len(), Err, self.inner.refuse(jobs)).await
    }

    async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        self.each(StoreCall::Claim, claims.len(), Verdict::Unknown, self.inner.claim(claims)).await
    }

    async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        self.each(StoreCall::Heartbeat, beats.len(), BeatOutcome::Unknown, self.inner.heartbeat(beats)).await
    }

    async fn settle(&self, batch: &[TrackedSettle], stage_lease: Duration) -> Vec<TrackedOutcome> {
        let unknown = |error| TrackedOutcome::only(SettleOutcome::Unknown(error));
        self.each(StoreCall::Settle, batch.len(), unknown, self.inner.settle(batch, stage_lease)).await
    }

    async fn unpark(&self, scope: &Scope, key: &ParkKey, n: usize, stage_lease: Duration) -> Result<Vec<StagedJob>> {
        self.one(StoreCall::Unpark, self.inner.unpark(scope, key, n, stage_lease)).await
    }

    async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.one(StoreCall::Due, self.inner.due(scope, dead_leases, limit, stage_lease)).await
    }

    async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        stage_lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        self.one(StoreCall::Silent, self.inner.silent(scope, at_least, limit, stage_lease)).await
    }

    async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        self.one(StoreCall::Queues, self.inner.queues(provider, prefix, cursor, limit)).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.one(StoreCall::Parked, self.inner.parked(queue, limit)).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.one(StoreCall::Dead, self.inner.dead(queue, filter, cursor, limit)).await
    }

    async fn redrive(&self, jobs: &[(JobRef, Option<Bytes>)], stage_lease: Duration) -> Vec<Result<RedriveOutcome>> {
        self.each(StoreCall::Redrive, jobs.len(), Err, self.inner.redrive(jobs, stage_lease)).await
    }

    async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        self.each(StoreCall::ForgetDead, jobs.len(), Err, self.inner.forget_dead(jobs)).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.each(StoreCall::Stats, queues.len(), Err, self.inner.stats(queues)).await
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.one(StoreCall::Position, self.inner.position(job)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.one(StoreCall::Purge, self.inner.purge(queue)).await
    }

    async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        self.one(StoreCall::DropQueue, self.inner.drop_queue(queue)).await
    }

    /// Without faults.
    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    /// Also during an outage: it is this side that ends.
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{
        Env, JobId, Timestamp,
        job::{Envelope, JobKind},
    };
    use queue_memory::MemoryTracking;

    use super::*;

    fn staged() -> StagedJob {
        let id = JobId::derive(b"faults", 1);
        let envelope = Envelope::builder(id, JobKind::from_static("k"), &b"1"[..], Timestamp::from_millis(1)).seal();
        StagedJob::new("test", JobRef::new(QueueName::from_static("q"), id), envelope)
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_writes_nothing_and_a_lost_reply_does() {
        let truth = MemoryTracking::with_env(Env::seeded(Timestamp::from_millis(1), 1));
        let store = FaultyStore::new(truth.clone());
        let lease = Duration::from_secs(30);
        let there = async || matches!(truth.get(&[staged().job]).await[0], Ok(Lookup::Found(_)));

        store.outage(true);
        let answers = store.stage(&[staged(), staged()], lease).await;
        assert!(answers.len() == 2 && matches!(answers[1], StageOutcome::Unknown(_)), "one answer an item");
        assert!(!there().await);
        store.outage(false);

        store.lose_replies_to(StoreCall::Stage, 1);
        assert!(store.queue_control(&staged().job.queue).await.is_ok(), "another call is answered");
        assert!(matches!(store.stage(&[staged()], lease).await[0], StageOutcome::Unknown(_)));
        assert!(there().await);
        assert!(matches!(store.stage(&[staged()], lease).await[0], StageOutcome::Again));

        store.lose_replies(1);
        let error = store.confirm(&[(staged().job, 0)]).await.remove(0).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unavailable);
        assert!(matches!(store.stage(&[staged()], lease).await[0], StageOutcome::Known), "it was confirmed");
        assert_eq!(store.calls(StoreCall::Stage), 4);
    }
}
