//! Receiving by pull.

use std::{fmt, marker::PhantomData, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    Payload, RawMessage, Received,
    acker::Acker,
    desk::Desk,
    keeper::{LAST_SETTLEMENTS, heartbeat, keep},
};
use crate::{
    config::defaults,
    error::{Error, ErrorCode, Result},
    job::{JobError, JobKind, QueueName},
    provider::{BeatOutcome, ConsumeOptions, Disposition, LeaseModel, ReleaseReason},
    scheduler::{JobScheduler, Target, Verdict, decide_start},
    worker::{DrainReport, Failure},
};

/// An inbox before it is opened.
#[must_use = "an inbox does nothing until it is opened"]
pub struct InboxBuilder<M> {
    target: Target,
    queue: Result<QueueName>,
    prefetch: usize,
    lease: Duration,
    drain: Duration,
    name: Option<Arc<str>>,
    messages: PhantomData<fn() -> M>,
}

impl<M: Payload> InboxBuilder<M> {
    pub(super) fn new(target: Target, queue: &str) -> Self {
        Self {
            target,
            queue: QueueName::new(queue),
            prefetch: Inbox::<M>::PREFETCH,
            lease: defaults::LEASE,
            drain: defaults::DRAIN_DEADLINE,
            name: None,
            messages: PhantomData,
        }
    }

    /// How many messages may be here unacknowledged, received or not: 1 to 100,000, by default [`Inbox::PREFETCH`]. What is
    /// here no other consumer gets; 1 shares most evenly.
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.prefetch = messages;
        self
    }

    /// How long a message is held without a sign of life; it is renewed three times in that time. Default 30 s. After a
    /// crash a message waits that long for another consumer.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long [`Inbox::close`] waits for what is in hand. Default 30 s.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain = deadline;
        self
    }

    /// What it is called in records.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; `CONFIG` for a prefetch outside its range, and where messages of every kind are
    /// asked for and the queue's are on several providers; `UNROUTABLE` where no provider has the queue; else as
    /// [`QueueProvider::consumer`](crate::QueueProvider::consumer).
    pub async fn open(self) -> Result<Inbox<M>> {
        let queue = self.queue?;
        if !(1..=Inbox::<M>::MAX_PREFETCH).contains(&self.prefetch) {
            return Err(config("an inbox's prefetch is 1 to 100,000").on(&queue));
        }
        let scheduler = scheduler_for::<M>(&self.target, &queue)?;
        let spec = scheduler.declared(&queue).await?;
        let name = self.name.unwrap_or_else(|| default_name(&scheduler));
        let mut options = ConsumeOptions::new(name, self.prefetch);
        options.lease = match scheduler.provider().capabilities(Some(&spec)).lease {
            LeaseModel::PerMessage { min, max } => self.lease.clamp(min, max),
            LeaseModel::Session { .. } => self.lease.max(Duration::from_millis(100)),
        };
        let consumer = scheduler.provider().consumer(&queue, options.clone()).await?;
        let desk = Arc::new(Desk::new(scheduler, spec, options, consumer));
        let (close, closing) = oneshot::channel();
        let keeper = tokio::spawn(keep(Arc::clone(&desk), closing));
        Ok(Inbox { desk, keeper, close: Some(close), drain: self.drain, messages: PhantomData })
    }
}

impl<M> fmt::Debug for InboxBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxBuilder")
            .field("queue", &self.queue)
            .field("prefetch", &self.prefetch)
            .finish_non_exhaustive()
    }
}

/// Messages of one queue, received when they are asked for. Several inboxes and workers of a queue, here and elsewhere,
/// share its messages: each gets its own. One inbox may be read from several tasks.
///
/// It fetches only while somebody waits in [`Inbox::receive`], so that one which nobody reads takes nothing away. It keeps
/// the lease of each message it gave out, on a task of its own on this runtime: a consumer that blocks its thread for
/// longer than the lease may lose its messages. Dropped, it is cut off as if killed: leases end by themselves, and what was
/// received can no longer be acknowledged. [`Inbox::close`] ends it in order.
pub struct Inbox<M> {
    desk: Arc<Desk>,
    keeper: JoinHandle<()>,
    close: Option<oneshot::Sender<Duration>>,
    drain: Duration,
    messages: PhantomData<fn() -> M>,
}

