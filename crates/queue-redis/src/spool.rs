//! Keeping what is published while Redis is away, on this machine, and handing it on when Redis is there again.
//!
//! A spool is any provider that keeps jobs here; in it one queue, whose jobs are what was published and where. What cannot be said to Redis
//! is published there instead, under an id that follows from its queue and its own, and is accepted. A task consumes that queue: it publishes to Redis, and settles what Redis
//! took. Should the process die in between, the job is published again under the same id, which makes it one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{BufMut as _, Bytes};
use queue_core::{
    Consumer, Envelope, Error, ErrorCode, JobError, JobId, QueueName, QueueProvider, QueueSpec, Result,
    job::JobKind,
    provider::{
        ConsumeOptions, Delivery, Disposition, OnFull, PublishOptions, PublishOutcome, Rejection, ReleaseReason,
        Settlement,
    },
    queue_spec::{Retention, Tracking},
};
use tokio::{task::JoinHandle, time::Instant};

use crate::{SCHEME, client::ClientEvent, fault, provider::Shared, record::Reader};

/// Jobs that wait in a spool at most.
const MOST: u64 = 10_000;
/// Bytes of one of them at most.
const LARGEST: usize = 64 << 20;
/// How many are handed on at once.
const BATCH: usize = 100;
/// Longer than Redis is waited for with one batch.
const LEASE: Duration = Duration::from_secs(60);
/// How long Redis is tried for one batch, and how soon again.
const TRY: Duration = Duration::from_secs(6);
const AGAIN: Duration = Duration::from_secs(1);
const WAIT: Duration = Duration::from_secs(30);
/// How soon a job comes again for which Redis is there, and which it does not take for now: others must not wait behind it.
const LATER: Duration = Duration::from_secs(10);

/// What a spool holds, and whether it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStatus {
    /// Whether what is published to some queue goes to the spool now.
    pub in_use: bool,
    /// Jobs that wait for Redis.
    pub waiting: u64,
    /// Jobs that Redis refused for good when it was there again. They are dead letters of the spool, each with the reason.
    pub refused: u64,
}

#[derive(Debug)]
pub(crate) struct Spool {
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    kept: Arc<dyn QueueProvider>,
    queue: QueueName,
    /// Queues of which nothing is said to Redis until the spool has got through to it. Where the spool was full, whoever publishes looks now and
    /// then whether Redis is there: of the queue there may be nothing in the spool that finds it out, and what fills it may stay.
    away: Mutex<HashMap<QueueName, Option<Instant>>>,
}

impl Spool {
    /// # Errors
    /// As [`QueueProvider::declare`] and [`QueueProvider::consumer`] of the spool.
    pub(crate) async fn open(kept: Arc<dyn QueueProvider>, shared: &Arc<Shared>) -> Result<Self> {
        let queue = QueueName::from_static("spool");
        let mut spec = QueueSpec::new(queue.clone());
        (spec.max_len, spec.max_encoded_len) = (Some(MOST), LARGEST);
        // What was handed on is Redis' own.
        spec.retention = Retention { age: Duration::from_secs(60), count: 100, ..Retention::default() };
        kept.declare(&spec).await?;
        let options = ConsumeOptions { lease: LEASE, ..ConsumeOptions::new("spool", BATCH) };
        let consumer = kept.consumer(&queue, options).await?;
        let inner = Arc::new(Inner { kept, queue, away: Mutex::default() });
        let task = tokio::spawn(hand_on(Arc::clone(&inner), consumer, Arc::clone(shared)));
        Ok(Self { inner, task: Mutex::new(Some(task)) })
    }

    pub(crate) async fn status(&self) -> Result<SpoolStatus> {
        let stats = self.inner.kept.admin().stats(std::slice::from_ref(&self.inner.queue)).await.pop();
        let stats = stats.unwrap_or_else(|| Err(fault::broken("an answer is missing", "spool")))?;
        let waiting = stats.pending + stats.scheduled + stats.retrying + stats.running;
        Ok(SpoolStatus { in_use: !self.inner.away().is_empty(), waiting, refused: stats.dead })
    }

