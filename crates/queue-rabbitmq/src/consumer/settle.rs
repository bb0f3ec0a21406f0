//! What becomes of deliveries: what follows is published and confirmed first, then the original is acknowledged.

use std::time::Duration;

use futures_util::future::join_all;
use queue_core::{
    Envelope, Error,
    provider::{Disposition, SettleOutcome, Settlement},
};

use super::{
    ending::{End, Failure, Sent},
    line::Held,
    shelf::{Claim, Granted},
    station::Station,
};

/// A bare transport cannot be told that a key is free, so a parked job looks again this often.
const PARK_POLL: Duration = Duration::from_secs(1);

pub(super) async fn all(station: &Station, batch: &[Settlement]) -> Vec<SettleOutcome> {
    let mut outcomes: Vec<Option<SettleOutcome>> = vec![None; batch.len()];
    let mut open: Vec<usize> = (0..batch.len()).collect();
    while !open.is_empty() {
        let round = begin(station, batch, &open, &mut outcomes);
        let (busy, any) = (round.busy, open.len() > round.waiting);
        finish(station, batch, round.parts, &mut outcomes).await;
        open = busy;
        if !open.is_empty() && !any {
            // Another call settles the same deliveries.
            wait_for(station, batch, &open).await;
        }
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or(SettleOutcome::LeaseLost)).collect()
}

/// What one look at the shelf came to.
struct Round {
    parts: Parts,
    /// Left for another round: the same delivery is being settled already.
    busy: Vec<usize>,
    waiting: usize,
}

#[derive(Default)]
struct Parts {
    /// Those that ended by a frame alone.
    simple: Vec<Simple>,
    sent: Vec<Sent>,
    /// Those before which something is to be published.
    slow: Vec<(usize, Granted)>,
}

struct Simple {
    index: usize,
    band: usize,
    epoch: u64,
}

fn begin(station: &Station, batch: &[Settlement], open: &[usize], outcomes: &mut [Option<SettleOutcome>]) -> Round {
    station.change(|shelf| {
        let (mut parts, mut busy) = (Parts::default(), Vec::new());
        let mut simple = [(End::Acknowledge, Vec::new(), Vec::new()), (End::Requeue, Vec::new(), Vec::new())];
        for &index in open {
            match shelf.claim(&batch[index]) {
                Claim::Refused(outcome) => outcomes[index] = Some(outcome),
                Claim::Busy => busy.push(index),
                Claim::Granted(granted) if is_simple(&batch[index]) => {
                    let (_, indexes, all) = &mut simple[usize::from(how(&batch[index]) == End::Requeue)];
                    indexes.push(index);
                    all.push(granted);
                }
                Claim::Granted(granted) => parts.slow.push((index, granted)),
            }
        }
        for (how, indexes, all) in simple {
            let (_, sent) = shelf.finish(&all, how);
            parts.sent.extend(sent);
            let ended = indexes.into_iter().zip(all);
            parts.simple.extend(ended.map(|(index, one)| Simple { index, band: one.band, epoch: one.receipt.epoch }));
        }
        let waiting = busy.len();
        Round { parts, busy, waiting }
    })
}

async fn finish(station: &Station, batch: &[Settlement], parts: Parts, outcomes: &mut [Option<SettleOutcome>]) {
    let mut underway = Underway::new(station, batch, parts.slow);
    let failed = all_left(station, parts.sent).await;
    for one in parts.simple {
        outcomes[one.index] = Some(failed.or_settled((one.band, one.epoch)));
    }
    if underway.slow.is_empty() {
        return;
    }
    join_all(underway.slow.iter_mut().map(|one| one.publish(station, batch))).await;
    let (concluded, sent) = underway.conclude();
    let failed = all_left(station, sent).await;
    for (index, outcome, address) in concluded {
        outcomes[index] = Some(if outcome.is_settled() { failed.or_settled(address) } else { outcome });
    }
}

/// Deliveries marked as being settled, of which each ends, or is the worker's again: also where the caller goes away half-way.
struct Underway<'a> {
    station: &'a Station,
    slow: Vec<Slow>,
}

struct Slow {
    index: usize,
    granted: Granted,
    how: End,
    /// Whether what follows from it is safe; `None` until that is known.
    published: Option<Result<(), SettleOutcome>>,
}

impl Slow {
    async fn publish(&mut self, station: &Station, batch: &[Settlement]) {
        self.published = Some(publish(station, &batch[self.index], &self.granted).await);
    }
}

/// Which settlement, what became of it as far as its frame leaves, and over which channel that is.
type Concluded = (usize, SettleOutcome, Address);

impl<'a> Underway<'a> {
    fn new(station: &'a Station, batch: &[Settlement], slow: Vec<(usize, Granted)>) -> Self {
        let slow = slow.into_iter().map(|(index, granted)| {
            let how = how(&batch[index]);
            Slow { index, granted, how, published: None }
        });
        Self { station, slow: slow.collect() }
    }

    /// Ends the originals of which all that follows is safe; the others are the worker's again.
    fn conclude(&mut self) -> (Vec<Concluded>, Vec<Sent>) {
        let slow = std::mem::take(&mut self.slow);
        let (mut concluded, mut sent) = (Vec::new(), Vec::new());
        if slow.is_empty() {
            return (concluded, sent);
        }
        self.station.change(|shelf| {
            let mut ended = [(End::Acknowledge, Vec::new(), Vec::new()), (End::Requeue, Vec::new(), Vec::new())];
            for one in slow {
                let address = (one.granted.band, one.granted.receipt.epoch);
                match one.published {
                    Some(Ok(())) => {
                        let (_, indexes, all) = &mut ended[usize::from(one.how == End::Requeue)];
                        indexes.push((one.index, address));
                        all.push(one.granted);
                    }
                    failed => {
                        shelf.keep(&one.granted);
                        let outcome = failed.and_then(Result::err).unwrap_or(SettleOutcome::LeaseLost);
                        concluded.push((one.index, outcome, address));
                    }
                }
            }
            for (how, indexes, all) in ended {
                let (alive, frames) = shelf.finish(&all, how);
                sent.extend(frames);
                let told = |((index, address), alive)| {
                    (index, if alive { SettleOutcome::Settled } else { SettleOutcome::LeaseLost }, address)
                };
                concluded.extend(indexes.into_iter().zip(alive).map(told));
            }
        });
        (concluded, sent)
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        // Whether its frames leave does not matter to anybody any more: those that do not come back.
        self.conclude();
    }
}

