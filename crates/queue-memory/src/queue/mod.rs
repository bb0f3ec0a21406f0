//! One queue: a mutex over its state, and what wakes those who wait on it.

mod aged;
mod beat;
mod changes;
mod claim;
mod entry;
mod keys;
mod lanes;
mod line;
mod partitions;
mod position;
mod publish;
#[cfg(feature = "journal")]
mod restore;
mod retain;
mod settle;
mod slots;
mod state;
mod timers;

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use queue_core::{
    Env,
    job::{QueueName, Timestamp},
    queue_spec::QueueSpec,
};
use tokio::sync::Notify;

#[cfg(feature = "journal")]
pub(crate) use changes::Side;
pub(crate) use changes::{Changes, keep_together};
pub(crate) use claim::Claimed;
pub(crate) use entry::{Details, Entry, Settled};
pub(crate) use publish::{Named, Taken, Verdict};
#[cfg(feature = "journal")]
pub(crate) use restore::Restoring;
pub(crate) use settle::{keep_outcome, trigger_of};
pub(crate) use slots::Slots;
pub(crate) use state::State;
pub(crate) use timers::{Alarm, Moment, Timer, Timers};

use crate::{events::Hub, journal::Ticket};

/// The two clocks, read once a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) mono: Moment,
}

/// The clock's zero on the line of moments: what was before it (a job that became ready in an earlier process) is on the line
/// too, 36 years of it.
const ZERO: Moment = 1 << 60;

impl Now {
    pub(crate) fn read(env: &Env) -> Self {
        let (wall, monotonic) = env.clock.read();
        Self { wall, mono: ZERO.saturating_add(nanos(monotonic)) }
    }

    /// The wall-clock time of a moment, for what outlives the process. Of one that comes it is never early, though
    /// wall-clock times have no parts of a millisecond.
    pub(crate) fn time_of(&self, moment: Moment) -> Timestamp {
        match moment.checked_sub(self.mono) {
            Some(left) => self.wall + Duration::from_nanos(left) + Duration::from_millis(1),
            None => Timestamp::from_millis(self.wall.as_millis().saturating_sub((self.mono - moment) / 1_000_000)),
        }
    }

    /// The moment of a time that may be past: what came due while nobody was there did so in its order.
    pub(crate) fn moment_at(&self, time: Timestamp) -> Moment {
        if time > self.wall { self.moment_of(time) } else { self.mono.saturating_sub(nanos(time.until(self.wall))) }
    }

    /// When a wall-clock time comes on the monotonic line, so that a jump of the wall clock moves no delay.
    pub(crate) fn moment_of(&self, time: Timestamp) -> Moment {
        self.mono.saturating_add(nanos(self.wall.until(time)))
    }

    pub(crate) fn after(&self, delay: Duration) -> Moment {
        self.mono.saturating_add(nanos(delay))
    }
}

pub(crate) fn nanos(duration: Duration) -> Moment {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    /// The order in which several queues are locked.
    pub(crate) number: u64,
    state: Mutex<State>,
    /// Consumers with room wait here for jobs.
    pub(crate) wake: Notify,
    /// Consumers that may not claim now (full, paused) wait here until they may.
    pub(crate) unbarred: Notify,
    /// Publishers wait here for room.
    pub(crate) room: Notify,
    /// Closing consumers wait here for their last settlement.
    pub(crate) settled: Notify,
}

/// Whom to wake once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) wake: usize,
    pub(crate) wake_all: bool,
    pub(crate) unbarred: bool,
    pub(crate) room: bool,
    pub(crate) settled: bool,
}

/// How often a contended lock is looked at before its waiter parks, and the pauses between two looks: long enough for the
/// other thread to get several calls done while the queue is in its cache. Measured, all of them take 38 µs on a Xeon; other
/// processors pause shorter.
const LOOKS: usize = 5;
const PAUSES: usize = 800;

impl Queue {
    pub(crate) fn new(spec: QueueSpec, number: u64, hub: Hub) -> Self {
        Self::with_state(State::new(spec, hub), number)
    }

    pub(crate) fn with_state(state: State, number: u64) -> Self {
        Self {
            name: state.spec.name.clone(),
            number,
            state: Mutex::new(state),
            wake: Notify::new(),
            unbarred: Notify::new(),
            room: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Changes the state, then wakes whom the change concerns. Never await inside.
    #[inline]
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        self.with_kept(act).0
    }

    /// The same, with the ticket to wait for where the change must be on disk before anybody is told.
    pub(crate) fn with_kept<R>(&self, act: impl FnOnce(&mut State) -> R) -> (R, Option<Ticket>) {
        let mut state = self.lock();
        let result = act(&mut state);
        let ticket = self.unlock(state);
        (result, ticket)
    }

    /// Lets time do all of its work up to `now`, in parts.
    pub(crate) fn catch_up(&self, now: Now) {
        while self.with(|state| state.advance(now)) {}
    }

    /// A panic under the lock would be a defect here, never the user's; the state is whole after each step.
    ///
    /// A batch holds the lock for a few microseconds, which is less than going to sleep and being woken takes: look for that
    /// long before parking.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        for _ in 0..LOOKS {
            if let Some(state) = self.state.try_lock() {
                return state;
            }
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
        }
        self.state.lock()
    }

    pub(crate) fn unlock(&self, mut state: MutexGuard<'_, State>) -> Option<Ticket> {
        let ticket = state.keep();
        let signals = state.take_signals();
        drop(state);
        if signals.wake_all {
            self.wake.notify_waiters();
        }
        for _ in 0..signals.wake {
            self.wake.notify_one();
        }
        if signals.unbarred {
            self.unbarred.notify_waiters();
        }
        if signals.room {
            self.room.notify_waiters();
        }
        if signals.settled {
            self.settled.notify_waiters();
        }
        ticket
    }
}
