//! Finding slots that do not answer. From the heartbeat's thread, for a handler that blocks its thread blocks whatever else
//! would run there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    held::{Held, Order},
    pool::Pool,
};

/// Whether the crew comes when it is called: whether the runtime of the slots runs anything at all.
#[derive(Debug, Default)]
pub(super) struct RollCall {
    called: AtomicBool,
    silent: AtomicBool,
}

impl RollCall {
    /// From the crew, whenever it wakes.
    pub(super) fn answer(&self) {
        self.called.store(false, Ordering::Relaxed);
        self.silent.store(false, Ordering::Relaxed);
    }

    /// Calls again; `true` where the last call was the first to stay unanswered.
    fn call(&self) -> bool {
        self.called.swap(true, Ordering::Relaxed) && !self.silent.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_answered(&self) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }
}

/// Looks after the pools for as long as the worker lives: twice in the time after which a slot is taken for blocked, so that it
/// is reported after one and a half of it at the latest.
pub(super) async fn watch_over(pools: &[Arc<Pool>]) {
    let Some(limit) = pools.iter().map(|pool| pool.setup.sign_of_life).min() else { return };
    loop {
        tokio::time::sleep(limit / 2).await;
        for pool in pools {
            look_after(pool, limit);
        }
    }
}

fn look_after(pool: &Pool, limit: Duration) {
    for slot in pool.roster.look(&pool.signs(), pool.env().clock.monotonic(), limit) {
        let job = pool.in_slot(slot).map(|held| held.delivery.envelope.id);
        let reason = format!(
            "the slot has come to no await for {limit:?}: its handler blocks a thread; another takes its place"
        );
        pool.report(slot, job, reason);
        // There may be room for the next job now: what a blocked slot holds does not count.
        pool.room.notify_one();
    }
    // A crew that winds up answers no more.
    if !pool.is_stopping() && pool.call.call() {
        let reason =
            format!("nothing has run on the worker's runtime for {:?}: handlers block all its threads", limit / 2);
        pool.report(0, None, reason);
    }
    pool.muster.notify_one();
}

/// Takes out what blocked slots hold beyond all patience: its lease is not renewed, and once that has ended it is another
/// worker's.
pub(super) fn forsake(pool: &Pool, held: &mut Vec<Arc<Held>>) {
    let blocked = pool.roster.blocked();
    if blocked.is_empty() {
        return;
    }
    let now = pool.env().clock.monotonic();
    let overdue: Vec<_> = held.extract_if(.., |held| held.is_overdue(&blocked, now)).collect();
    let lost = overdue.iter().filter(|held| !held.lease_stands(now));
    pool.let_go(lost.inspect(|held| held.command(Order::Lost)));
}
