//! Repairing what faults, or somebody's hand, broke.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{QueueName, Result, config::defaults};
use redis::Value;
use tokio::time::Instant;

use crate::{
    fault,
    link::{items, number},
    provider::Shared,
    scripts,
    specs::Known,
};

/// Rows that one script call looks at.
const ROWS: usize = 300;
/// Calls a tick. A queue with more rows is looked through in several ticks.
const CALLS: usize = 10;
/// A queue that was looked through is so again after this.
const ROUND: Duration = Duration::from_secs(60);

/// What maintenance remembers of each queue from one tick to the next.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Mutex<HashMap<QueueName, Round>>);

#[derive(Debug)]
struct Round {
    known: Known,
    /// When it is looked through again.
    next: Instant,
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Round>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets queues that are no more.
    pub(crate) fn keep(&self, queues: &[QueueName]) {
        let queues: HashSet<&QueueName> = queues.iter().collect();
        self.lock().retain(|queue, _| queues.contains(queue));
    }

    /// The queue as it was declared when it was ticked last.
    pub(crate) fn known(&self, queue: &QueueName) -> Option<Known> {
        self.lock().get(queue).map(|round| round.known.clone())
    }

    pub(crate) fn remember(&self, known: &Known) {
        let round = Round { known: known.clone(), next: Instant::now() };
        self.lock().insert(known.spec.name.clone(), round);
    }

    pub(crate) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    fn pause(&self, queue: &QueueName) -> Duration {
        let next = self.lock().get(queue).map(|round| round.next);
        next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    fn done(&self, queue: &QueueName) {
        if let Some(round) = self.lock().get_mut(queue) {
            round.next = Instant::now() + ROUND;
        }
    }
}

impl Shared {
    /// Goes on looking through a queue, unless it was looked through lately; answers when it is worth going on.
    pub(crate) async fn mend(&self, known: &Known) -> Result<Duration> {
        let queue = &known.spec.name;
        let pause = self.rounds.pause(queue);
        if !pause.is_zero() {
            return Ok(pause);
        }
        let mut repairs = 0;
        let mut done = false;
        for _ in 0..CALLS {
            let answer = self.link.run(&scripts::MEND, &known.base, &[ROWS.to_string()]).await;
            let answer = answer.map_err(|error| fault::of(&error, "maintain").on(queue))?;
            let broken = |what| fault::broken(what, "maintain").on(queue);
            let answer = items(answer).map_err(broken)?;
            let [made, round] = &answer[..] else { return Err(broken("two numbers are missing")) };
            repairs += number(made).map_err(broken)?;
            done = *round == Value::Int(1);
            if done {
                self.rounds.done(queue);
                break;
            }
        }
        if repairs > 0 {
            tracing::warn!(%queue, repairs, "something had broken the queue's records; they are repaired");
        }
        Ok(if done { ROUND } else { defaults::MAINTENANCE_TICK })
    }
}
