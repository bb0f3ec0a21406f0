//! A running worker, and how it stops.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{
    crew::Crew,
    doorkeeper::Doorkeeper,
    heartbeat::{Alarm, Heart, Place},
    pool::Pool,
    status::WorkerStatus,
};
use crate::{config::defaults, error::Result, scheduler::Consuming};

/// A running worker. Stop it with [`Worker::stop`]; dropped, it is cut off as if killed, and its leases end by themselves.
#[derive(Debug)]
pub struct Worker {
    queues: Vec<QueueTasks>,
    heart: Heart,
    stop_heart: watch::Sender<bool>,
    alarm: Alarm,
    doorkeeper: Doorkeeper,
    drain: Duration,
    _consuming: Vec<Consuming>,
}

/// The crew of one queue.
#[derive(Debug)]
struct QueueTasks {
    pool: Arc<Pool>,
    crew: JoinHandle<()>,
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
        let alarm = Alarm::default();
        let heart = Heart::start(place, pools.clone(), bell, stop, alarm.clone())?;
        let consuming = pools.iter().map(|pool| pool.setup.scheduler.consuming(pool)).collect();
        let doorkeeper = Doorkeeper::start(&pools);
        let queues = pools.into_iter().map(|pool| QueueTasks::start(pool, drain)).collect();
        Ok(Self { queues, heart, stop_heart, alarm, doorkeeper, drain, _consuming: consuming })
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        let pools: Vec<_> = self.queues.iter().map(|queue| &queue.pool).collect();
        let name = pools.first().map_or_else(|| Arc::from(""), |pool| Arc::clone(&pool.setup.options.worker));
        WorkerStatus { name, pools: pools.into_iter().map(|pool| pool.status()).collect() }
    }

    /// Stops fetching, gives back what was not started, waits for running jobs until the deadline, then asks them to stop,
    /// drops those that do not within 5 s, and gives them back. It returns at most 10 s after the deadline, also where a
    /// handler blocks its thread or the provider does not answer: such jobs count as aborted, and their leases end by
    /// themselves.
    pub async fn stop(mut self) -> DrainReport {
        self.doorkeeper.leave();
        let longest = self.drain.saturating_add(defaults::CANCEL_GRACE).saturating_add(LAST_SETTLEMENTS);
        let cut_off = watch::Sender::new(false);
        let reports = join_all(self.queues.into_iter().map(|queue| queue.drain(longest, cut_off.subscribe())));
        // Two clocks: this runtime's stands still while handlers block all its threads, the heartbeat's while a provider does.
        let too_late = async {
            tokio::select! {
                biased;
                () = self.alarm.after(longest) => {}
                () = tokio::time::sleep(longest) => {}
            }
            cut_off.send_replace(true);
            std::future::pending::<()>().await;
        };
        let reports = tokio::select! {
            // In one order, so that a simulation replays.
            biased;
            reports = reports => reports,
            () = too_late => Vec::new(),
        };
        // Cut off, it may have no thread left to end on; dropping it is enough.
        if !*cut_off.borrow() {
            self.doorkeeper.stop().await;
        }
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
    fn start(pool: Arc<Pool>, drain: Duration) -> Self {
        let crew = tokio::spawn(Crew::begin(Arc::clone(&pool)).work(drain));
        Self { pool, crew }
    }

    async fn drain(mut self, longest: Duration, mut cut_off: watch::Receiver<bool>) -> DrainReport {
        self.pool.stop();
        let consumer = self.pool.consumer();
        // Closing ends the pending fetch; the receipts stay good while the slots finish.
        let orderly = async { tokio::join!(consumer.close(longest), &mut self.crew).1 };
        tokio::select! {
            biased;
            ended = orderly => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the worker's crew did not end well");
                }
            }
            _ = cut_off.wait_for(|cut_off| *cut_off) => {
                // A handler that blocks its thread, or a provider that does not answer: their leases end by themselves.
                let left = self.pool.in_hand().len();
                self.pool.drained.aborted.fetch_add(left, Ordering::Relaxed);
                tracing::warn!(queue = %self.pool.setup.spec.name, left, "stopped without settling these jobs: they will run again");
            }
        }
        let drained = &self.pool.drained;
        DrainReport {
            done: drained.done.load(Ordering::Relaxed),
            released: drained.released.load(Ordering::Relaxed),
            aborted: drained.aborted.load(Ordering::Relaxed),
        }
    }
}

/// Cut off, not stopped: nothing is settled any more.
impl Drop for QueueTasks {
    fn drop(&mut self) {
        self.crew.abort();
    }
}
