//! A running worker, and how it stops.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    completer::complete,
    doorkeeper::Doorkeeper,
    fetch::fetch,
    heartbeat::{Heart, Place},
    held::{Order, Why},
    pool::Pool,
    run::slot,
};
use crate::{config::defaults, error::Result, scheduler::Consuming};

/// A running worker. Stop it with [`Worker::stop`]; dropped, it is cut off as if killed, and its leases end by themselves.
#[derive(Debug)]
pub struct Worker {
    queues: Vec<QueueTasks>,
    heart: Heart,
    stop_heart: watch::Sender<bool>,
    doorkeeper: Doorkeeper,
    drain: Duration,
    _consuming: Vec<Consuming>,
}

/// The tasks of one queue. Each is owned here and awaited at the stop.
#[derive(Debug)]
struct QueueTasks {
    pool: Arc<Pool>,
    fetcher: JoinHandle<()>,
    slots: JoinSet<()>,
    completer: JoinHandle<()>,
}

/// After the deadline and the grace, what is still to be settled has so long.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(5);

/// What became of the jobs in hand when a worker stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Ran to their end.
    pub done: usize,
    /// Given back unstarted.
    pub released: usize,
    /// Stopped at the deadline and given back.
    pub aborted: usize,
}

impl Worker {
    pub(super) fn start(pools: Vec<Pool>, bell: Arc<Notify>, place: Place, drain: Duration) -> Result<Self> {
        let pools: Vec<_> = pools.into_iter().map(Arc::new).collect();
        let (stop_heart, stop) = watch::channel(false);
        let heart = Heart::start(place, pools.clone(), bell, stop)?;
        let consuming = pools.iter().map(|pool| pool.setup.scheduler.consuming(pool)).collect();
        let doorkeeper = Doorkeeper::start(&pools);
        let queues = pools.into_iter().map(QueueTasks::start).collect();
        Ok(Self { queues, heart, stop_heart, doorkeeper, drain, _consuming: consuming })
    }

    /// Stops fetching, gives back what was not started, waits for running jobs until the deadline, then asks them to stop,
    /// drops those that do not within 5 s, and gives them back. It returns at most 10 s after the deadline, also where a
    /// handler blocks its thread or the provider does not answer: such jobs count as aborted, and their leases end by
    /// themselves.
    pub async fn stop(mut self) -> DrainReport {
        self.doorkeeper.leave();
        let drains = self.queues.into_iter().map(|queue| queue.drain(self.drain));
        let reports = futures_util::future::join_all(drains).await;
        self.doorkeeper.stop().await;
        self.stop_heart.send_replace(true);
        self.heart.ended().await;
        reports.into_iter().fold(DrainReport::default(), |sum, report| DrainReport {
            done: sum.done + report.done,
            released: sum.released + report.released,
            aborted: sum.aborted + report.aborted,
        })
    }
}

impl QueueTasks {
    /// Fetcher → slots → completer, through one buffer: each ends when the one before it has.
    fn start(pool: Arc<Pool>) -> Self {
        let mut slots = JoinSet::new();
        for _ in 0..pool.setup.slots {
            slots.spawn(slot(Arc::clone(&pool)));
        }
        let fetcher = tokio::spawn(fetch(Arc::clone(&pool)));
        let completer = tokio::spawn(complete(Arc::clone(&pool)));
        Self { pool, fetcher, slots, completer }
    }

    async fn drain(mut self, deadline: Duration) -> DrainReport {
        self.pool.stop();
        let longest = deadline.saturating_add(defaults::CANCEL_GRACE).saturating_add(LAST_SETTLEMENTS);
        let consumer = self.pool.consumer();
        // Closing ends the pending fetch; the receipts stay good while the slots finish.
        let orderly = async { tokio::join!(consumer.close(longest), self.finish(deadline)) };
        if tokio::time::timeout(longest, orderly).await.is_err() {
            // A handler that blocks its thread, or a provider that does not answer: their leases end by themselves.
            self.slots.abort_all();
            let left = self.pool.in_hand().len();
            self.pool.drained.aborted.fetch_add(left, Ordering::Relaxed);
            tracing::warn!(queue = %self.pool.setup.spec.name, left, "stopped without settling these jobs: they will run again");
        }
        let drained = &self.pool.drained;
        DrainReport {
            done: drained.done.load(Ordering::Relaxed),
            released: drained.released.load(Ordering::Relaxed),
            aborted: drained.aborted.load(Ordering::Relaxed),
        }
    }

    async fn finish(&mut self, deadline: Duration) {
        ended("fetcher", (&mut self.fetcher).await);
        // It did so itself, unless it panicked.
        self.pool.buffer.close();
        if tokio::time::timeout(deadline, self.slots_end()).await.is_err() {
            let stop = Order::Stop { why: Why::Shutdown, grace: defaults::CANCEL_GRACE };
            for held in self.pool.in_hand() {
                held.command(stop);
            }
            self.slots_end().await;
        }
        self.pool.buffer.close_finished();
        ended("completer", (&mut self.completer).await);
    }

    async fn slots_end(&mut self) {
        while let Some(slot) = self.slots.join_next().await {
            ended("slot", slot);
        }
    }
}

/// Cut off, not stopped: nothing is settled any more.
impl Drop for QueueTasks {
    fn drop(&mut self) {
        self.fetcher.abort();
        self.completer.abort();
    }
}

fn ended(task: &'static str, outcome: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(error) = outcome {
        tracing::error!(task, %error, "a task of the worker did not end well");
    }
}
