//! Jobs on their way to the broker.

use std::time::Duration;

use lapin::types::ShortString;
use queue_core::{
    Envelope, Error, ErrorCode, QueueName, QueueSpec, Result,
    config::defaults,
    provider::{PublishOptions, PublishOutcome, Rejection},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    SCHEME, capabilities, delay, fault,
    layout::Layout,
    link::{Letter, Sent},
    provider::Shared,
    wire,
};

/// A copy of a job that was accepted before: a retry, a delayed release, a follow-up, a redrive.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) queue: QueueName,
    pub(crate) envelope: Envelope,
    /// Not before this has passed.
    pub(crate) after: Duration,
    /// Its delay may be rounded up, so that it takes fewer hops.
    pub(crate) retry: bool,
}

/// Where a letter goes, and what it is made of. One that found no queue, or no rung, is made and sent once more after these were
/// declared: nothing of it was kept.
#[derive(Debug, Clone)]
struct Draft {
    queue: QueueName,
    exchange: ShortString,
    routing_key: ShortString,
    envelope: Envelope,
    rung: Option<u8>,
}

impl Draft {
    fn letter(&self) -> Letter {
        Letter {
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            properties: wire::properties(&self.envelope),
            body: self.envelope.payload.clone(),
        }
    }
}

impl Shared {
    /// See [`queue_core::QueueProvider::publish`].
    pub(crate) async fn publish(
        &self,
        queue: &QueueName,
        batch: Vec<Envelope>,
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let until = Instant::now() + options.deadline;
        let refused = self.refuse_durability(options.durability, "publish").err().map(Rejection::Denied);
        let known = match refused {
            Some(refused) => Err(refused),
            None => self.known_by(queue, until).await.map_err(rejection),
        };
        let spec = match known {
            Ok(spec) => spec,
            Err(refused) => return batch.iter().map(|_| PublishOutcome::Rejected(refused.clone())).collect(),
        };
        let now = self.env.now();
        let drafts = batch.into_iter().map(|envelope| {
            self.check(&spec, &envelope)?;
            let after = envelope.not_before.map_or(Duration::ZERO, |due| now.until(due));
            self.draft(queue, envelope, delay::seconds(after))
        });
        let drafts: Vec<std::result::Result<Draft, Rejection>> = drafts.collect();
        self.send(drafts, until).await
    }

    /// Publishes copies that are owed to a settlement: one answer each, in order. `Ok` means that the broker has it.
    pub(crate) async fn send_copies(&self, copies: Vec<Copy>) -> Vec<Result<()>> {
        let until = Instant::now() + defaults::PUBLISH_DEADLINE;
        let mut drafts = Vec::with_capacity(copies.len());
        for copy in copies {
            let Copy { queue, envelope, after, retry } = copy;
            drafts.push(match self.known_by(&queue, until).await {
                Err(error) => Err(rejection(error)),
                Ok(spec) => {
                    let seconds = delay::seconds(after);
                    let seconds = if retry { delay::round_retry(seconds) } else { seconds };
                    let due = (!after.is_zero()).then(|| self.env.now() + after);
                    let envelope = envelope.edit(|parts| parts.not_before = due);
                    self.check(&spec, &envelope).and_then(|()| self.draft(&queue, envelope, seconds))
                }
            });
        }
        let sent = self.send(drafts, until).await;
        sent.into_iter()
            .map(|outcome| match outcome {
                PublishOutcome::Accepted { .. } => Ok(()),
                PublishOutcome::Duplicate { existing } => {
                    Err(Error::new(ErrorCode::Duplicate, "the unique key is held").on(&existing.queue))
                }
                PublishOutcome::Rejected(rejection) => Err(rejection.into()),
                PublishOutcome::Unknown(error) => Err(error),
            })
            .collect()
    }

    /// What is checked before anything is written.
    pub(crate) fn check(&self, spec: &QueueSpec, envelope: &Envelope) -> std::result::Result<(), Rejection> {
        let limit = spec.max_encoded_len.min(capabilities::MAX_ENCODED_LEN);
        let actual = envelope.encoded_len();
        if actual > limit {
            return Err(Rejection::TooLarge { limit, actual });
        }
        if let Some(named) = envelope.partition() {
            spec.check_partition(Some(&named)).map_err(|error| Rejection::Denied(error.by(SCHEME)))?;
        }
        let max = self.options.max_hold;
        if envelope.timeout > max {
            return Err(Rejection::ExceedsMaxHold { max });
        }
        // With a store it is the layer above that has seen to it.
        if envelope.unique.is_some() && envelope.store.is_none() {
            let instead = "name a store with `store=`: RabbitMQ knows of no keys";
            return Err(Rejection::Denied(Error::unsupported(SCHEME, "unique keys", instead)));
        }
        Ok(())
    }

    fn draft(&self, queue: &QueueName, envelope: Envelope, seconds: u64) -> std::result::Result<Draft, Rejection> {
        let band = envelope.priority.band();
        let (exchange, routing_key, rung) = if seconds == 0 {
            (ShortString::default(), self.layout.ready(queue, band), None)
        } else {
            let route = delay::route(seconds, &Layout::destination(queue, band));
            let route = route.ok_or(Rejection::DelayTooLong { max: delay::LONGEST })?;
            (self.layout.delay(route.rung), ShortString::try_new(route.key).unwrap_or_default(), Some(route.rung))
        };
        Ok(Draft { queue: queue.clone(), exchange, routing_key, envelope, rung })
    }

