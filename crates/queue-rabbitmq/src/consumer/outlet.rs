//! What is published beside a settlement, each confirmed before the original is acknowledged.

use std::time::Duration;

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};
use queue_core::{
    Envelope, Error, ErrorCode, JobError, QueueName, Result,
    config::defaults,
    provider::{FollowUp, Rejection},
};
use tokio::time::Instant;

use crate::{
    admin::letter,
    delay, fault,
    layout::Layout,
    link::{Letter, Sent},
    provider::Shared,
    publish::Copy,
    wire,
};

impl Shared {
    /// Checks all before it publishes the first, so that what can never be published leaves nothing behind.
    ///
    /// # Errors
    /// Which could not be published, and why.
    pub(crate) async fn publish_follow_ups(&self, then: &[FollowUp]) -> std::result::Result<(), (usize, Error)> {
        if then.is_empty() {
            return Ok(());
        }
        let until = Instant::now() + defaults::PUBLISH_DEADLINE;
        for (index, follow_up) in then.iter().enumerate() {
            let known = self.known_by(&follow_up.queue, until).await.map_err(|error| (index, error))?;
            self.check(&known, &follow_up.envelope).map_err(|refused| (index, refused.into()))?;
        }
        let now = self.env.now();
        let copy = |follow_up: &FollowUp| Copy {
            queue: follow_up.queue.clone(),
            after: follow_up.envelope.not_before.map_or(Duration::ZERO, |due| now.until(due)),
            envelope: follow_up.envelope.clone(),
            retry: false,
        };
        let sent = self.send_copies(then.iter().map(copy).collect()).await;
        sent.into_iter().enumerate().try_for_each(|(index, sent)| sent.map_err(|error| (index, error)))
    }

    /// The same job again, after a time.
    pub(crate) async fn publish_copy(
        &self,
        queue: &QueueName,
        envelope: Envelope,
        after: Duration,
        retry: bool,
    ) -> Result<()> {
        let copy = Copy { queue: queue.clone(), envelope, after, retry };
        self.send_copies(vec![copy]).await.pop().unwrap_or_else(|| Err(fault::unanswered("publish")))
    }

    /// A job that has died.
    pub(crate) async fn bury(&self, queue: &QueueName, job: &Envelope, error: &JobError) -> Result<()> {
        self.bury_message(queue, wire::properties(job), job.payload.clone(), error).await
    }

    /// A message that has died, as it came.
    pub(crate) async fn bury_message(
        &self,
        queue: &QueueName,
        properties: BasicProperties,
        body: Bytes,
        error: &JobError,
    ) -> Result<()> {
        let properties = letter::mark(properties, error, self.env.now());
        self.post(queue, ShortString::default(), self.layout.dead(queue), properties, body).await
    }

    /// A message as it came, to a band, after a time.
    pub(crate) async fn publish_message(
        &self,
        queue: &QueueName,
        band: u8,
        properties: BasicProperties,
        body: Bytes,
        after: Duration,
    ) -> Result<()> {
        match delay::route(delay::seconds(after), &Layout::destination(queue, band)) {
            None => self.post(queue, ShortString::default(), self.layout.ready(queue, band), properties, body).await,
            Some(route) => {
                let until = Instant::now() + defaults::PUBLISH_DEADLINE;
                self.climb(route.rung, until).await?;
                let key = ShortString::try_new(route.key).unwrap_or_default();
                let properties = wire::in_one_lane(properties);
                self.post(queue, self.layout.delay(route.rung), key, properties, body).await
            }
        }
    }

    /// What was missing, as far as this process may say how it is to be. Dead letters are the same for every queue.
    async fn mend(&self, queue: &QueueName, routing_key: &ShortString, until: Instant) -> Result<()> {
        self.specs.gone(queue);
        self.known_by(queue, until).await?;
        if *routing_key == self.layout.dead(queue) {
            let connection = self.work.connected(until, "declare").await?;
            self.topology.declare_dead(&connection, &self.layout, queue).await?;
        }
        Ok(())
    }

    /// Once more where the queue was gone, which is declared anew then, and a few times where it refuses.
    async fn post(
        &self,
        queue: &QueueName,
        exchange: ShortString,
        routing_key: ShortString,
        properties: BasicProperties,
        body: Bytes,
    ) -> Result<()> {
        let until = Instant::now() + defaults::PUBLISH_DEADLINE;
        let (mut first, mut pauses) = (true, Sent::PAUSES.into_iter());
        loop {
            let (properties, body) = (properties.clone(), body.clone());
            let letter = Letter { exchange: exchange.clone(), routing_key: routing_key.clone(), properties, body };
            match self.publisher.send(vec![letter], until).await.pop() {
                Some(Sent::Confirmed) => return Ok(()),
                Some(Sent::Returned) if first => {
                    first = false;
                    self.mend(queue, &routing_key, until).await?;
                }
                Some(Sent::Returned) => return Err(Error::from(Rejection::Unroutable).on(queue)),
                Some(Sent::NotWritten(error)) if first && error.code() == ErrorCode::NotFound => {
                    first = false;
                    self.topology.forget();
                    self.mend(queue, &routing_key, until).await?;
                }
                Some(Sent::Refused(error)) => match pauses.next().filter(|pause| Instant::now() + *pause < until) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error.on(queue)),
                },
                Some(Sent::NotWritten(error) | Sent::Unknown(error)) => return Err(error.on(queue)),
                None => return Err(fault::unanswered("publish").on(queue)),
            }
        }
    }
}
