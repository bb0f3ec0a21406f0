//! When maintenance looks at which queue.
//!
//! A queue in which jobs run is looked at each second. One that rests is left alone until time has something to do in it: what happens
//! there meanwhile calls maintenance, by a marker as those that wake who waits for jobs. On a cluster, where such a marker costs a connection,
//! no queue rests.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{QueueName, Result};
use tokio::time::Instant;

use crate::{provider::Shared, specs::Known, wake::Sleeper};

/// A queue, and the list of queues, is looked at after so long whether somebody calls or not.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// For so long what happens calls: longer than a rest, so that nothing falls between two.
pub(crate) const CALLABLE: Duration = Duration::from_secs(45);

#[derive(Debug, Default)]
pub(crate) struct Upkeep(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    queues: Option<Listed>,
    resting: HashMap<QueueName, Rest>,
}

#[derive(Debug)]
struct Listed {
    names: Vec<QueueName>,
    rest: Rest,
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    calls: Vec<Sleeper>,
}

impl Rest {
    /// How long it goes on, unless somebody called.
    fn left(&self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        // Each is asked, so that none tells twice.
        let called = self.calls.iter().filter(|call| call.was_woken()).count() > 0;
        (!left.is_zero() && !called).then_some(left)
    }
}

impl Upkeep {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody else leads.
    pub(crate) fn ends(&self) {
        let state = std::mem::take(&mut *self.lock());
        drop(state);
    }

    /// How long a queue goes on resting, if it does.
    pub(crate) fn rests(&self, queue: &QueueName) -> Option<Duration> {
        let mut state = self.lock();
        let left = state.resting.get(queue)?.left();
        if left.is_none() {
            state.resting.remove(queue);
        }
        left
    }
}

impl Shared {
    /// The queues there are, as of the last call.
    pub(crate) async fn kept_queues(&self) -> Result<Vec<QueueName>> {
        if let Some(listed) = &self.upkeep.lock().queues
            && listed.rest.left().is_some()
        {
            return Ok(listed.names.clone());
        }
        // Before the look, so that none that is declared after it is missed.
        let calls = vec![self.wakes.sleeper(self.layout.declared())];
        let names = self.all_queues("maintain").await?;
        let mut state = self.upkeep.lock();
        state.resting.retain(|queue, _| names.contains(queue));
        if !self.link.is_cluster() {
            let rest = Rest { until: Instant::now() + LONGEST_REST, calls };
            state.queues = Some(Listed { names: names.clone(), rest });
        }
        Ok(names)
    }

    /// Nothing is to do in a queue for so long, unless somebody calls.
    pub(crate) fn rest(&self, known: &Known, next: Duration) {
        let calls = known.parts().iter().map(|shard| self.wakes.sleeper(format!("{}v", shard.base))).collect();
        let rest = Rest { until: Instant::now() + next.min(LONGEST_REST), calls };
        self.upkeep.lock().resting.insert(known.spec.name.clone(), rest);
    }
}
