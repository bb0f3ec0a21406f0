//! Bringing jobs in, by wake-up and not by polling.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use super::pool::Pool;
use crate::{clock::Random, error::ErrorCode};

/// A fetch that found nothing in that time is made again: it costs one call, and outlives no connection.
const FETCH_WAIT: Duration = Duration::from_secs(30);
/// The first after one that failed, so that it is soon known to work again.
const PROBE_WAIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// So that jobs come in again within five seconds of the return of whoever was away.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Fetches whenever there is room, until the pool stops; the slots end when its buffer is empty then.
pub(super) async fn fetch(pool: Arc<Pool>) {
    let mut pause = FIRST_PAUSE;
    while let Some(room) = room(&pool).await {
        pool.follow_demand().await;
        let wait = if pause == FIRST_PAUSE { FETCH_WAIT } else { PROBE_WAIT };
        let asked = tokio::time::Instant::now();
        pool.intake.begins(pool.env().clock.monotonic());
        match pool.consumer().fetch(room, wait).await {
            Ok(deliveries) if !deliveries.is_empty() => {
                pause = FIRST_PAUSE;
                let now = pool.env().clock.monotonic();
                pool.intake.ended_well(now);
                let is_alone = deliveries.len() == 1;
                pool.buffer.fill(pool.take_in(deliveries, now));
                if is_alone {
                    step_aside().await;
                }
                continue;
            }
            // Nothing came in all that time, or the pool stops.
            Ok(_) if pool.is_stopping() || asked.elapsed() >= wait / 2 => {
                pause = FIRST_PAUSE;
                pool.intake.ended_well(pool.env().clock.monotonic());
                continue;
            }
            // A provider that answers at once, again and again, must not make this a busy loop.
            Ok(_) => {
                pool.intake.fails(pool.env().clock.monotonic());
                tracing::debug!(queue = %pool.setup.spec.name, "an empty answer came early");
            }
            Err(error) => {
                pool.intake.fails(pool.env().clock.monotonic());
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

/// Lets the slot that was woken go first: where one job came alone there is no haste to ask for more. In line, where any thread may take it up:
/// tokio's own `yield_now` would leave it to this one, and a handler that holds its thread would hold the fetcher.
async fn step_aside() {
    let mut stepped = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut stepped, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits until a good part of the buffer is free, so that each fetch brings several. `None` once the pool stops.
async fn room(pool: &Pool) -> Option<usize> {
    loop {
        let freed = pool.room.notified();
        if pool.is_stopping() {
            return None;
        }
        let enough = (pool.spare() / 2).max(1);
        match pool.free() {
            free if free >= enough => return Some(free),
            _ => {
                pool.intake.is_full();
                freed.await;
            }
        }
    }
}

/// Workers that lost one broker do not all come back at once.
fn jittered(pause: Duration, random: &dyn Random) -> Duration {
    pause.mul_f64(0.5 + random.fraction() / 2.0)
}

/// Whether jobs come in. Written once a fetch, on the local monotonic clock.
#[derive(Debug)]
pub(super) struct Intake(Mutex<Flow>);

#[derive(Debug, Clone, Copy)]
struct Flow {
    /// When a fetch ended well last, or the pool began.
    fed: Duration,
    now: Doing,
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    /// Nothing: there is no room, or the last fetch has just ended.
    Resting,
    /// It waits for jobs, since then.
    Fetching(Duration),
    /// No fetch has ended well since then.
    Failing(Duration),
    /// The fetcher died, and its successor has not begun.
    Dead,
}

impl Intake {
    pub(super) fn new(now: Duration) -> Self {
        Self(Mutex::new(Flow { fed: now, now: Doing::Resting }))
    }

    fn begins(&self, now: Duration) {
        let mut flow = self.flow();
        // One that tries again after a failure has yet to show that it works.
        if !matches!(flow.now, Doing::Failing(_)) {
            flow.now = Doing::Fetching(now);
        }
    }

    fn ended_well(&self, now: Duration) {
        *self.flow() = Flow { fed: now, now: Doing::Resting };
    }

    fn fails(&self, now: Duration) {
        let mut flow = self.flow();
        if !matches!(flow.now, Doing::Failing(_)) {
            flow.now = Doing::Failing(now);
        }
    }

    fn is_full(&self) {
        self.flow().now = Doing::Resting;
    }

    pub(super) fn dies(&self) {
        self.flow().now = Doing::Dead;
    }

    /// How long ago a fetch ended well or began to wait, and whether jobs come in: a fetch that fails or does not return for
    /// `limit` beyond its wait brings none.
    pub(super) fn at(&self, now: Duration, limit: Duration) -> (Duration, bool) {
        let flow = *self.flow();
        let ago = |then: Duration| now.saturating_sub(then);
        match flow.now {
            Doing::Resting => (ago(flow.fed), true),
            Doing::Fetching(since) => (ago(since.max(flow.fed)), ago(since) <= FETCH_WAIT + limit),
            Doing::Failing(since) => (ago(flow.fed), ago(since) <= limit),
            Doing::Dead => (ago(flow.fed), false),
        }
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_fetch_that_waits_is_well_and_one_that_never_returns_is_not() {
        let intake = Intake::new(secs(1));
        assert_eq!(intake.at(secs(9), LIMIT), (secs(8), true), "there is no room");
        intake.begins(secs(10));
        assert_eq!(intake.at(secs(40), LIMIT), (secs(30), true));
        assert_eq!(intake.at(secs(70), LIMIT), (secs(60), true));
        assert_eq!(intake.at(secs(71), LIMIT), (secs(61), false));
        intake.ended_well(secs(80));
        assert_eq!(intake.at(secs(200), LIMIT), (secs(120), true));
    }

    #[test]
    fn a_fetch_that_fails_too_long_is_not_well_however_often_it_is_tried() {
        let intake = Intake::new(secs(0));
        intake.ended_well(secs(5));
        intake.fails(secs(10));
        intake.begins(secs(11));
        intake.fails(secs(12));
        assert_eq!(intake.at(secs(40), LIMIT), (secs(35), true));
        assert_eq!(intake.at(secs(41), LIMIT), (secs(36), false));
        intake.begins(secs(42));
        intake.ended_well(secs(43));
        assert_eq!(intake.at(secs(44), LIMIT), (secs(1), true));
        intake.dies();
        assert_eq!(intake.at(secs(44), LIMIT), (secs(1), false));
        intake.begins(secs(45));
        assert_eq!(intake.at(secs(46), LIMIT), (secs(1), true));
    }
}