impl<M> Inbox<M> {
    /// How many messages may be here unacknowledged by default.
    pub const PREFETCH: usize = 16;
    /// The most that may be asked for.
    pub const MAX_PREFETCH: usize = 100_000;
    /// How long [`Inbox::stream`] waits for each message before it asks again.
    const LOOK: Duration = Duration::from_secs(30);
    /// A wait beyond it is as good as endless, and overflows no clock.
    const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3_600);
}

impl<M: Payload> Inbox<M> {
    /// Waits for a message, at most that long (and at most a second longer where the broker answers late). `None` when none
    /// came, also while all that may be here unacknowledged is in hand. Dropping the wait loses nothing.
    ///
    /// What cannot be read as an `M` is not returned: it becomes a dead letter with the error (`VALIDATION`), and one of
    /// another kind is retried by its policy for a consumer that has its type (`NO_HANDLER`), then dead; the wait goes on.
    /// So is what was cancelled or outlived its time, as for a job.
    ///
    /// # Errors
    /// `UNAVAILABLE`, `NOT_FOUND` where none came because the broker is away, or the queue was dropped: it goes on trying by itself.
    /// `CLOSED` after the inbox, or its provider, was closed.
    pub async fn receive(&self, wait: Duration) -> Result<Option<Received<M>>> {
        Ok(self.receive_batch(1, wait).await?.pop())
    }

    /// Waits for the first message as [`Inbox::receive`], then takes what is there, at most `max` and never more than the
    /// prefetch.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub async fn receive_batch(&self, max: usize, wait: Duration) -> Result<Vec<Received<M>>> {
        let until = Instant::now() + wait.min(Self::LONGEST_WAIT);
        loop {
            let hands = self.desk.next(max, until).await?;
            if hands.is_empty() {
                return Ok(Vec::new());
            }
            // From here on each goes back if this is dropped.
            let ackers = hands.into_iter().map(|hand| Acker::new(Arc::clone(&self.desk), hand)).collect();
            let good: Vec<_> = start(&self.desk, ackers).await.into_iter().filter_map(read).collect();
            if !good.is_empty() {
                return Ok(good);
            }
        }
    }

    /// Messages as they come, until the inbox or its provider is closed. An error in between (`UNAVAILABLE`) is an item, and
    /// the stream goes on.
    pub fn stream(&self) -> BoxStream<'_, Result<Received<M>>> {
        futures_util::stream::unfold(self, move |inbox| async move { Some((inbox.item().await?, inbox)) }).boxed()
    }

    async fn item(&self) -> Option<Result<Received<M>>> {
        loop {
            match self.receive(Self::LOOK).await {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => {}
                Err(error) if error.code() == ErrorCode::Closed => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The queue it reads.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.desk.spec.name
    }
}

impl<M> Inbox<M> {
    /// Gives back what was not received, waits for what is in hand until the deadline, then takes that back too. It returns
    /// 5 s after the deadline at most, also where the provider does not answer: those leases end by themselves.
    ///
    /// `done` counts what was settled meanwhile, `released` what nobody had received, `aborted` what was taken back.
    pub async fn close(mut self) -> DrainReport {
        if let Some(close) = self.close.take() {
            // An error means that the keeper ended by itself.
            let _ = close.send(self.drain);
        }
        match timeout(self.drain.saturating_add(LAST_SETTLEMENTS), &mut self.keeper).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the inbox's task did not end well"),
            Err(_) => {
                let left = self.desk.open();
                self.desk.counts.aborted.fetch_add(left, Ordering::Relaxed);
                tracing::warn!(queue = %self.desk.spec.name, left, "closed without settling these messages: they will be delivered again");
                self.keeper.abort();
                let _ = (&mut self.keeper).await;
            }
        }
        let counts = &self.desk.counts;
        DrainReport {
            done: counts.done.load(Ordering::Relaxed),
            released: counts.released.load(Ordering::Relaxed),
            aborted: counts.aborted.load(Ordering::Relaxed),
        }
    }
}

/// Cut off, not closed: nothing is settled any more.
impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl<M> fmt::Debug for Inbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("queue", &self.desk.spec.name).finish_non_exhaustive()
    }
}

