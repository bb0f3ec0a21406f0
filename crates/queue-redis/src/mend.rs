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
    scripts, shards,
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
    /// When each of its shards is looked through again.
    next: Vec<Instant>,
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
        let round = Round { known: known.clone(), next: vec![Instant::now(); known.count()] };
        self.lock().insert(known.spec.name.clone(), round);
    }

    pub(crate) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    fn pause(&self, shard: &Known) -> Duration {
        let place = usize::from(shard.place);
        let next = self.lock().get(&shard.spec.name).and_then(|round| round.next.get(place).copied());
        next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    fn done(&self, shard: &Known) {
        let mut rounds = self.lock();
        let next = rounds.get_mut(&shard.spec.name).and_then(|round| round.next.get_mut(usize::from(shard.place)));
        if let Some(next) = next {
            *next = Instant::now() + ROUND;
        }
    }
}

impl Shared {
    /// Goes on looking through the shards of a queue, each unless it was looked through lately; answers when it is worth going on. What stops
    /// one stops no other.
    pub(crate) async fn mend_all(&self, known: &Known) -> Result<Duration> {
        if known.count() > 1 && self.rounds.pause(known).is_zero() {
            self.switch_all(known).await?;
        }
        let mended = futures_util::future::join_all(known.parts().iter().map(|shard| self.mend(shard))).await;
        mended.into_iter().try_fold(ROUND, |next, mended| Ok(next.min(mended?)))
    }

    /// Has all shards held back, or none, should whoever said so have died in between.
    async fn switch_all(&self, known: &Known) -> Result<()> {
        let fail = |error: redis::RedisError| fault::of(&error, "maintain").on(&known.spec.name);
        let ask = redis::cmd("HMGET").arg(format!("{}n", known.base)).arg("version").arg("paused").take();
        let broken = |what| fault::broken(what, "maintain").on(&known.spec.name);
        let switches = items(self.link.ask(&ask).await.map_err(fail)?).map_err(broken)?;
        let [version, paused] = &switches[..] else { return Err(broken("two values are missing")) };
        let version = u64::try_from(number(version).map_err(broken)?).unwrap_or(0);
        shards::switch(&self.link, known, version, number(paused).map_err(broken)? == 1).await.map_err(fail)
    }

    /// Goes on looking through a shard, unless it was looked through lately; answers when it is worth going on.
    pub(crate) async fn mend(&self, known: &Known) -> Result<Duration> {
        let queue = &known.spec.name;
        let pause = self.rounds.pause(known);
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
                self.rounds.done(known);
                break;
            }
        }
        if repairs > 0 {
            tracing::warn!(%queue, repairs, "something had broken the queue's records; they are repaired");
        }
        Ok(if done { ROUND } else { defaults::MAINTENANCE_TICK })
    }
}
