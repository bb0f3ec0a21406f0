//! A received message, and how it is settled.

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    desk::{Desk, Phase, unanswered},
    hand::Hand,
};
use crate::{
    clock::Env,
    error::{ErrorCode, Result},
    job::{Envelope, JobError, JobId, JobKind, JobRef, QueueName, RetryPolicy},
    provider::{Delivery, Disposition, ReleaseReason},
    queue_spec::QueueSpec,
    scheduler::decide_end,
    worker::Failure,
};

/// A message in hand. It is yours until it is acknowledged, or its [`timeout`](crate::job::EnvelopeBuilder::timeout) has
/// passed; its lease is kept meanwhile.
///
/// Dropped without a word it goes back after a second, no attempt spent; while a panic unwinds it is as [`Acker::nack`]
/// with `HANDLER_PANICKED`, so that a message which breaks its consumers ends.
pub struct Received<M> {
    body: M,
    acker: Acker,
}

impl<M> Received<M> {
    pub(super) fn new(body: M, acker: Acker) -> Self {
        Self { body, acker }
    }

    /// The message.
    pub fn body(&self) -> &M {
        &self.body
    }

    /// The message, and what settles it: to work on the one and keep the other.
    pub fn into_parts(self) -> (M, Acker) {
        (self.body, self.acker)
    }

    /// As [`Acker::ack`].
    pub fn ack(self) -> Settled {
        self.acker.ack()
    }

    /// As [`Acker::nack`].
    pub fn nack(self, failure: impl Into<Failure>) -> Settled {
        self.acker.nack(failure)
    }

    /// As [`Acker::nack_after`].
    pub fn nack_after(self, delay: Duration, failure: impl Into<Failure>) -> Settled {
        self.acker.nack_after(delay, failure)
    }

    /// As [`Acker::release`].
    pub fn release(self, delay: Duration) -> Settled {
        self.acker.release(delay)
    }

    /// As [`Acker::reject`].
    pub fn reject(self, failure: impl Into<Failure>) -> Settled {
        self.acker.reject(failure)
    }
}

/// What is known of the message: id, kind, attempt, headers.
impl<M> Deref for Received<M> {
    type Target = Acker;

    fn deref(&self) -> &Acker {
        &self.acker
    }
}

/// Shows no payload.
impl<M> fmt::Debug for Received<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Received").field(&self.acker).finish()
    }
}

/// What settles a message in hand, once.
///
/// Each way is on its way when the call returns; awaiting its answer tells how it ended. `LEASE_LOST` means that the message was not in
/// hand any more (its timeout had passed, its lease was lost, its inbox closed): somebody else has it or will, and nothing
/// was changed. An answer of the broker that stays out is asked for again while the lease stands.
pub struct Acker {
    desk: Arc<Desk>,
    hand: Arc<Hand>,
    /// Otherwise the inbox still examines it.
    given_out: bool,
}

/// A message that was dropped comes back after that, so that nothing spins.
const DROPPED: Duration = Duration::from_secs(1);

impl Acker {
    pub(super) fn new(desk: Arc<Desk>, hand: Arc<Hand>) -> Self {
        Self { desk, hand, given_out: false }
    }

    pub(super) fn hand(&self) -> &Arc<Hand> {
        &self.hand
    }

    pub(super) fn delivery(&self) -> &Delivery {
        &self.hand.delivery
    }

    pub(super) fn give_out(&mut self) {
        self.given_out = true;
    }