    pub(crate) async fn publish(
        &self,
        shared: &Shared,
        queue: &QueueName,
        batch: Vec<Envelope>,
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let is_away = self.inner.is_away(queue);
        let mut outcomes = match is_away {
            true => vec![PublishOutcome::Rejected(Rejection::Unavailable(away(queue))); batch.len()],
            false => shared.publish(queue, batch.clone(), options).await,
        };
        // An answer that was lost may have been a yes: only where Redis knows the id again is the same job no second one.
        let known_again = shared.specs.cached(queue).is_some_and(|known| known.spec.tracking == Tracking::Full);
        let is_kept = |(job, outcome): &(&Envelope, &mut PublishOutcome)| match outcome {
            PublishOutcome::Rejected(Rejection::Unavailable(error)) => job.unique.is_none() && fault::is_away(error),
            PublishOutcome::Unknown(error) => job.unique.is_none() && known_again && fault::is_away(error),
            _ => false,
        };
        let (jobs, places): (Vec<_>, Vec<_>) =
            batch.iter().zip(&mut outcomes).filter(is_kept).map(|(job, outcome)| (wrap(queue, job), outcome)).unzip();
        if jobs.is_empty() {
            // What has a unique key is not kept, whether Redis is there or not.
            if !is_away && !outcomes.iter().all(is_unanswered) {
                self.inner.is_there(shared, queue);
            }
            return outcomes;
        }
        let options = PublishOptions { deadline: options.deadline, ..PublishOptions::default() };
        // Before the jobs, so that the task that takes the first of them finds it said.
        if self.inner.went(queue) {
            shared.link.client().tell(ClientEvent::Spooling { queue: queue.as_str().into() });
        }
        let kept = self.inner.kept.publish(&self.inner.queue, jobs, &options).await;
        let is_full = kept.iter().any(|outcome| matches!(outcome, PublishOutcome::Rejected(Rejection::Full)));
        for (place, outcome) in places.into_iter().zip(kept) {
            *place = accepted_or(outcome, queue);
        }
        if is_full {
            // Unless it was so already: then it is known when to look.
            self.inner.away().entry(queue.clone()).or_default().get_or_insert_with(Instant::now);
        } else if !is_away && self.status().await.is_ok_and(|status| status.waiting == 0) {
            // It took none, or knew them all: nothing would ever find out that Redis is there again.
            self.inner.away().remove(queue);
        }
        outcomes
    }

    /// What is in it stays there for the next one who opens it.
    pub(crate) async fn close(&self) -> Result<()> {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It was cancelled.
            let _ = task.await;
        }
        self.inner.kept.close().await
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

fn away(queue: &QueueName) -> Error {
    let message = "Redis is away, and a unique key is only its own to give: try again when it is there";
    Error::new(ErrorCode::Unavailable, message).at("publish").by(SCHEME).on(queue)
}

/// What became of a job that Redis could not be told of.
fn accepted_or(outcome: PublishOutcome, queue: &QueueName) -> PublishOutcome {
    let refuse = |message: String| {
        let error = Error::new(ErrorCode::Unavailable, message).at("publish").by(SCHEME).on(queue);
        PublishOutcome::Rejected(Rejection::Unavailable(error))
    };
    match outcome {
        PublishOutcome::Accepted { .. } | PublishOutcome::Duplicate { .. } => PublishOutcome::Accepted { place: 0 },
        PublishOutcome::Rejected(Rejection::Full) => {
            refuse(format!("Redis is away, and the spool is full: {MOST} jobs wait in it"))
        }
        PublishOutcome::Rejected(other) => {
            refuse(format!("Redis is away, and the spool does not take it: {}", Error::from(other).message()))
        }
        PublishOutcome::Unknown(error) => PublishOutcome::Unknown(error),
    }
}

/// A job of the spool: where to, and what.
fn wrap(queue: &QueueName, job: &Envelope) -> Envelope {
    let mut payload = Vec::with_capacity(2 + queue.as_str().len() + job.encoded_len());
    payload.put_u16_le(u16::try_from(queue.as_str().len()).unwrap_or(0));
    payload.put_slice(queue.as_str().as_bytes());
    job.encode_into(&mut payload);
    // All queues share the spool, and an id is known again in its own queue only. What comes first has a length of its own.
    let length = 2 + queue.as_str().len();
    let id = JobId::derive(&[&payload[..length], job.id.as_bytes()].concat(), 0);
    Envelope::builder(id, JobKind::from_static("redis.spooled"), payload, job.created_at).seal()
}

fn unwrap(payload: Bytes) -> Result<(QueueName, Envelope), fault::Broken> {
    let mut payload = Reader(payload);
    let length = usize::from(payload.u16()?);
    let name = String::from_utf8(payload.bytes(length)?.to_vec()).map_err(|_| "not text")?;
    let queue = QueueName::new(name).map_err(|_| "not the name of a queue")?;
    Ok((queue, Envelope::decode(payload.0).map_err(|_| "a job that cannot be read")?))
}

/// Whether Redis said nothing to it.
fn is_unanswered(outcome: &PublishOutcome) -> bool {
    match outcome {
        PublishOutcome::Rejected(Rejection::Unavailable(error)) | PublishOutcome::Unknown(error) => {
            fault::is_away(error)
        }
        _ => false,
    }
}

impl Inner {
    fn away(&self) -> MutexGuard<'_, HashMap<QueueName, Option<Instant>>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Redis is not to be asked.
    fn is_away(&self, queue: &QueueName) -> bool {
        let mut away = self.away();
        let Some(was_full) = away.get_mut(queue) else { return false };
        let looks = was_full.is_some_and(|full| full.elapsed() >= AGAIN);
        if looks {
            *was_full = Some(Instant::now());
        }
        !looks
    }