/// How the original ends once everything else is safe. What is given back at once keeps its place.
fn how(settlement: &Settlement) -> End {
    match &settlement.disposition {
        Disposition::Release { after, .. } if after.is_zero() => End::Requeue,
        _ => End::Acknowledge,
    }
}

/// Whether a frame is all that it takes.
fn is_simple(settlement: &Settlement) -> bool {
    let ends = match &settlement.disposition {
        Disposition::Complete { .. } | Disposition::Cancelled | Disposition::Expired => true,
        Disposition::Release { after, .. } => after.is_zero(),
        _ => false,
    };
    ends && settlement.then.is_empty()
}

/// A channel, by its band and epoch.
type Address = (usize, u64);

/// The channels over which a frame is not known to have left.
#[derive(Default)]
pub(super) struct Failed(Vec<(Address, Failure)>);

impl Failed {
    fn of(&self, address: Address) -> Option<&Failure> {
        self.0.iter().find(|(failed, _)| *failed == address).map(|(_, failure)| failure)
    }

    fn or_settled(&self, address: Address) -> SettleOutcome {
        self.of(address).map_or(SettleOutcome::Settled, |failure| failure.clone().outcome())
    }
}

/// Waits until the frames have left; the channels on which one did not are lost, and told.
pub(super) async fn all_left(station: &Station, sent: Vec<Sent>) -> Failed {
    let lost = |(band, epoch)| {
        station.change(|shelf| shelf.failed(band, epoch));
        // The band gets itself another channel, and the broker back what is out on this one.
        station.steer();
    };
    leave(sent, lost).await
}

/// Frames of one channel leave in their order: behind one that does not none is waited for.
async fn leave(sent: Vec<Sent>, lost: impl Fn(Address)) -> Failed {
    let mut failed = Failed::default();
    for frame in sent {
        let address = (frame.band, frame.epoch);
        if failed.of(address).is_none()
            && let Err(failure) = frame.left().await
        {
            lost(address);
            failed.0.push((address, failure));
        }
    }
    failed
}

/// Until one of these deliveries is no longer being settled by another call.
async fn wait_for(station: &Station, batch: &[Settlement], open: &[usize]) {
    let one_is_free = || station.look(|shelf| open.iter().any(|index| !shelf.is_ending(&batch[*index].receipt)));
    station.until(None, one_is_free).await;
}

/// Makes safe whatever the settlement leaves behind.
async fn publish(station: &Station, settlement: &Settlement, granted: &Granted) -> Result<(), SettleOutcome> {
    let Some(held) = station.look(|shelf| shelf.held(granted)) else { return Err(SettleOutcome::LeaseLost) };
    let (base, queue) = (&station.base, &station.queue);
    base.publish_follow_ups(&settlement.then).await.map_err(|(index, error)| not_settled(Some(index), error))?;
    let published = match &settlement.disposition {
        Disposition::Complete { .. } | Disposition::Cancelled | Disposition::Expired => Ok(()),
        Disposition::Release { after, .. } if after.is_zero() => Ok(()),
        Disposition::Retry { after, .. } => base.publish_copy(queue, successor(&held, true), *after, true).await,
        Disposition::Release { after, .. } => base.publish_copy(queue, successor(&held, false), *after, false).await,
        Disposition::Park { at_most, .. } => {
            base.publish_copy(queue, successor(&held, false), (*at_most).min(PARK_POLL), false).await
        }
        Disposition::DeadLetter { error } => base.bury(queue, &held.job, error).await,
    };
    published.map_err(|error| not_settled(None, error))
}

/// The next copy: it carries the count of deliveries that the broker keeps of this one only.
fn successor(held: &Held, retried: bool) -> Envelope {
    held.job.edit(|parts| {
        parts.deliveries = parts.deliveries.saturating_add(held.returns);
        if retried {
            parts.attempt = parts.attempt.saturating_add(1);
            parts.generation = parts.generation.saturating_add(1);
        }
    })
}

fn not_settled(then_index: Option<usize>, error: Error) -> SettleOutcome {
    SettleOutcome::NotSettled { then_index, error }
}

#[cfg(test)]
mod tests {
    use queue_core::ErrorCode;
    use tokio::time::Instant;

    use super::*;
    use crate::link::Bounds;

    #[tokio::test(start_paused = true)]
    async fn many_frames_that_do_not_leave_are_waited_for_once() {
        let (_gone, bounds) = Bounds::of_a_test(Duration::from_secs(10));
        let sent = (0..100).map(|_| Sent::stuck((1, 7), bounds.clone())).collect();
        let (began, lost) = (Instant::now(), std::cell::RefCell::new(Vec::new()));
        let failed = leave(sent, |address| lost.borrow_mut().push(address)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert_eq!(*lost.borrow(), [(1, 7)]);
        let outcome = failed.or_settled((1, 7));
        assert!(matches!(&outcome, SettleOutcome::Unknown(error) if error.code() == ErrorCode::Timeout), "{outcome:?}");
        assert!(failed.or_settled((2, 7)).is_settled());
    }
}
