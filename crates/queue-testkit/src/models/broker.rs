//! What survives its clients.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use queue_core::{Env, QueueName, provider::Rejection};
use tokio::sync::Notify;

use super::{Connection, Faults, Shape, line::Ground, queue::Letter, state::State};

/// A model broker: queues, their messages, and what the broker knows of its clients.
///
/// Everything lives in memory and under one lock. Time and randomness come from the [`Env`], waiting happens on
/// `tokio::time`, so a seeded environment in a paused runtime replays exactly.
#[derive(Debug)]
pub struct Broker {
    state: Mutex<State>,
    pub(super) changed: Notify,
    pub(super) ground: Ground,
    pub(super) shape: Shape,
}

impl Broker {
    /// An empty broker of a shape.
    pub fn new(env: Env, shape: impl Into<Shape>) -> Arc<Self> {
        let (ground, shape) = (Ground::new(env), shape.into());
        let state = Mutex::new(State::new(shape.clone(), ground.clone()));
        Arc::new(Self { state, changed: Notify::new(), ground, shape })
    }

    /// Another client of the same broker.
    #[must_use]
    pub fn connect(self: &Arc<Self>) -> Arc<Connection> {
        Connection::open(self)
    }

    /// Stops the broker: every connection breaks and nothing answers until [`Broker::start`]. What was accepted stays.
    pub fn stop(&self) {
        self.change(|state| {
            state.down = true;
            state.break_connections();
        });
    }

    /// Starts a stopped broker. Clients reconnect by themselves.
    pub fn start(&self) {
        self.change(|state| state.down = false);
    }

    /// Stops and starts: waiting fetches fail once, and sessions are new ones afterwards.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Arms faults.
    pub fn faults(&self, arm: impl FnOnce(&mut Faults)) {
        arm(&mut self.lock().faults);
    }

    /// What another client of the broker publishes: any bytes, in the band of the queue's default priority.
    ///
    /// # Errors
    /// What [`Broker::faults`] refuse.
    pub fn publish_raw(&self, queue: &QueueName, wire: impl Into<Bytes>) -> Result<(), Rejection> {
        let wire = wire.into();
        self.change(|state| {
            let band = state.queue(queue).spec.default_priority.band();
            state.send(queue, Letter { wire, band, retry: false, delay: Duration::ZERO })?;
            state.queue(queue).totals.submitted += 1;
            Ok(())
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    /// Looks again after every change, and when `look` asks for it, until it breaks or the deadline on the monotonic
    /// clock has passed: then `None`. `look` is called at least once.
    pub(super) async fn watch<T>(
        &self,
        deadline: Duration,
        mut look: impl FnMut(&mut State) -> ControlFlow<T, Option<Duration>>,
    ) -> Option<T> {
        loop {
            // It counts from its making, so no change between this line and the waiting is missed.
            let changed = self.changed.notified();
            let now = self.ground.now();
            let seen = look(&mut self.lock());
            let again = match seen {
                ControlFlow::Break(result) => return Some(result),
                ControlFlow::Continue(_) if now >= deadline => return None,
                ControlFlow::Continue(again) => again.unwrap_or(deadline).min(deadline),
            };
            // Whichever comes first; the next look tells which it was. Timers count in milliseconds, and a paused clock
            // stands still unless somebody sleeps.
            let nap = again.saturating_sub(now).max(Duration::from_millis(1));
            let _ = tokio::time::timeout(nap, changed).await;
        }
    }
}