    /// The message's id: the same in every delivery, and so the idempotency key for what its consumer calls.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.envelope().id
    }

    /// What finds it again.
    #[must_use]
    pub fn job(&self) -> JobRef {
        JobRef { queue: self.queue().clone(), id: self.id(), place: self.delivery().place }
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.desk.spec.name
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> &JobKind {
        &self.envelope().kind
    }

    /// The message as it travelled: payload, content type, priority, headers.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.delivery().envelope
    }

    /// Which attempt this is, from 1: a negative acknowledgement adds one, a lost lease does not.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.delivery().attempt
    }

    /// Whether a negative acknowledgement now would be final.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        retry_policy(self.delivery(), &self.desk.spec).is_spent(self.attempt())
    }

    /// Whether it was in somebody's hands before and was not settled, as far as the provider knows.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.delivery().redelivered
    }

    /// Whether somebody cancelled it since it was received, as of the last heartbeat: then a negative acknowledgement ends
    /// it, and after the grace it is taken back.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.hand.is_cancelled()
    }

    /// It is dealt with.
    pub fn ack(self) -> Settled {
        self.settle(Disposition::Complete { result: None })
    }

    /// It could not be dealt with: what becomes of it is what becomes of a job whose handler returns this. Any error is
    /// retried by the message's policy, else its queue's, and dead when its attempts are spent;
    /// [`Failure::RetryAfter`], [`Failure::Snooze`], [`Failure::Never`] and [`Failure::Cancel`] mean what they say.
    pub fn nack(self, failure: impl Into<Failure>) -> Settled {
        let disposition = match self.is_cancelled() {
            true => Disposition::Cancelled,
            false => self.ended_by(failure.into()),
        };
        self.settle(disposition)
    }

    /// The same, with a delay of its own before it is delivered again. It spends an attempt.
    pub fn nack_after(self, delay: Duration, failure: impl Into<Failure>) -> Settled {
        self.nack(match failure.into() {
            Failure::Retry(error) | Failure::RetryAfter(_, error) => Failure::RetryAfter(delay, error),
            other => other,
        })
    }

    /// Not now: it is delivered again after the delay (10 ms at least), no attempt spent.
    pub fn release(self, delay: Duration) -> Settled {
        self.nack(Failure::Snooze(delay))
    }

    /// It can never be dealt with: a dead letter, with the error.
    pub fn reject(self, failure: impl Into<Failure>) -> Settled {
        let error = match failure.into() {
            Failure::Retry(error) | Failure::RetryAfter(_, error) | Failure::Never(error) => error,
            Failure::Snooze(_) | Failure::Cancel => JobError::new(ErrorCode::HandlerFailed, "rejected by its consumer"),
        };
        self.nack(Failure::Never(error))
    }

    /// What a failure comes to, by the policy.
    pub(super) fn ended_by(&self, failure: Failure) -> Disposition {
        let policy = retry_policy(self.delivery(), &self.desk.spec);
        ended_by(failure, self.delivery(), &policy, self.desk.env())
    }

    pub(super) fn settle(self, disposition: Disposition) -> Settled {
        Settled { answer: self.desk.settle(&self.hand, disposition), desk: Arc::clone(&self.desk) }
    }
}

/// A message dropped without a word goes back. What was settled is decided already, and stays.
impl Drop for Acker {
    fn drop(&mut self) {
        if self.hand.is_decided() {
            return;
        }
        let disposition = if self.given_out && std::thread::panicking() {
            let error = JobError::new(ErrorCode::HandlerPanicked, "its consumer panicked");
            self.ended_by(Failure::Retry(error))
        } else {
            let at_once = !self.given_out || self.desk.phase() != Phase::Open;
            let after = if at_once { Duration::ZERO } else { DROPPED };
            Disposition::Release { after, reason: ReleaseReason::Busy }
        };
        self.desk.settle_unheard(&self.hand, disposition);
    }
}

/// Shows no payload.
impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acker")
            .field("queue", self.queue())
            .field("message", self.envelope())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// How a settlement ended, when it is awaited. It is on its way, awaited or not.
#[derive(Debug)]
#[must_use = "a settlement that came too late is an error"]
pub struct Settled {
    answer: oneshot::Receiver<Result<()>>,
    desk: Arc<Desk>,
}

impl Future for Settled {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_| Err(unanswered(&self.desk))))
    }
}

/// The message's own policy, else its queue's.
pub(super) fn retry_policy<'a>(delivery: &Delivery, spec: &'a QueueSpec) -> Cow<'a, RetryPolicy> {
    if delivery.envelope.headers.is_empty() {
        return Cow::Borrowed(&spec.retry);
    }
    let own = delivery.envelope.headers().ok().and_then(|headers| headers.retry);
    own.map_or(Cow::Borrowed(&spec.retry), Cow::Owned)
}

pub(super) fn ended_by(failure: Failure, delivery: &Delivery, policy: &RetryPolicy, env: &Env) -> Disposition {
    decide_end(Err(failure), delivery.attempt, policy, &*env.random)
}
