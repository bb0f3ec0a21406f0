//! Counts for one process.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use tokio::sync::broadcast;

use super::{
    Ask, Grant, Holder, Limiter, Need, Room, RunEnd,
    breaker::Change,
    keys::Keys,
    permits::{Permit, Permits},
};
use crate::{
    clock::Env,
    error::Result,
    event::BreakerEvent,
    provider::ParkKey,
    store::{StoreScope, Watched},
};

/// Counts for one process, on its clock: one lock, no task, no timer.
///
/// A key that is idle (its bucket full, its window empty, nothing running, its breaker closed and without a recent run) is
/// forgotten in the course of further use; a breaker that is not closed is forgotten an hour after it was last asked for. A key
/// takes about 300 bytes; a sliding window adds 48 for each start it remembers, 48 KiB at most, a breaker 1.5 KiB at most. A
/// run that is under way takes about 120 bytes.
#[derive(Debug)]
pub struct LocalLimiter {
    env: Env,
    state: Mutex<State>,
    told: broadcast::Sender<BreakerEvent>,
}

/// A listener may be so many events behind.
const BEHIND: usize = 1_024;

#[derive(Debug, Default)]
struct State {
    keys: Keys,
    permits: Permits,
    /// Of breakers, in their order, until they are told.
    changes: Vec<(ParkKey, Change)>,
}

impl LocalLimiter {
    /// A limiter that has counted nothing yet.
    #[must_use]
    pub fn new(env: &Env) -> Self {
        Self { env: env.clone(), state: Mutex::default(), told: broadcast::Sender::new(BEHIND) }
    }

    /// Does something at the present moment, in which permits that were not renewed have ended.
    fn with<T>(&self, act: impl FnOnce(&mut State, Duration) -> T) -> T {
        let now = self.env.clock.monotonic();
        let mut state = self.lock();
        state.lapse(now);
        let answer = act(&mut state, now);
        // Told under the lock, so that changes come in their order.
        for (key, change) in state.changes.drain(..) {
            // An error means that nobody listens.
            let _ = self.told.send(BreakerEvent::new(self.env.now(), key, change.from, change.to));
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lapse(&mut self, now: Duration) {
        for permit in self.permits.lapsed(now) {
            self.end(permit, RunEnd::Undecided, now);
        }
    }

    fn acquire(&mut self, ask: &Ask, now: Duration, lease: Duration) -> Grant {
        if self.permits.renew(&ask.holder, now, lease) {
            return Grant::Granted;
        }
        let mut taken = Vec::with_capacity(ask.needs.len());
        for (index, need) in ask.needs.iter().enumerate() {
            let place = self.keys.place(need, now);
            let Some(key) = self.keys.get(place) else { continue };
            if let Some(change) = key.meter.advance(now) {
                self.changes.push((key.name.clone(), change));
            }
            let room = key.meter.room(now);
            if room.free == 0 {
                return Grant::Refused { need: index, retry_after: room.next };
            }
            // Named twice it is one.
            if taken.iter().all(|(other, _)| *other != place) {
                taken.push((place, 0));
            }
        }
        for (place, turn) in &mut taken {
            let Some(key) = self.keys.get(*place) else { continue };
            *turn = key.meter.take(now);
            key.held += 1;
        }
        self.permits.insert(ask.holder, now, lease, taken);
        Grant::Granted
    }

    fn end(&mut self, permit: Permit, how: RunEnd, now: Duration) {
        for (place, turn) in permit.taken {
            let Some(key) = self.keys.get(place) else { continue };
            key.held -= 1;
            if let Some(change) = key.meter.end(turn, permit.began, how, now) {
                self.changes.push((key.name.clone(), change));
            }
        }
    }

    fn room(&mut self, need: &Need, now: Duration) -> Room {
        let Some(key) = self.keys.find(need, now) else { return Keys::fresh(need.limit, now).room(now) };
        if let Some(change) = key.meter.advance(now) {
            self.changes.push((key.name.clone(), change));
        }
        key.meter.room(now)
    }

    fn tidy(&mut self, ask: &Ask, now: Duration) {
        let Self { keys, changes, .. } = self;
        keys.tidy(ask.needs.len() + 1, now, |key, change| changes.push((key.clone(), change)));
    }
}

#[async_trait]
impl Limiter for LocalLimiter {
    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }

    async fn acquire(&self, asks: &[Ask], lease: Duration) -> Vec<Grant> {
        self.with(|state, now| {
            let mut grant = |ask| {
                state.tidy(ask, now);
                state.acquire(ask, now, lease)
            };
            asks.iter().map(&mut grant).collect()
        })
    }

    async fn renew(&self, holders: &[Holder], lease: Duration) -> Result<()> {
        self.with(|state, now| {
            for holder in holders {
                state.permits.renew(holder, now, lease);
            }
        });
        Ok(())
    }

    async fn release(&self, ended: &[(Ask, RunEnd)]) -> Result<()> {
        self.with(|state, now| {
            for (ask, how) in ended {
                if let Some(permit) = state.permits.remove(&ask.holder) {
                    state.end(permit, *how, now);
                }
            }
        });
        Ok(())
    }

    async fn room(&self, needs: &[Need]) -> Vec<Result<Room>> {
        self.with(|state, now| needs.iter().map(|need| Ok(state.room(need, now))).collect())
    }

    fn watch(&self) -> BoxStream<'static, Watched<BreakerEvent>> {
        let told = self.told.subscribe();
        futures_util::stream::unfold(told, |mut told| async move {
            match told.recv().await {
                Ok(event) => Some((Watched::Event(event), told)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Watched::Missed, told)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