    /// One outcome per draft, in order.
    async fn send(&self, drafts: Vec<std::result::Result<Draft, Rejection>>, until: Instant) -> Vec<PublishOutcome> {
        let drafts = self.with_rungs(drafts, until).await;
        let letters = drafts.iter().flatten().map(Draft::letter).collect();
        let mut sent = self.publisher.send(letters, until).await.into_iter();
        let (mut outcomes, mut refused) = (Vec::with_capacity(drafts.len()), Vec::new());
        for draft in drafts {
            outcomes.push(match draft {
                Err(rejection) => PublishOutcome::Rejected(rejection),
                Ok(draft) => {
                    let sent = match sent.next() {
                        Some(sent) if is_homeless(&sent) => self.send_again(&draft, until).await,
                        sent => sent,
                    };
                    if matches!(sent, Some(Sent::Refused(_))) {
                        refused.push((outcomes.len(), draft));
                    }
                    outcome(sent)
                }
            });
        }
        self.send_refused(refused, until, &mut outcomes).await;
        outcomes
    }

    /// A queue that is being made, or looks for its leader, may take after a while what it refused.
    async fn send_refused(&self, mut refused: Vec<(usize, Draft)>, until: Instant, outcomes: &mut [PublishOutcome]) {
        for pause in Sent::PAUSES {
            if refused.is_empty() || Instant::now() + pause >= until {
                return;
            }
            tokio::time::sleep(pause).await;
            let letters = refused.iter().map(|(_, draft)| draft.letter()).collect();
            let sent = self.publisher.send(letters, until).await;
            let mut again = Vec::new();
            for ((index, draft), sent) in refused.into_iter().zip(sent) {
                let sent = if is_homeless(&sent) { self.send_again(&draft, until).await } else { Some(sent) };
                if matches!(sent, Some(Sent::Refused(_))) {
                    again.push((index, draft));
                }
                outcomes[index] = after_a_refusal(outcome(sent));
            }
            refused = again;
        }
    }

    /// The rungs that the drafts need are declared; a draft whose rung cannot be is refused.
    async fn with_rungs(
        &self,
        drafts: Vec<std::result::Result<Draft, Rejection>>,
        until: Instant,
    ) -> Vec<std::result::Result<Draft, Rejection>> {
        let Some(highest) = drafts.iter().flatten().filter_map(|draft| draft.rung).max() else { return drafts };
        let Err(error) = self.climb(highest, until).await else { return drafts };
        let refused = rejection(error);
        let check = |draft: std::result::Result<Draft, Rejection>| {
            draft.and_then(|draft| if draft.rung.is_some() { Err(refused.clone()) } else { Ok(draft) })
        };
        drafts.into_iter().map(check).collect()
    }

    pub(crate) async fn climb(&self, rung: u8, until: Instant) -> Result<()> {
        let climbing = async {
            let connection = self.work.connected(until, "publish").await?;
            self.topology.climb(&connection, &self.layout, Some(rung)).await
        };
        timeout_at(until, climbing).await.unwrap_or_else(|_| Err(fault::unanswered("publish")))
    }

    /// The queue is gone, or a part of the ladder: somebody removed it. It is made anew, as at the first use.
    async fn send_again(&self, draft: &Draft, until: Instant) -> Option<Sent> {
        self.specs.gone(&draft.queue);
        self.topology.forget();
        let made = async {
            self.known_by(&draft.queue, until).await?;
            match draft.rung {
                Some(rung) => self.climb(rung, until).await,
                None => Ok(()),
            }
        };
        if let Err(error) = made.await {
            return Some(Sent::NotWritten(error));
        }
        self.publisher.send(vec![draft.letter()], until).await.pop()
    }
}

/// Whether nothing was there to take it.
fn is_homeless(sent: &Sent) -> bool {
    match sent {
        Sent::Returned => true,
        Sent::NotWritten(error) => error.code() == ErrorCode::NotFound,
        Sent::Confirmed | Sent::Refused(_) | Sent::Unknown(_) => false,
    }
}

fn outcome(sent: Option<Sent>) -> PublishOutcome {
    match sent {
        Some(Sent::Confirmed) => PublishOutcome::Accepted { place: 0 },
        Some(Sent::Returned) => PublishOutcome::Rejected(Rejection::Unroutable),
        Some(Sent::NotWritten(error)) => PublishOutcome::Rejected(rejection(error)),
        Some(Sent::Refused(error) | Sent::Unknown(error)) => PublishOutcome::Unknown(error),
        None => PublishOutcome::Unknown(fault::unanswered("publish")),
    }
}

/// What was refused was written once, and the broker never said that it does not have it: a later try takes nothing of that back.
fn after_a_refusal(last: PublishOutcome) -> PublishOutcome {
    match last {
        PublishOutcome::Rejected(rejection) => PublishOutcome::Unknown(rejection.into()),
        other => other,
    }
}

/// An error before anything was written.
fn rejection(error: Error) -> Rejection {
    match error.code() {
        ErrorCode::NotFound => Rejection::Unroutable,
        ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Closed => Rejection::Unavailable(error),
        _ => Rejection::Denied(error),
    }
}
