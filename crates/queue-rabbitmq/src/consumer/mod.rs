//! Taking jobs out: a channel and a prefetch for each priority band, dispatched strictly on this side.
//!
//! `plan.rs` shares the outstanding deliveries out over the bands, `band.rs` is the task that keeps one band's channel and
//! subscription, `line.rs` what that channel has not acknowledged, `shelf.rs` all of it behind one lock, `settle.rs` what
//! becomes of deliveries, `ending.rs` the acknowledgements on their way out, `outlet.rs` what is published
//! beside them, `memory.rs` what was settled lately, and
//! `odd.rs` messages that are no jobs.

mod band;
mod ending;
mod line;
mod memory;
mod odd;
mod outlet;
mod plan;
mod settle;
mod shelf;
mod station;

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, QueueSpec, Result,
    provider::{Beat, BeatOutcome, CloseReport, ConsumeOptions, Delivery, SettleOutcome, Settlement},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{fault, provider::Shared};
use plan::BANDS;
use station::Station;

/// The longest wait that is taken for one that ends.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Subscribes to every band of a queue that is there.
///
/// # Errors
/// `UNAVAILABLE`, `DENIED`.
pub(crate) async fn open(
    base: Arc<Shared>,
    spec: Arc<QueueSpec>,
    options: ConsumeOptions,
) -> Result<Arc<dyn Consumer>> {
    let station = Arc::new(Station::new(base, spec, &options));
    let mut bands = JoinSet::new();
    for band in 0..BANDS {
        bands.spawn(band::run(Arc::clone(&station), band));
    }
    let bands = Mutex::new(bands);
    // To begin subscriptions is several questions, one after the other.
    let patience = station.base.options.answer_timeout * 2;
    if !station.until(Some(Instant::now() + patience), || station.all_tried()).await {
        return Err(fault::unanswered("consumer").on(&station.queue));
    }
    match station.look(|shelf| shelf.in_trouble().cloned()) {
        Some(error) => Err(error.on(&station.queue)),
        None => Ok(Arc::new(RabbitConsumer { station, bands })),
    }
}

/// One consumer of one queue.
#[derive(Debug)]
struct RabbitConsumer {
    station: Arc<Station>,
    /// A task a band; they end with the consumer.
    bands: Mutex<JoinSet<()>>,
}

impl RabbitConsumer {
    /// Has the bands do what is wanted now, and waits until they have.
    async fn follow(&self, by: Instant) -> bool {
        let turn = self.station.steer();
        self.station.until(Some(by), || self.station.all_followed(turn)).await
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let station = &self.station;
        let give_up = Instant::now() + wait.min(LONGEST);
        loop {
            let changed = station.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            station.open("fetch")?;
            let now = station.base.env.now();
            let (found, trouble, woken) = station.quietly(|shelf| {
                if shelf.closing || max == 0 {
                    return (None, None, false);
                }
                let woken = shelf.wake();
                let found = shelf.hand(max, now, !wait.is_zero());
                let woken = woken || found.jobs.is_empty() && shelf.starves();
                let trouble = shelf.in_trouble().filter(|_| found.jobs.is_empty()).cloned();
                (Some(found), trouble, woken)
            });
            if woken {
                station.steer();
            }
            let Some(found) = found else { return Ok(Vec::new()) };
            if !found.jobs.is_empty() {
                // At once: whoever is dropped now would have them in hand, and nobody would know.
                return Ok(found.jobs);
            }
            settle::all_left(station, found.sent).await;
            if let Some(error) = trouble {
                return Err(error.on(&station.queue));
            }
            if Instant::now() >= give_up {
                return Ok(Vec::new());
            }
            let until = found.look_again.map_or(give_up, |soon| soon.min(give_up));
            // Either way it looks again.
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        settle::all(&self.station, batch).await
    }

    /// Nothing is sent: as long as the session lives the lease holds, up to the broker's own limit. Of progress and starts a
    /// broker without records can keep nothing.
    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let find = |beat: &Beat| self.station.look(|shelf| shelf.beat(&beat.receipt));
        beats.iter().map(|beat| find(beat).map_or(BeatOutcome::Lost, BeatOutcome::Held)).collect()
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.station.open("demand")?;
        self.station.change(|shelf| shelf.demand(outstanding));
        match self.follow(Instant::now() + self.station.base.options.answer_timeout).await {
            true => Ok(()),
            false => Err(fault::unanswered("demand").on(&self.station.queue)),
        }
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        let station = &self.station;
        let give_up = Instant::now() + deadline.min(LONGEST);
        station.change(|shelf| shelf.closing = true);
        // What is buffered goes back even where nobody waits for it.
        self.follow(give_up.max(Instant::now() + Duration::from_secs(1))).await;
        station.until(Some(give_up), || station.look(shelf::Shelf::handed) == 0).await;
        let still_open = station.look(shelf::Shelf::handed);
        let mut tasks = std::mem::take(&mut *self.bands.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        station.change(shelf::Shelf::clear);
        CloseReport { returned: station.returned.swap(0, Ordering::AcqRel), still_open }
    }
}
