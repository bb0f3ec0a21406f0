//! Callers that come at once ride on one script call.
//!
//! Two calls of a line are under way at most. Who finds fewer goes at once, alone; who comes while they are out waits in line, and all that
//! wait ride together on the next. So nobody waits for company, and many callers cost the server little more than one.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};

/// Calls of one line at once: while the answer of one is on its way, the server has the other.
const FLIGHTS: usize = 2;
/// Callers in a line; who comes then goes alone.
const MOST_WAITING: usize = 10_000;

type Carry<K, J, O> = dyn Fn(K, Vec<J>) -> BoxFuture<'static, Vec<O>> + Send + Sync;

/// `K` tells lines apart, `J` are jobs, and `O` is what became of each.
pub(crate) struct Coalescer<K, J, O> {
    lines: Arc<Lines<K, J, O>>,
    /// Those that carry who waited; they end with this.
    flights: Mutex<JoinSet<()>>,
}

struct Lines<K, J, O> {
    carry: Box<Carry<K, J, O>>,
    /// Jobs of one call at most, unless one caller brings more.
    seats: usize,
    lines: Mutex<HashMap<K, Line<J, O>>>,
}

struct Line<J, O> {
    flying: usize,
    waiting: VecDeque<Passenger<J, O>>,
}

struct Passenger<J, O> {
    jobs: Vec<J>,
    answer: oneshot::Sender<Vec<O>>,
}

impl<K, J, O> fmt::Debug for Coalescer<K, J, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescer").finish_non_exhaustive()
    }
}

impl<K, J, O> Coalescer<K, J, O>
where
    K: Clone + Eq + Hash + Send + 'static,
    J: Send + 'static,
    O: Send + 'static,
{
    pub(crate) fn new(
        seats: usize,
        carry: impl Fn(K, Vec<J>) -> BoxFuture<'static, Vec<O>> + Send + Sync + 'static,
    ) -> Self {
        let lines = Lines { carry: Box::new(carry), seats, lines: Mutex::default() };
        Self { lines: Arc::new(lines), flights: Mutex::default() }
    }

    /// Has these carried, and says what became of each; nothing where the call was broken off. A caller that goes away while it waits in
    /// line takes its jobs with it.
    pub(crate) async fn send(&self, line: &K, jobs: Vec<J>) -> Vec<O> {
        match self.board(line, jobs) {
            Boarded::Waits(answer) => answer.await.unwrap_or_default(),
            Boarded::Alone(jobs) => (self.lines.carry)(line.clone(), jobs).await,
            Boarded::First(jobs) => {
                // Also where the caller goes away while it is under way.
                let _landing = Landing { coalescer: self, line };
                (self.lines.carry)(line.clone(), jobs).await
            }
        }
    }

    fn board(&self, line: &K, jobs: Vec<J>) -> Boarded<J, O> {
        let mut lines = self.lines.lock();
        let Some(found) = lines.get_mut(line) else {
            lines.insert(line.clone(), Line { flying: 1, waiting: VecDeque::new() });
            return Boarded::First(jobs);
        };
        if found.flying < FLIGHTS {
            found.flying += 1;
            return Boarded::First(jobs);
        }
        if found.waiting.len() >= MOST_WAITING {
            return Boarded::Alone(jobs);
        }
        let (answer, answered) = oneshot::channel();
        found.waiting.push_back(Passenger { jobs, answer });
        Boarded::Waits(answered)
    }
}

enum Boarded<J, O> {
    First(Vec<J>),
    Alone(Vec<J>),
    Waits(oneshot::Receiver<Vec<O>>),
}

/// The end of a call: who waits now rides on the next.
struct Landing<'a, K: Clone + Eq + Hash + Send + 'static, J: Send + 'static, O: Send + 'static> {
    coalescer: &'a Coalescer<K, J, O>,
    line: &'a K,
}

impl<K: Clone + Eq + Hash + Send + 'static, J: Send + 'static, O: Send + 'static> Drop for Landing<'_, K, J, O> {
    fn drop(&mut self) {
        let lines = &self.coalescer.lines;
        let Some(first) = lines.next(self.line) else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let flight = fly(Arc::clone(lines), self.line.clone(), first);
        let mut flights = self.coalescer.flights.lock().unwrap_or_else(PoisonError::into_inner);
        while flights.try_join_next().is_some() {}
        flights.spawn_on(flight, &runtime);
    }
}

async fn fly<K: Clone + Eq + Hash, J, O>(lines: Arc<Lines<K, J, O>>, line: K, first: Vec<Passenger<J, O>>) {
    let mut next = Some(first);
    while let Some(passengers) = next {
        let mut jobs = Vec::with_capacity(lines.seats);
        let mut answers = Vec::with_capacity(passengers.len());
        for passenger in passengers {
            answers.push((passenger.jobs.len(), passenger.answer));
            jobs.extend(passenger.jobs);
        }
        let mut outcomes = (lines.carry)(line.clone(), jobs).await.into_iter();
        for (count, answer) in answers {
            // Who has gone away hears nothing.
            let _ = answer.send(outcomes.by_ref().take(count).collect());
        }
        next = lines.next(&line);
    }
}

impl<K: Clone + Eq + Hash, J, O> Lines<K, J, O> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Line<J, O>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who rides on the next call; where nobody waits, there is one call less under way.
    fn next(&self, line: &K) -> Option<Vec<Passenger<J, O>>> {
        let mut lines = self.lock();
        let found = lines.get_mut(line)?;
        let (mut passengers, mut taken) = (Vec::new(), 0);
        while let Some(passenger) = found.waiting.front() {
            if !passenger.answer.is_closed() {
                if taken > 0 && taken + passenger.jobs.len() > self.seats {
                    break;
                }
                taken += passenger.jobs.len();
                passengers.extend(found.waiting.pop_front());
            } else {
                found.waiting.pop_front();
            }
        }
        if passengers.is_empty() {
            found.flying -= 1;
            if found.flying == 0 {
                lines.remove(line);
            }
            return None;
        }
        Some(passengers)
    }
}

#[cfg(test)]
mod tests;
