//! One typed job on its way in.

use std::{
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use validator::Validate;

use crate::{
    error::{Error, ErrorCode, Result},
    job::{
        Job, JobId, JobKind, Priority, QueueName, RetryPolicy, SlaClass, Timestamp, Unique, UniqueKey, broken_rules,
    },
    provider::{Durability, OnFull, PublishOptions},
};

use super::{
    JobHandle, NewJob, Submitted,
    options::{JobOptions, Start},
    route::Target,
};

/// A submission that is sent when it is awaited. Dropped before, it does nothing.
#[derive(Debug)]
#[must_use = "a submission does nothing until it is awaited"]
pub struct Enqueue<J> {
    target: Target,
    queue: Result<QueueName>,
    payload: Result<Bytes>,
    options: JobOptions,
    publish: PublishOptions,
    job: PhantomData<fn() -> J>,
}

impl<J: Job> Enqueue<J> {
    pub(super) fn new(target: Target, job: &J) -> Self {
        Self {
            target,
            queue: QueueName::new(J::QUEUE),
            payload: encode(job),
            options: JobOptions::default(),
            publish: PublishOptions::default(),
            job: PhantomData,
        }
    }

    /// Another queue than the type's.
    pub fn to(mut self, queue: impl AsRef<str>) -> Self {
        self.queue = QueueName::new(queue);
        self
    }

    /// An id of the caller's: submitting it twice is one job, where the provider deduplicates by id.
    pub fn id(mut self, id: JobId) -> Self {
        self.options.id = Some(id);
        self
    }

    /// Who runs first.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Not before that long from now.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.start = Start::After(delay);
        self
    }

    /// Not before that time.
    pub fn run_at(mut self, at: Timestamp) -> Self {
        self.options.start = Start::At(at);
        self
    }

    /// Expired if it was not started that long from now.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = Some(ttl);
        self
    }

    /// The longest an attempt may run.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// When it runs again after a failure.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = Some(policy);
        self
    }

    /// One such job at a time in the queue: until it is finished, a second one returns the first one's handle.
    ///
    /// # Errors
    /// `VALIDATION` where the key is empty or longer than 256 bytes.
    pub fn unique(mut self, key: impl AsRef<str>) -> Result<Self> {
        self.options.unique = Some(Unique { key: UniqueKey::new(key)?, window: None });
        Ok(self)
    }

    /// One such job (same kind, same payload) in that time, finished or not.
    pub fn unique_for(mut self, window: Duration) -> Self {
        if let Ok(payload) = &self.payload {
            let digest = JobId::derive(&[J::KIND.as_bytes(), b"\0", payload].concat(), 0);
            if let Ok(key) = UniqueKey::new(digest.to_string()) {
                self.options.unique = Some(Unique { key, window: Some(window) });
            }
        }
        self
    }

    /// One job of this key in that time, finished or not.
    ///
    /// # Errors
    /// `VALIDATION` where the key is empty or longer than 256 bytes.
    pub fn unique_within(mut self, key: impl AsRef<str>, window: Duration) -> Result<Self> {
        self.options.unique = Some(Unique { key: UniqueKey::new(key)?, window: Some(window) });
        Ok(self)
    }

    /// How long it may take from its submission to its completion.
    pub fn sla(mut self, class: SlaClass) -> Self {
        self.options.headers.sla = Some(class);
        self
    }

    /// Which partition of its queue it goes to.
    pub fn partition(mut self, name: impl AsRef<str>) -> Self {
        self.options.headers.keys.partition = Some(name.as_ref().into());
        self
    }

    /// The rate it comes under, where the scheduler limits `rate:KEY`.
    pub fn rate_key(mut self, key: impl AsRef<str>) -> Self {
        self.options.headers.keys.rate = Some(key.as_ref().into());
        self
    }

    /// What it shares its concurrency with, where the scheduler limits `concurrency:KEY`.
    pub fn concurrency_key(mut self, key: impl AsRef<str>) -> Self {
        self.options.headers.keys.concurrency = Some(key.as_ref().into());
        self
    }

    /// What it depends on: while the circuit breaker `breaker:NAME` is open it waits.
    pub fn depends_on(mut self, name: impl AsRef<str>) -> Self {
        self.options.headers.keys.breaker = Some(name.as_ref().into());
        self
    }

    /// Ties together what belongs to one request.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.options.headers.correlation_id = Some(id.into());
        self
    }

    /// On whose share it runs.
    pub fn tenant(mut self, tenant: impl AsRef<str>) -> Self {
        self.options.headers.keys.tenant = Some(tenant.as_ref().into());
        self
    }

    /// A word to find it by.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.options.headers.tags.push(tag.into());
        self
    }

    /// Something of the application's own.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.headers.metadata.insert(key.into(), value.into());
        self
    }

    /// Everything else there is to say about it.
    pub fn options(mut self, change: impl FnOnce(&mut JobOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Waits for room in a full queue, at most that long, instead of being refused.
    pub fn wait_for_room(mut self, at_most: Duration) -> Self {
        self.publish.on_full = OnFull::Wait;
        self.publish.deadline = at_most;
        self
    }

    /// More than the queue's durability.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.publish.durability = Some(durability);
        self
    }

    async fn send(self) -> Result<JobHandle<J::Output>> {
        let queue = self.queue?;
        let job = NewJob { kind: JobKind::new(J::KIND)?, payload: self.payload?, options: self.options };
        let scheduler = self.target.submit_to(&queue, &job.kind)?;
        match scheduler.submit(&queue, vec![job], &self.publish).await.pop() {
            Some(Submitted::Accepted(job)) => Ok(JobHandle::new(scheduler, job, false)),
            Some(Submitted::Duplicate(job)) => Ok(JobHandle::new(scheduler, job, true)),
            Some(Submitted::Rejected(error) | Submitted::Unknown(_, error)) => Err(error),
            None => Err(Error::new(ErrorCode::Internal, "the provider answered nothing").at("enqueue")),
        }
    }
}

impl<J: Job> IntoFuture for Enqueue<J> {
    type Output = Result<JobHandle<J::Output>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Checks a job by its own rules and encodes it.
pub(super) fn encode<J: Job>(job: &J) -> Result<Bytes> {
    let invalid = |error: String| Error::new(ErrorCode::Validation, error).at("enqueue");
    Validate::validate(job).map_err(|errors| invalid(broken_rules(&errors)))?;
    let json = serde_json::to_vec(job).map_err(|error| invalid(format!("the job cannot be encoded: {error}")))?;
    Ok(Bytes::from(json))
}