    /// Redis is away for a queue; whether that is news.
    fn went(&self, queue: &QueueName) -> bool {
        let mut away = self.away();
        let is_news = !away.contains_key(queue);
        away.entry(queue.clone()).or_default();
        is_news
    }

    /// What becomes of these in the spool, once Redis was told of them.
    async fn told(&self, shared: &Shared, deliveries: Vec<Delivery>) -> Vec<Settlement> {
        let mut settlements = Vec::with_capacity(deliveries.len());
        let mut batches: Vec<(QueueName, Vec<_>, Vec<Envelope>)> = Vec::new();
        for delivery in deliveries {
            match unwrap(delivery.envelope.payload.clone()) {
                Ok((queue, job)) => match batches.iter_mut().find(|batch| batch.0 == queue) {
                    Some((_, receipts, jobs)) => {
                        receipts.push(delivery.receipt);
                        jobs.push(job);
                    }
                    None => batches.push((queue, vec![delivery.receipt], vec![job])),
                },
                Err(what) => {
                    let error = JobError::new(ErrorCode::Undecodable, what);
                    settlements.push(Settlement::new(delivery.receipt, Disposition::DeadLetter { error }));
                }
            }
        }
        // They were accepted: a full queue takes them all the same.
        let options = PublishOptions { deadline: TRY, on_full: OnFull::Exceed, ..PublishOptions::default() };
        for (queue, receipts, jobs) in batches {
            for (receipt, outcome) in receipts.into_iter().zip(shared.publish(&queue, jobs, &options).await) {
                let disposition = self.ended(shared, &queue, outcome);
                settlements.push(Settlement::new(receipt, disposition));
            }
        }
        settlements
    }

    /// What is published to the queue goes to Redis again.
    fn is_there(&self, shared: &Shared, queue: &QueueName) {
        if self.away().remove(queue).is_some() {
            shared.link.client().tell(ClientEvent::Connected { queue: queue.as_str().into() });
        }
    }

    fn ended(&self, shared: &Shared, queue: &QueueName, outcome: PublishOutcome) -> Disposition {
        let again = |after| Disposition::Release { after, reason: ReleaseReason::Busy };
        let error = match outcome {
            PublishOutcome::Accepted { .. } | PublishOutcome::Duplicate { .. } => None,
            PublishOutcome::Rejected(Rejection::Unavailable(error)) | PublishOutcome::Unknown(error) => {
                if error.code() == ErrorCode::Closed {
                    return again(Duration::ZERO);
                }
                if fault::is_away(&error) {
                    // On a cluster another server may be there for what comes after it.
                    return again(if shared.link.is_cluster() { AGAIN } else { Duration::ZERO });
                }
                tracing::warn!(%queue, %error, "Redis is there, and does not take a job that was accepted while it was away: it is tried again");
                // Whoever publishes to it now is to hear why.
                self.is_there(shared, queue);
                return again(LATER);
            }
            PublishOutcome::Rejected(rejection) => Some(Error::from(rejection)),
        };
        self.is_there(shared, queue);
        match error {
            None => Disposition::Complete { result: None },
            Some(error) => {
                tracing::warn!(%queue, %error, "Redis refuses a job that was accepted while it was away: it is a dead letter of the spool");
                Disposition::DeadLetter { error: JobError::new(error.code(), error.message()) }
            }
        }
    }
}

/// Tells Redis what the spool holds, as long as the provider lives.
async fn hand_on(inner: Arc<Inner>, consumer: Arc<dyn Consumer>, shared: Arc<Shared>) {
    loop {
        let deliveries = match consumer.fetch(BATCH, WAIT).await {
            Ok(deliveries) => deliveries,
            Err(error) if error.code() == ErrorCode::Closed => return,
            Err(error) => {
                tracing::warn!(%error, "the spool cannot be read");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        if deliveries.is_empty() {
            continue;
        }
        let settlements = inner.told(&shared, deliveries).await;
        let waits = settlements.iter().any(|end| matches!(end.disposition, Disposition::Release { .. }));
        // What the spool does not settle comes again, and Redis knows it by its id.
        consumer.settle(&settlements).await;
        if waits {
            tokio::time::sleep(AGAIN).await;
        } else {
            // The spool's own upkeep: it forgets what was handed on.
            let kept = inner.kept.maintain(true).await;
            kept.map_or_else(|error| tracing::debug!(%error, "the upkeep of the spool failed"), drop);
        }
    }
}
