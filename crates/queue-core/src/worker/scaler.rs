//! Looking at a queue now and then, and having more or fewer slots for it.

use std::{sync::Arc, time::Duration};

use super::{
    autoscale::{History, Scaling, Seen, Step},
    pool::Pool,
};
use crate::{
    error::{ErrorCode, Result},
    event::PoolChange,
    stats::QueueStats,
};

/// Follows the load until it is ended, or the provider turns out to have no numbers.
pub(super) async fn scale(pool: Arc<Pool>) {
    let scaling = &pool.setup.scaling;
    let queue = &pool.setup.spec.name;
    let mut history = History::default();
    let mut blind = false;
    loop {
        tokio::time::sleep(scaling.interval).await;
        let seen = match look(&pool, scaling).await {
            Ok(seen) => seen,
            Err(error) if error.code() == ErrorCode::Unsupported => {
                let slots = pool.target();
                tracing::warn!(%queue, %error, slots, "the slots cannot follow the load: their number stays");
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut blind, true) {
                    tracing::warn!(%queue, %error, "cannot see the load; the number of slots stays until then");
                }
                history.blind();
                continue;
            }
        };
        blind = false;
        match history.decide(scaling, &seen) {
            Step::Stay => continue,
            Step::Up(by) => {
                pool.grow(by);
                let to = seen.slots + by;
                tracing::info!(%queue, from = seen.slots, to, ready = seen.ready, "more slots");
                pool.announce(|| PoolChange::ScaledUp { from: seen.slots, to });
            }
            Step::Down(by) => match pool.shrink(by) {
                0 => continue,
                fewer => {
                    let to = seen.slots - fewer;
                    tracing::info!(%queue, from = seen.slots, to, ready = seen.ready, "fewer slots");
                    pool.announce(|| PoolChange::ScaledDown { from: seen.slots, to });
                }
            },
        }
        pool.follow_demand().await;
    }
}

/// One round trip, for which it waits as long as it would until the next, or a second.
async fn look(pool: &Pool, scaling: &Scaling) -> Result<Seen> {
    let name = &pool.setup.spec.name;
    let patience = scaling.interval.max(Duration::from_secs(1));
    let late = |_| crate::Error::new(ErrorCode::Timeout, "the queue's numbers did not come in time").at("stats");
    let stats = match tokio::time::timeout(patience, pool.setup.scheduler.stats(name)).await.map_err(late)? {
        // Nobody has put anything into it yet.
        Err(error) if error.code() == ErrorCode::NotFound => QueueStats::empty(name.clone()),
        stats => stats?,
    };
    let (now, monotonic) = pool.env().clock.read();
    Ok(Seen {
        now: monotonic,
        ready: stats.claimable(),
        oldest: stats.oldest_claimable().map(|oldest| now - oldest),
        paused: stats.paused,
        slots: pool.target(),
        idle: pool.buffer.idle(),
    })
}
