//! Topics: what is published to one reaches every queue that is subscribed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use futures_util::future::{join, join_all};

use super::{
    Payload,
    post::{Many, One, Post, submit},
};
use crate::{
    error::{Error, ErrorCode, Result},
    job::{JobId, QueueName},
    provider::{PublishOptions, Support},
    scheduler::{JobScheduler, NewJob, Submitted, Target},
};

/// A name under which messages are published to every queue that is subscribed to it.
///
/// A subscription is durable: it is a queue, so messages wait there while its subscribers are away, and those of one queue
/// share its messages. Where the provider has topics of its own it keeps the subscriptions, for every process. Elsewhere
/// a message is published once to each subscribed queue, and **only the process that subscribed a queue knows of it**: let
/// each process that publishes subscribe the queues when it starts; doing so again changes nothing. [`Topic::support`]
/// tells which it is.
#[derive(Debug, Clone)]
pub struct Topic {
    name: Result<QueueName>,
    target: Target,
    /// Every scheduler that may have a subscribed queue.
    reach: Vec<JobScheduler>,
}

/// What became of one published message.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The message's id: the same in every queue.
    pub id: JobId,
    /// One for each subscribed queue, or for all those of a provider that spreads messages itself.
    pub copies: Vec<Copied>,
}

/// What became of one copy.
#[derive(Debug, Clone)]
pub struct Copied {
    /// Where it went.
    pub to: Destination,
    /// What was answered.
    pub outcome: Submitted,
}

/// Where a published message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a queue.
    Queue(QueueName),
    /// To whichever queues are subscribed at a provider with topics of its own.
    Provider(&'static str),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => queue.fmt(f),
            Self::Provider(scheme) => write!(f, "the topic on {scheme}"),
        }
    }
}

impl Copied {
    /// Why it may be missing there; `None` where it is there, or an earlier one holds its unique key.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match &self.outcome {
            Submitted::Accepted(_) | Submitted::Duplicate(_) => None,
            Submitted::Rejected(error) | Submitted::Unknown(_, error) => Some(error),
        }
    }
}

impl Publication {
    /// Whether every subscribed queue has it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.copies.iter().all(|copy| copy.error().is_none())
    }

    /// Itself, if every subscribed queue has it.
    ///
    /// # Errors
    /// The first refusal's code, naming each queue that may be without it. Publishing it again **under the same id** reaches
    /// those, and doubles nothing where the provider deduplicates by id.
    pub fn complete(self) -> Result<Self> {
        let missing: Vec<_> = self.copies.iter().filter_map(|copy| copy.error().map(|error| (copy, error))).collect();
        let Some((_, first)) = missing.first() else { return Ok(self) };
        let each: Vec<_> = missing.iter().map(|(copy, error)| format!("{}: {error}", copy.to)).collect();
        let (missing, all) = (missing.len(), self.copies.len());
        let message = format!("message {} did not reach {missing} of {all} queues: {}", self.id, each.join("; "));
        Err(Error::new(first.code(), message).at("publish"))
    }
}

impl Topic {
    pub(super) fn new(target: Target, reach: Vec<JobScheduler>, name: &str) -> Self {
        Self { name: QueueName::new(name), target, reach }
    }

    /// Begins the publication of one message; await it, or set options first. What a queue's own declaration says (priority,
    /// time to live, timeout) holds for its copy; where the provider has topics of its own, what the declaration of a queue of
    /// the topic's name says holds for all.
    ///
    /// Awaited, it is an error unless every subscribed queue took the message: `UNROUTABLE` where none is subscribed, else as
    /// [`Publication::complete`].
    pub fn publish<M: Payload>(&self, message: &M) -> Post<One<Self>> {
        Post::publish(self, message)
    }

