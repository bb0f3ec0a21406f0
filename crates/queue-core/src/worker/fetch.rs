//! Bringing jobs in, by wake-up and not by polling.

use std::{sync::Arc, time::Duration};

use super::pool::Pool;
use crate::{clock::Random, error::ErrorCode};

/// A fetch that found nothing in that time is made again: it costs one call, and outlives no connection.
const FETCH_WAIT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fetches whenever there is room, until the pool stops; the slots end when its buffer is empty then.
pub(super) async fn fetch(pool: Arc<Pool>) {
    let mut pause = FIRST_PAUSE;
    while let Some(room) = room(&pool).await {
        let asked = tokio::time::Instant::now();
        match pool.consumer().fetch(room, FETCH_WAIT).await {
            Ok(deliveries) if !deliveries.is_empty() => {
                pause = FIRST_PAUSE;
                pool.buffer.fill(pool.take_in(deliveries, pool.env().clock.monotonic()));
                continue;
            }
            // Nothing came in all that time, or the pool stops.
            Ok(_) if pool.is_stopping() || asked.elapsed() >= FETCH_WAIT / 2 => continue,
            // A provider that answers at once, again and again, must not make this a busy loop.
            Ok(_) => tracing::debug!(queue = %pool.setup.spec.name, "an empty answer came early"),
            Err(error) => {
                tracing::warn!(queue = %pool.setup.spec.name, %error, "cannot fetch; trying again");
                if error.code() == ErrorCode::NotFound
                    && let Err(error) = pool.reopen().await
                {
                    tracing::warn!(queue = %pool.setup.spec.name, %error, "cannot consume the queue anew");
                }
            }
        }
        pool.pause_unless_stopped(jittered(pause, &*pool.env().random)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    pool.buffer.close();
}

/// Waits until a good part of the buffer is free, so that each fetch brings several. `None` once the pool stops.
async fn room(pool: &Pool) -> Option<usize> {
    let spare = pool.outstanding() - pool.setup.slots;
    let enough = (spare / 2).max(1);
    loop {
        let freed = pool.room.notified();
        if pool.is_stopping() {
            return None;
        }
        match pool.free() {
            free if free >= enough => return Some(free),
            _ => freed.await,
        }
    }
}

/// Workers that lost one broker do not all come back at once.
fn jittered(pause: Duration, random: &dyn Random) -> Duration {
    pause.mul_f64(0.5 + random.fraction() / 2.0)
}