/// What was fetched longer ago may belong to a queue that was paused since.
const FRESH: Duration = Duration::from_secs(1);
/// A start that could not be marked is left to someone who can.
const UNMARKED: Duration = Duration::from_secs(1);

/// Those that may be given out; the others are settled as for a job.
async fn start(desk: &Desk, ackers: Vec<Acker>) -> Vec<Acker> {
    let (now, monotonic) = desk.env().clock.read();
    let (mut out, mut again) = (Vec::with_capacity(ackers.len()), Vec::new());
    let mut paused = None;
    for acker in ackers {
        if !acker.hand().lease_stands(monotonic) {
            desk.lost(acker.hand());
            continue;
        }
        if let Verdict::Settle(disposition) = decide_start(acker.delivery(), &desk.spec, now) {
            settle(acker, disposition);
            continue;
        }
        if monotonic.saturating_sub(acker.hand().fetched) >= FRESH {
            if paused.is_none() {
                paused = Some(is_paused(desk).await);
            }
            if paused == Some(true) {
                settle(acker, Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Busy });
                continue;
            }
        }
        acker.hand().give_out(monotonic);
        let redelivered = acker.delivery().redelivered;
        if redelivered { again.push(acker) } else { out.push(acker) }
    }
    if !again.is_empty() {
        out.extend(mark_starts(desk, again).await);
    }
    out
}

/// What was in lost hands before is counted, durably, before it may take this consumer down too.
async fn mark_starts(desk: &Desk, ackers: Vec<Acker>) -> Vec<Acker> {
    let beats: Vec<_> = ackers.iter().map(|acker| acker.hand().beat(desk.options.lease)).collect();
    let sent = desk.env().clock.monotonic();
    let mut marked = Vec::with_capacity(ackers.len());
    for (acker, outcome) in ackers.into_iter().zip(heartbeat(desk, &beats).await) {
        match outcome {
            BeatOutcome::Held(lease) => {
                acker.hand().renewed(&lease, sent);
                marked.push(acker);
            }
            BeatOutcome::Lost => desk.lost(acker.hand()),
            BeatOutcome::Unknown(_) => {
                settle(acker, Disposition::Release { after: UNMARKED, reason: ReleaseReason::Busy });
            }
        }
    }
    marked
}

/// A message as its type, or settled as what cannot be one.
fn read<M: Payload>(mut acker: Acker) -> Option<Received<M>> {
    let raw = RawMessage::of(acker.envelope());
    let failure = match M::kind() {
        Some(kind) if raw.kind.as_str() != kind => {
            let message = format!("this inbox receives `{kind}` and no `{}`: subscribe with its type too", raw.kind);
            JobError::new(ErrorCode::NoHandler, message)
        }
        _ => match M::from_raw(raw) {
            Ok(body) => {
                acker.give_out();
                return Some(Received::new(body, acker));
            }
            Err(error) => error,
        },
    };
    tracing::warn!(queue = %acker.queue(), message = %acker.id(), error = %failure, "a message cannot be received");
    let disposition = acker.ended_by(Failure::Retry(failure));
    settle(acker, disposition);
    None
}

fn settle(acker: Acker, disposition: Disposition) {
    // It is on its way; nobody waits for its end.
    drop(acker.settle(disposition));
}

async fn is_paused(desk: &Desk) -> bool {
    let Ok(store) = desk.scheduler.store() else { return false };
    store.queue_control(&desk.spec.name).await.is_ok_and(|control| control.paused)
}

/// Where messages of the type are; a type of all kinds must find them in one place.
fn scheduler_for<M: Payload>(target: &Target, queue: &QueueName) -> Result<JobScheduler> {
    if let Some(kind) = M::kind() {
        return target.submit_to(queue, &JobKind::new(kind)?);
    }
    match <[JobScheduler; 1]>::try_from(target.consume_from(queue)?) {
        Ok([scheduler]) => Ok(scheduler),
        Err(_) => {
            let message =
                "the queue's kinds are on several providers: open an inbox for each type, or subscribe a worker";
            Err(config(message).on(queue))
        }
    }
}

fn config(message: &'static str) -> Error {
    Error::new(ErrorCode::Config, message).at("inbox")
}

fn default_name(scheduler: &JobScheduler) -> Arc<str> {
    format!("inbox-{}-{:04x}", std::process::id(), scheduler.env().random.next_u64() & 0xFFFF).into()
}