    /// Begins the publication of a batch: one answer per message, in order, each with the outcome in every queue. A message that
    /// went nowhere is an error: invalid, or `UNROUTABLE`.
    pub fn publish_all<'a, M: Payload>(&self, messages: impl IntoIterator<Item = &'a M>) -> Post<Many<Self>> {
        Post::publish_all(self, messages)
    }

    /// Subscribes a queue: it gets what is published from now on. Idempotent.
    ///
    /// # Errors
    /// `VALIDATION` for what is no name; `UNROUTABLE` where no provider has the queue; `UNAVAILABLE`, `DENIED`.
    pub async fn subscribe(&self, queue: impl AsRef<str>) -> Result<()> {
        let (name, queue) = (self.name()?, QueueName::new(queue)?);
        let schedulers = self.target.consume_from(&queue)?;
        if let [scheduler] = schedulers.as_slice()
            && let Some(topics) = scheduler.provider().topics()
        {
            scheduler.keep_house();
            return topics.subscribe(name, &queue).await;
        }
        // A queue whose kinds are on several providers must get each message on one of them only, which no provider can see to.
        schedulers.iter().for_each(|scheduler| scheduler.subscriptions().add(name, &queue));
        Ok(())
    }

    /// Ends a subscription: the queue keeps what it has and gets no more. Idempotent.
    ///
    /// # Errors
    /// As [`Topic::subscribe`].
    pub async fn unsubscribe(&self, queue: impl AsRef<str>) -> Result<()> {
        let (name, queue) = (self.name()?, QueueName::new(queue)?);
        for scheduler in self.target.consume_from(&queue)? {
            scheduler.subscriptions().remove(name, &queue);
            if let Some(topics) = scheduler.provider().topics() {
                topics.unsubscribe(name, &queue).await?;
            }
        }
        Ok(())
    }

    /// The subscribed queues that only this process knows of. Those that a provider keeps cannot be listed.
    ///
    /// # Errors
    /// `VALIDATION` for what is no name.
    pub fn known_subscriptions(&self) -> Result<Vec<QueueName>> {
        Ok(self.known(self.name()?).into_iter().collect())
    }

    /// Native where the providers keep the subscriptions and spread messages themselves.
    #[must_use]
    pub fn support(&self) -> Support {
        if self.reach.iter().all(|scheduler| scheduler.provider().topics().is_some()) {
            return Support::Native;
        }
        Support::Emulated {
            how: "one publish per subscribed queue",
            caveat: "only the process that subscribed a queue knows of it; a queue that refuses a message leaves the others \
                     their copies",
        }
    }

    fn name(&self) -> Result<&QueueName> {
        self.name.as_ref().map_err(Clone::clone)
    }

    fn known(&self, name: &QueueName) -> BTreeSet<QueueName> {
        self.reach.iter().flat_map(|scheduler| scheduler.subscriptions().of(name)).collect()
    }

    /// Publishes a batch to every queue side by side: one answer per message, in order.
    pub(super) async fn spread(
        &self,
        messages: Vec<Result<NewJob>>,
        publish: &PublishOptions,
    ) -> Vec<Result<Publication>> {
        let name = match self.name() {
            Ok(name) => name,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let (mut published, mut batch) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for message in messages {
            published.push(message.map(|mut message| {
                let id = *message.options.id.get_or_insert_with(|| self.fresh_id());
                batch.push(message);
                Publication { id, copies: Vec::new() }
            }));
        }
        let mut good: Vec<&mut Publication> = published.iter_mut().filter_map(|item| item.as_mut().ok()).collect();
        for (to, outcomes) in self.copy(name, &batch, publish).await {
            for (publication, outcome) in good.iter_mut().zip(outcomes) {
                publication.copies.extend(outcome.map(|outcome| Copied { to: to.clone(), outcome }));
            }
        }
        published.into_iter().map(|item| item.and_then(|item| routed(name, item))).collect()
    }

    /// For each destination one outcome per message; `None` where nobody is subscribed there.
    async fn copy(
        &self,
        name: &QueueName,
        batch: &[NewJob],
        publish: &PublishOptions,
    ) -> Vec<(Destination, Vec<Option<Submitted>>)> {
        let to_queues = self.known(name).into_iter().map(|queue| async move {
            let answers = submit(&self.target, &queue, batch.to_vec(), publish).await;
            let outcome = |answer: Result<(JobScheduler, Submitted)>| {
                Some(answer.map_or_else(Submitted::Rejected, |(_, submitted)| submitted))
            };
            (Destination::Queue(queue), answers.into_iter().map(outcome).collect())
        });
        let to_providers = self.reach.iter().filter_map(|scheduler| {
            let topics = scheduler.provider().topics()?;
            Some(async move {
                let outcomes = scheduler.submit_to_topic(&topics, name, batch.to_vec(), publish).await;
                let subscribed = |outcome: &Submitted| {
                    !matches!(outcome, Submitted::Rejected(error) if error.code() == ErrorCode::Unroutable)
                };
                let outcomes = outcomes.into_iter().map(|outcome| Some(outcome).filter(subscribed)).collect();
                (Destination::Provider(scheduler.provider().scheme()), outcomes)
            })
        });
        let (mut copies, natively) = join(join_all(to_queues), join_all(to_providers)).await;
        copies.extend(natively);
        copies
    }

    fn fresh_id(&self) -> JobId {
        // There is always one; the fallback is as good as any.
        self.reach.first().map_or_else(|| JobId::derive(b"", 0), |scheduler| JobId::fresh(scheduler.env()))
    }
}

fn routed(topic: &QueueName, publication: Publication) -> Result<Publication> {
    if publication.copies.is_empty() {
        let message = "no queue is subscribed to this topic: subscribe one, in this process where the provider has no \
                       topics of its own";
        return Err(Error::new(ErrorCode::Unroutable, message).at("publish").on(topic));
    }
    Ok(publication)
}

/// The subscriptions of a provider that keeps none itself: this process's.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(RwLock<BTreeMap<QueueName, Arc<BTreeSet<QueueName>>>>);

impl Subscriptions {
    fn add(&self, topic: &QueueName, queue: &QueueName) {
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(topics.entry(topic.clone()).or_default()).insert(queue.clone());
    }

    fn remove(&self, topic: &QueueName, queue: &QueueName) {
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(queues) = topics.get_mut(topic) else { return };
        Arc::make_mut(queues).remove(queue);
        if queues.is_empty() {
            topics.remove(topic);
        }
    }

    fn of(&self, topic: &QueueName) -> Vec<QueueName> {
        let topics = self.0.read().unwrap_or_else(PoisonError::into_inner);
        topics.get(topic).into_iter().flat_map(|queues| queues.iter().cloned()).collect()
    }
}
