//! Messages on their way in.

use std::{fmt::Debug, future::IntoFuture, time::Duration};

use futures_util::future::{BoxFuture, join_all};

use super::{Payload, Publication, RawMessage, Topic};
use crate::{
    error::{Error, ErrorCode, Result},
    job::{JobId, Priority, QueueName, RetryPolicy, Timestamp, Unique, UniqueKey},
    provider::{Durability, OnFull, PublishOptions},
    scheduler::{JobHandle, JobOptions, JobScheduler, NewJob, Start, Submitted, Target},
};

/// Messages that are sent when this is awaited. Dropped before, it does nothing.
///
/// | made by | answers |
/// |---|---|
/// | [`JobScheduler::send`] | `Result<JobHandle<()>>` |
/// | [`JobScheduler::send_all`] | one such result per message, in order |
/// | [`Topic::publish`] | `Result<Publication>`, an error unless every subscribed queue took it |
/// | [`Topic::publish_all`] | one `Result<Publication>` per message, with the outcome in each queue |
#[derive(Debug)]
#[must_use = "a message is not sent until this is awaited"]
pub struct Post<W> {
    way: W,
    messages: Vec<Result<RawMessage>>,
    options: JobOptions,
    publish: PublishOptions,
}

/// One message.
#[derive(Debug)]
pub struct One<T>(T);

/// A batch.
#[derive(Debug)]
pub struct Many<T>(T);

/// To a queue.
#[derive(Debug)]
pub struct ToQueue {
    target: Target,
    queue: Result<QueueName>,
}

impl Post<One<ToQueue>> {
    pub(super) fn one(target: Target, queue: &str, message: &impl Payload) -> Self {
        Self::new(One(ToQueue { target, queue: QueueName::new(queue) }), vec![message.to_raw()])
    }
}

impl Post<Many<ToQueue>> {
    pub(super) fn many<'a, M: Payload>(target: Target, queue: &str, messages: impl IntoIterator<Item = &'a M>) -> Self {
        let messages = messages.into_iter().map(Payload::to_raw).collect();
        Self::new(Many(ToQueue { target, queue: QueueName::new(queue) }), messages)
    }
}

impl Post<One<Topic>> {
    pub(super) fn publish(topic: &Topic, message: &impl Payload) -> Self {
        Self::new(One(topic.clone()), vec![message.to_raw()])
    }
}

impl Post<Many<Topic>> {
    pub(super) fn publish_all<'a, M: Payload>(topic: &Topic, messages: impl IntoIterator<Item = &'a M>) -> Self {
        Self::new(Many(topic.clone()), messages.into_iter().map(Payload::to_raw).collect())
    }
}

impl<T> Post<One<T>> {
    /// An id of the caller's: sending it twice is one message, where the provider deduplicates by id.
    pub fn id(mut self, id: JobId) -> Self {
        self.options.id = Some(id);
        self
    }

    /// One such message at a time in a queue: until it is settled for good, a second one is not taken, and the answer names
    /// the first.
    ///
    /// # Errors
    /// `VALIDATION` where the key is empty or longer than 256 bytes.
    pub fn unique(mut self, key: impl AsRef<str>) -> Result<Self> {
        self.options.unique = Some(Unique { key: UniqueKey::new(key)?, window: None });
        Ok(self)
    }

    /// One message of this key in that time, settled or not.
    ///
    /// # Errors
    /// `VALIDATION` where the key is empty or longer than 256 bytes.
    pub fn unique_within(mut self, key: impl AsRef<str>, window: Duration) -> Result<Self> {
        self.options.unique = Some(Unique { key: UniqueKey::new(key)?, window: Some(window) });
        Ok(self)
    }
}

/// What holds for each message of a batch alike.
impl<W> Post<W> {
    fn new(way: W, messages: Vec<Result<RawMessage>>) -> Self {
        Self { way, messages, options: JobOptions::default(), publish: PublishOptions::default() }
    }

