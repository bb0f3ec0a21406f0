//! What becomes of deliveries: what follows is published and confirmed first, then the original is acknowledged.

use std::time::Duration;

use futures_util::future::join_all;
use queue_core::{
    Envelope, Error,
    provider::{Disposition, SettleOutcome, Settlement},
};

use super::{
    ending::{End, Sent},
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
    let failed = all_left(station, parts.sent).await;
    for one in parts.simple {
        let lost = failed.contains(&(one.band, one.epoch));
        outcomes[one.index] = Some(if lost { SettleOutcome::LeaseLost } else { SettleOutcome::Settled });
    }
    if parts.slow.is_empty() {
        return;
    }
    let published = join_all(parts.slow.iter().map(|(index, granted)| publish(station, &batch[*index], granted)));
    let mut ended: [(Vec<usize>, Vec<Granted>); 2] = Default::default();
    for (published, (index, granted)) in published.await.into_iter().zip(parts.slow) {
        match published {
            Ok(()) => {
                let ended = &mut ended[usize::from(how(&batch[index]) == End::Requeue)];
                ended.0.push(index);
                ended.1.push(granted);
            }
            Err(outcome) => {
                station.change(|shelf| shelf.keep(&granted));
                outcomes[index] = Some(outcome);
            }
        }
    }
    for ((indexes, all), how) in ended.into_iter().zip([End::Acknowledge, End::Requeue]) {
        let (alive, sent) = station.change(|shelf| shelf.finish(&all, how));
        let failed = all_left(station, sent).await;
        for ((index, granted), alive) in indexes.into_iter().zip(all).zip(alive) {
            let lost = !alive || failed.contains(&(granted.band, granted.receipt.epoch));
            outcomes[index] = Some(if lost { SettleOutcome::LeaseLost } else { SettleOutcome::Settled });
        }
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

/// Waits until the frames have left; the channels on which one did not are lost, and told.
pub(super) async fn all_left(station: &Station, sent: Vec<Sent>) -> Vec<(usize, u64)> {
    let mut failed = Vec::new();
    for frame in sent {
        let address = (frame.band, frame.epoch);
        if !frame.left().await && !failed.contains(&address) {
            station.change(|shelf| shelf.failed(address.0, address.1));
            failed.push(address);
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
