//! The one task of an inbox: it fetches what is wanted, keeps leases alive, settles, and closes in order.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    acker::{ended_by, retry_policy},
    desk::{Desk, Phase, Settling},
    hand::{Hand, Overdue, taken_back},
};
use crate::{
    config::defaults,
    error::{Error, ErrorCode},
    event::JobEvent,
    job::{JobError, JobRef},
    provider::{BeatOutcome, Disposition, SettleOutcome, Settlement},
    worker::{Failure, event_of},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const BATCH: usize = 500;
/// How finely timeouts in hand are kept.
const TICK: Duration = Duration::from_secs(1);
/// Between two attempts to settle the same.
const AGAIN: Duration = Duration::from_millis(100);
/// Thirty seconds of asking; then the message is left to its lease.
const TRIES: u32 = 300;
/// After its deadline, closing takes so long at most.
pub(super) const LAST_SETTLEMENTS: Duration = Duration::from_secs(5);

/// Whatever ends the task, those who wait for it hear of it.
struct Gone(Arc<Desk>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Keeps the desk until it is told to close, with the deadline for what is in hand.
pub(super) async fn keep(desk: Arc<Desk>, close: oneshot::Receiver<Duration>) {
    let _gone = Gone(Arc::clone(&desk));
    let _consuming = desk.scheduler.consuming_alone();
    tokio::join!(fetch(&desk), settle(&desk), beat(&desk), close_when_told(&desk, close));
}

async fn fetch(desk: &Desk) {
    let mut pause = FIRST_PAUSE;
    while let Some((room, until)) = desk.wanted().await {
        let Some(consumer) = desk.consumer() else { break };
        let wait = until.saturating_duration_since(Instant::now());
        let asked = Instant::now();
        let failure = match consumer.fetch(room, wait).await {
            Ok(deliveries) if !deliveries.is_empty() => {
                pause = FIRST_PAUSE;
                desk.take_in(deliveries);
                continue;
            }
            Ok(_) if asked.elapsed() >= wait / 2 || desk.phase() != Phase::Open => {
                desk.came_to_nothing(None, false);
                continue;
            }
            // A provider that answers at once, again and again, must not make this a busy loop.
            Ok(_) => None,
            Err(error) if error.code() == ErrorCode::Closed => {
                desk.begin_closing();
                break;
            }
            Err(error) => {
                tracing::warn!(queue = %desk.spec.name, %error, "cannot fetch; trying again");
                Some(error)
            }
        };
        let gone = failure.as_ref().is_some_and(|error| error.code() == ErrorCode::NotFound);
        desk.came_to_nothing(failure, true);
        if gone && let Err(error) = reopen(desk).await {
            tracing::warn!(queue = %desk.spec.name, %error, "cannot consume the queue anew");
        }
        // Those that lost one broker do not all come back at once.
        let jittered = pause.mul_f64(0.5 + desk.env().random.fraction() / 2.0);
        let _ = tokio::time::timeout(jittered, closing(desk)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    desk.fetch_ended();
}

async fn closing(desk: &Desk) {
    while desk.phase() == Phase::Open {
        desk.fetcher.notified().await;
    }
}

/// Consumes anew once a dropped queue is there again. Receipts are the old consumer's: not while one is in hand. It brings
/// no dropped queue back by itself.
async fn reopen(desk: &Desk) -> Result<(), Error> {
    let there = desk.scheduler.stats(&desk.spec.name).await;
    let gone = there.is_err_and(|error| error.code() == ErrorCode::NotFound);
    if !gone && desk.open() == 0 {
        let fresh = desk.scheduler.provider().consumer(&desk.spec.name, desk.options.clone()).await?;
        desk.replace_consumer(fresh);
    }
    Ok(())
}

/// Settles what is handed over. A batch is what came while the last one was under way.
async fn settle(desk: &Desk) {
    let (mut open, mut batch) = (Vec::new(), Vec::new());
    loop {
        let more = desk.drain(&mut batch, defaults::SETTLE_BATCH);
        open.append(&mut batch);
        if open.is_empty() {
            if !more {
                return;
            }
            desk.settler.notified().await;
            continue;
        }
        let mut again = Vec::new();
        while !open.is_empty() {
            let next = open.split_off(open.len().min(defaults::SETTLE_BATCH));
            again.append(&mut settle_batch(desk, std::mem::replace(&mut open, next)).await);
        }
        open = again;
        if !open.is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Settles a batch and returns what has to be settled again.
async fn settle_batch(desk: &Desk, batch: Vec<Settling>) -> Vec<Settling> {
    let Some(consumer) = desk.consumer() else { return Vec::new() };
    let settlement = |item: &Settling| Settlement::new(item.hand.delivery.receipt, item.disposition.clone());
    let settlements: Vec<_> = batch.iter().map(settlement).collect();
    let mut outcomes = consumer.settle(&settlements).await;
    let missing = || Error::new(ErrorCode::Internal, "the provider answered fewer settlements than it was given");
    outcomes.resize_with(batch.len(), || SettleOutcome::Unknown(missing()));
    let (mut again, mut done) = (Vec::new(), Vec::new());
    for (item, outcome) in batch.into_iter().zip(outcomes) {
        let may_repeat = matches!(outcome, SettleOutcome::Unknown(_) | SettleOutcome::NotSettled { .. });
        if may_repeat && item.tries < TRIES && item.hand.lease_stands(desk.env().clock.monotonic()) {
            again.push(Settling { tries: item.tries + 1, ..item });
        } else {
            done.push((item, outcome));
        }
    }
    desk.let_go(done.iter().map(|(item, _)| &item.hand));
    done.into_iter().for_each(|(item, outcome)| report(desk, item, outcome));
    again
}

fn report(desk: &Desk, item: Settling, outcome: SettleOutcome) {
    let Settling { hand, disposition, answer, .. } = item;
    let delivery = &hand.delivery;
    if matches!(outcome, SettleOutcome::Settled) {
        desk.scheduler.tell(|| {
            let job = JobRef { queue: desk.spec.name.clone(), id: delivery.envelope.id, place: delivery.place };
            let what = event_of(&disposition);
            JobEvent::of_envelope(desk.env().now(), job, &delivery.envelope, what, delivery.attempt)
        });
    }
    if outcome.is_settled() && answer.is_some() && desk.phase() != Phase::Open {
        desk.counts.done.fetch_add(1, Ordering::Relaxed);
    }
    let said = match outcome {
        SettleOutcome::Settled | SettleOutcome::AlreadySettled => Ok(()),
        SettleOutcome::LeaseLost | SettleOutcome::Conflict => {
            Err(taken_back("its lease was lost and another consumer has it, or had it").on(&desk.spec.name))
        }
        SettleOutcome::Unknown(error) | SettleOutcome::NotSettled { error, .. } => Err(error),
    };
    if let Err(error) = &said {
        tracing::warn!(queue = %desk.spec.name, message = %delivery.envelope.id, %error, "not settled: it will be delivered again");
    }
    if let Some(answer) = answer {
        // Whoever asked may not wait for the answer.
        let _ = answer.send(said);
    }
}

/// Signs of life for everything held, and an end to what is held too long.
async fn beat(desk: &Desk) {
    let lease = desk.options.lease;
    let every = lease / defaults::HEARTBEATS_PER_LEASE;
    let mut next = Instant::now() + every;
    while let Some(held) = desk.held() {
        if held.is_empty() {
            // What comes has a fresh lease.
            desk.heart.notified().await;
            next = Instant::now() + every;
            continue;
        }
        take_back_overdue(desk, &held);
        if Instant::now() >= next {
            next = Instant::now() + every;
            desk.give_back_since(desk.env().clock.monotonic().saturating_sub(lease));
            beat_for(desk, &held).await;
        }
        let tick = next.min(Instant::now() + TICK);
        let _ = tokio::time::timeout_at(tick, all_let_go(desk)).await;
    }
}

async fn all_let_go(desk: &Desk) {
    while desk.open() > 0 {
        desk.heart.notified().await;
    }
}

fn take_back_overdue(desk: &Desk, held: &[Arc<Hand>]) {
    let now = desk.env().clock.monotonic();
    for hand in held {
        let disposition = match hand.overdue(now) {
            None => continue,
            Some(Overdue::Cancelled) => Disposition::Cancelled,
            Some(Overdue::TimedOut) => {
                let message = format!("it was in hand for {:?} and not settled", hand.delivery.envelope.timeout);
                let error = JobError::new(ErrorCode::Timeout, message);
                ended_by(Failure::Retry(error), &hand.delivery, &retry_policy(&hand.delivery, &desk.spec), desk.env())
            }
        };
        desk.settle_unheard(hand, disposition);
    }
}

async fn beat_for(desk: &Desk, held: &[Arc<Hand>]) {
    for held in held.chunks(BATCH) {
        let beats: Vec<_> = held.iter().map(|hand| hand.beat(desk.options.lease)).collect();
        let sent = desk.env().clock.monotonic();
        for (hand, outcome) in held.iter().zip(heartbeat(desk, &beats).await) {
            match outcome {
                BeatOutcome::Held(lease) => hand.renewed(&lease, sent),
                BeatOutcome::Lost => desk.lost(hand),
                BeatOutcome::Unknown(error) => {
                    if !hand.lease_stands(desk.env().clock.monotonic()) {
                        tracing::warn!(message = %hand.delivery.envelope.id, %error, "the lease ended unrenewed");
                        desk.lost(hand);
                    }
                }
            }
        }
    }
}

/// A heartbeat that is answered within a third of the lease, be it with `Unknown`.
pub(super) async fn heartbeat(desk: &Desk, beats: &[crate::provider::Beat]) -> Vec<BeatOutcome> {
    let patience = desk.options.lease / defaults::HEARTBEATS_PER_LEASE;
    let mut outcomes = match desk.consumer() {
        Some(consumer) => tokio::time::timeout(patience, consumer.heartbeat(beats)).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let unknown = || Error::new(ErrorCode::Timeout, "the heartbeat was not answered in time").at("heartbeat");
    outcomes.resize_with(beats.len(), || BeatOutcome::Unknown(unknown()));
    outcomes
}

/// Ends the intake, waits for what is in hand until the deadline, and takes it back then.
async fn close_when_told(desk: &Desk, close: oneshot::Receiver<Duration>) {
    // Without a word the inbox was dropped, which aborts this task.
    let Ok(deadline) = close.await else { return std::future::pending().await };
    desk.begin_closing();
    let Some(consumer) = desk.consumer() else { return };
    let emptied = async {
        while desk.held().is_some() {
            desk.closer.notified().await;
        }
    };
    let in_order = async {
        if tokio::time::timeout(deadline, emptied).await.is_err() {
            desk.take_back_all();
        }
    };
    tokio::join!(consumer.close(deadline.saturating_add(LAST_SETTLEMENTS)), in_order);
}
