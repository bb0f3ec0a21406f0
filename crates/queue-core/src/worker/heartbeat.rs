//! Signs of life for everything in hand, on a thread of their own: a handler that blocks its thread keeps its lease.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::sync::{Notify, watch};

use super::{
    cancels::listen,
    completer::Finished,
    gate,
    health::{forsake, watch_over},
    held::{Held, Order},
    pool::Pool,
    run::panic_text,
};
use crate::{
    config::defaults,
    error::{Error, ErrorCode, Result},
    provider::{BeatOutcome, Disposition, ReleaseReason},
};

/// Where heartbeats run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On a thread of their own.
    Thread,
    /// On the worker's runtime: for paused time, which other threads do not share.
    Runtime,
}

/// The running heartbeat; it ends when `stop` is dropped or set.
#[derive(Debug)]
pub(super) enum Heart {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// News is told that often at most, so that a handler which reports every step costs no more than one which does not.
const NEWS_EVERY: Duration = Duration::from_millis(100);
pub(super) const BATCH: usize = 500;
const AFTER_DEFECT: Duration = Duration::from_secs(1);
/// A heartbeat that was told to stop has so long: only a provider that blocks its thread needs more.
const LAST_BEAT: Duration = Duration::from_secs(2);

impl Heart {
    pub(super) fn start(
        place: Place,
        pools: Vec<Arc<Pool>>,
        bell: Arc<Notify>,
        stop: watch::Receiver<bool>,
        alarm: Alarm,
    ) -> Result<Self> {
        let beating = beat(pools, bell, stop, alarm);
        if place == Place::Runtime {
            return Ok(Self::Task(tokio::spawn(beating)));
        }
        let failed = |error: std::io::Error| {
            Error::new(ErrorCode::Internal, "cannot start the heartbeat's thread").at("worker").caused_by(error)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = std::thread::Builder::new().name("queue-heartbeat".into());
        thread.spawn(move || runtime.block_on(beating)).map(Self::Thread).map_err(failed)
    }

    /// Waits for its end, which must have been asked for and comes at its next await.
    pub(super) async fn ended(self) {
        let ended = async {
            match self {
                Self::Task(task) => task.await.is_ok(),
                // Joining must not block this thread.
                Self::Thread(thread) => {
                    tokio::task::spawn_blocking(move || thread.join().is_ok()).await.unwrap_or_default()
                }
            }
        };
        match tokio::time::timeout(LAST_BEAT, ended).await {
            Ok(true) => {}
            Ok(false) => tracing::error!("the heartbeat panicked"),
            Err(_) => tracing::error!("the provider blocks the heartbeat's thread, which is left behind"),
        }
    }
}

/// Beats until it is told to stop, also in the middle of a call that hangs.
async fn beat(pools: Vec<Arc<Pool>>, bell: Arc<Notify>, mut stop: watch::Receiver<bool>, alarm: Alarm) {
    let listeners = pools.iter().map(|pool| outlive_defects("the listener for cancels", || listen(pool)));
    let alive = async {
        tokio::join!(
            outlive_defects("the heartbeat", || beat_for_ever(&pools, &bell)),
            outlive_defects("the watch over the slots", || watch_over(&pools)),
            join_all(listeners),
            alarm.rings(),
        )
    };
    tokio::select! {
        biased;
        () = told(&mut stop) => {}
        _ = alive => {}
    }
}

/// Begins again, a little later, what a provider's defect ended: without it jobs lose their leases.
async fn outlive_defects<F: Future<Output = ()>>(what: &'static str, begin: impl Fn() -> F) {
    while let Err(panic) = AssertUnwindSafe(begin()).catch_unwind().await {
        tracing::error!(what, panic = panic_text(&*panic), "it panicked, and begins again");
        tokio::time::sleep(AFTER_DEFECT).await;
    }
}

async fn beat_for_ever(pools: &[Arc<Pool>], bell: &Notify) {
    let lease = pools.iter().map(|pool| pool.lease()).min().unwrap_or(defaults::LEASE);
    let every = lease / defaults::HEARTBEATS_PER_LEASE;
    let mut next = tokio::time::Instant::now() + every;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next) => {
                next = tokio::time::Instant::now() + every;
                // Side by side: one queue's broker that hangs must not cost the others their leases.
                join_all(pools.iter().map(|pool| async {
                    give_back(pool).await;
                    pool.cancels.forget(pool.env().clock.monotonic().saturating_sub(pool.lease()));
                    beat_for(pool, pool.in_hand()).await;
                    gate::renew(pool).await;
                }))
                .await;
            }
            () = bell.notified() => {
                join_all(pools.iter().map(|pool| async {
                    let news: Vec<_> = pool.in_hand().into_iter().filter(|held| held.has_news()).collect();
                    beat_for(pool, news).await;
                }))
                .await;
                tokio::time::sleep_until(next.min(tokio::time::Instant::now() + NEWS_EVERY)).await;
            }
        }
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that the worker is gone, which says the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A timer that also runs while handlers block all threads of the worker's runtime.
#[derive(Debug, Clone, Default)]
pub(super) struct Alarm(Arc<Clockwork>);

#[derive(Debug, Default)]
struct Clockwork {
    after: Mutex<Option<Duration>>,
    wound: Notify,
    rings: Notify,
}

impl Alarm {
    /// Once: resolves after that time, unless the heartbeat's thread is gone.
    pub(super) async fn after(&self, time: Duration) {
        *self.0.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
        self.0.wound.notify_one();
        self.0.rings.notified().await;
    }

    async fn rings(&self) {
        self.0.wound.notified().await;
        let after = *self.0.after.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::time::sleep(after.unwrap_or_default()).await;
        self.0.rings.notify_one();
    }
}

/// What has waited for a slot for a whole lease goes back, for a worker that has one.
async fn give_back(pool: &Pool) {
    let before = pool.env().clock.monotonic().saturating_sub(pool.lease());
    let withdrawn = pool.buffer.withdraw(before);
    if !withdrawn.is_empty() {
        pool.clog().await;
    }
    for held in withdrawn {
        held.rise(Duration::ZERO);
        let disposition = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Busy };
        pool.buffer.put(Finished { held, disposition: Some(disposition), run: Duration::ZERO, tries: 0 });
    }
}

pub(super) async fn beat_for(pool: &Pool, mut held: Vec<Arc<Held>>) {
    forsake(pool, &mut held);
    for held in held.chunks(BATCH) {
        let beats: Vec<_> = held.iter().map(|held| held.beat(pool.lease())).collect();
        let sent = pool.env().clock.monotonic();
        let outcomes = pool.heartbeat(&beats).await;
        for ((held, beat), outcome) in held.iter().zip(&beats).zip(outcomes) {
            match outcome {
                BeatOutcome::Held(lease) => held.renewed(&lease, sent),
                BeatOutcome::Lost => held.command(Order::Lost),
                BeatOutcome::Unknown(error) => {
                    held.untold(beat);
                    if !held.lease_stands(pool.env().clock.monotonic()) {
                        tracing::warn!(job = %held.delivery.envelope.id, %error, "the lease ended unrenewed");
                        held.command(Order::Lost);
                    }
                }
            }
        }
    }
}