    /// Which is received first.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Not to be received before that long from now.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.start = Start::After(delay);
        self
    }

    /// Not to be received before that time.
    pub fn deliver_at(mut self, at: Timestamp) -> Self {
        self.options.start = Start::At(at);
        self
    }

    /// Gone if it was not received that long from now.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = Some(ttl);
        self
    }

    /// How long it may be in a subscriber's hands before it is taken back. Default: the queue's, 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// When it is delivered again after a negative acknowledgement, and how often.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = Some(policy);
        self
    }

    /// Ties together what belongs to one request.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.options.headers.correlation_id = Some(id.into());
        self
    }

    /// On whose share it is delivered.
    pub fn tenant(mut self, tenant: impl AsRef<str>) -> Self {
        self.options.headers.keys.tenant = Some(tenant.as_ref().into());
        self
    }

    /// Which partition of its queue it goes to.
    pub fn partition(mut self, name: impl AsRef<str>) -> Self {
        self.options.headers.keys.partition = Some(name.as_ref().into());
        self
    }

    /// Something of the application's own that rides along.
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

    /// The messages with their options, and how they are to be published.
    fn pack(self) -> (W, Vec<Result<NewJob>>, PublishOptions) {
        let Self { way, messages, options, publish } = self;
        let pack = |RawMessage { kind, content_type, payload }| NewJob {
            kind,
            payload,
            options: JobOptions { content_type, ..options.clone() },
        };
        let packed = messages.into_iter().map(|message| message.map(pack)).collect();
        (way, packed, publish)
    }
}

impl IntoFuture for Post<One<ToQueue>> {
    type Output = Result<JobHandle<()>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (One(to), messages, publish) = self.pack();
        Box::pin(async move { to.send(messages, &publish).await.pop().unwrap_or_else(|| Err(unanswered())) })
    }
}

impl IntoFuture for Post<Many<ToQueue>> {
    type Output = Vec<Result<JobHandle<()>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (Many(to), messages, publish) = self.pack();
        Box::pin(async move { to.send(messages, &publish).await })
    }
}

impl IntoFuture for Post<One<Topic>> {
    type Output = Result<Publication>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (One(topic), messages, publish) = self.pack();
        Box::pin(async move {
            let published = topic.spread(messages, &publish).await.pop();
            published.unwrap_or_else(|| Err(unanswered()))?.complete()
        })
    }
}

impl IntoFuture for Post<Many<Topic>> {
    type Output = Vec<Result<Publication>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (Many(topic), messages, publish) = self.pack();
        Box::pin(async move { topic.spread(messages, &publish).await })
    }
}

impl ToQueue {
    async fn send(self, messages: Vec<Result<NewJob>>, publish: &PublishOptions) -> Vec<Result<JobHandle<()>>> {
        let queue = match self.queue {
            Ok(queue) => queue,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut good = Vec::with_capacity(messages.len());
        let refused: Vec<Option<Error>> =
            messages.into_iter().map(|message| message.map(|message| good.push(message)).err()).collect();
        let mut answers = submit(&self.target, &queue, good, publish).await.into_iter();
        let answer = |refused: Option<Error>| match refused {
            Some(error) => Err(error),
            None => match answers.next().unwrap_or_else(|| Err(unanswered()))? {
                (scheduler, Submitted::Accepted(job)) => Ok(scheduler.handle(job)),
                (scheduler, Submitted::Duplicate(job)) => Ok(scheduler.handle(job).duplicate()),
                (_, Submitted::Rejected(error) | Submitted::Unknown(_, error)) => Err(error),
            },
        };
        refused.into_iter().map(answer).collect()
    }
}

/// One batch per scheduler, side by side; one answer per message, in order.
pub(super) async fn submit(
    target: &Target,
    queue: &QueueName,
    messages: Vec<NewJob>,
    publish: &PublishOptions,
) -> Vec<Result<(JobScheduler, Submitted)>> {
    let mut answers: Vec<Result<(JobScheduler, Submitted)>> = Vec::with_capacity(messages.len());
    let mut batches: Vec<(JobScheduler, Vec<usize>, Vec<NewJob>)> = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        answers.push(Err(unanswered()));
        match target.submit_to(queue, &message.kind) {
            Ok(scheduler) => match batches.iter_mut().find(|(known, ..)| known.is(&scheduler)) {
                Some((_, places, batch)) => {
                    places.push(index);
                    batch.push(message);
                }
                None => batches.push((scheduler, vec![index], vec![message])),
            },
            Err(error) => answers[index] = Err(error),
        }
    }
    let sent = batches.into_iter().map(|(scheduler, places, batch)| async move {
        let submitted = scheduler.submit(queue, batch, publish).await;
        (scheduler, places, submitted)
    });
    for (scheduler, places, submitted) in join_all(sent).await {
        for (index, submitted) in places.into_iter().zip(submitted) {
            answers[index] = Ok((scheduler.clone(), submitted));
        }
    }
    answers
}

fn unanswered() -> Error {
    Error::new(ErrorCode::Internal, "the provider answered nothing").at("send")
}
