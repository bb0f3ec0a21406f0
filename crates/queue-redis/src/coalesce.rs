//! Callers that come at once ride on one script call.
//!
//! Two calls of a line are under way at most. Who finds fewer goes at once, alone; who comes while they are out waits in line, and all that
//! wait ride together on the next. So nobody waits for company, and many callers cost the server little more than one.
//!
//! A call that ends before its time (it panics, its runtime ends) gives those in line their jobs back, and they board anew.

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

/// Bytes of one call, unless a single job has more: a longer one would keep everybody else waiting.
pub(crate) const CALL_BYTES: usize = 4 << 20;

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
    /// How many bytes a job takes.
    weigh: fn(&J) -> usize,
    state: Mutex<State<K, J, O>>,
}

struct State<K, J, O> {
    lines: HashMap<K, Line<J, O>>,
    closed: bool,
}

struct Line<J, O> {
    flying: usize,
    waiting: VecDeque<Passenger<J, O>>,
}

struct Passenger<J, O> {
    jobs: Vec<J>,
    bytes: usize,
    answer: oneshot::Sender<Answer<J, O>>,
}

enum Answer<J, O> {
    Done(Vec<O>),
    /// It was not carried, and may try again.
    Again(Vec<J>),
    Closed,
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
        weigh: fn(&J) -> usize,
        carry: impl Fn(K, Vec<J>) -> BoxFuture<'static, Vec<O>> + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State { lines: HashMap::new(), closed: false });
        let lines = Lines { carry: Box::new(carry), seats, weigh, state };
        Self { lines: Arc::new(lines), flights: Mutex::default() }
    }

    /// Has these carried, and says what became of each: of none where the call was broken off; `None` where they were not carried, for
    /// it was closed. A caller that goes away while it waits in line takes its jobs with it.
    pub(crate) async fn send(&self, line: &K, mut jobs: Vec<J>) -> Option<Vec<O>> {
        loop {
            match self.board(line, jobs) {
                Boarded::Closed => return None,
                Boarded::Alone(jobs) => return Some((self.lines.carry)(line.clone(), jobs).await),
                Boarded::First(jobs) => {
                    // Also where the caller goes away while it is under way.
                    let _landing = Landing { coalescer: self, line };
                    return Some((self.lines.carry)(line.clone(), jobs).await);
                }
                Boarded::Waits(answer) => match answer.await {
                    Ok(Answer::Done(outcomes)) => return Some(outcomes),
                    Ok(Answer::Again(back)) => jobs = back,
                    Ok(Answer::Closed) => return None,
                    Err(_) => return Some(Vec::new()),
                },
            }
        }
    }

    /// Takes nobody any more, and sends those away that wait in line. What is under way goes on.
    pub(crate) fn close(&self) {
        let mut state = self.lines.lock();
        state.closed = true;
        let waiting: Vec<_> = state.lines.values_mut().flat_map(|line| std::mem::take(&mut line.waiting)).collect();
        drop(state);
        for passenger in waiting {
            // Who has gone away hears nothing.
            let _ = passenger.answer.send(Answer::Closed);
        }
    }

    fn board(&self, line: &K, jobs: Vec<J>) -> Boarded<J, O> {
        let bytes = jobs.iter().map(self.lines.weigh).sum();
        let mut state = self.lines.lock();
        if state.closed {
            return Boarded::Closed;
        }
        let Some(found) = state.lines.get_mut(line) else {
            state.lines.insert(line.clone(), Line { flying: 1, waiting: VecDeque::new() });
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
        found.waiting.push_back(Passenger { jobs, bytes, answer });
        Boarded::Waits(answered)
    }
}

enum Boarded<J, O> {
    First(Vec<J>),
    Alone(Vec<J>),
    Waits(oneshot::Receiver<Answer<J, O>>),
    Closed,
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
        let flight = Flight { lines: Arc::clone(lines), line: self.line.clone(), boarded: Some(first), landed: false };
        // Without a runtime the flight ends here, and the line with it.
        let Ok(runtime) = Handle::try_current() else { return };
        let flight = fly(flight);
        let mut flights = self.coalescer.flights.lock().unwrap_or_else(PoisonError::into_inner);
        while flights.try_join_next().is_some() {}
        flights.spawn_on(flight, &runtime);
    }
}

/// A call under way that nobody waits for himself. Dropped before it has landed it leaves the line to others.
struct Flight<K: Clone + Eq + Hash, J, O> {
    lines: Arc<Lines<K, J, O>>,
    line: K,
    /// Those with whom it has not begun yet.
    boarded: Option<Vec<Passenger<J, O>>>,
    landed: bool,
}

impl<K: Clone + Eq + Hash, J, O> Drop for Flight<K, J, O> {
    fn drop(&mut self) {
        if !self.landed {
            self.lines.break_off(&self.line);
        }
        // A runtime that ends drops what it never began.
        send_back(self.boarded.take().into_iter().flatten());
    }
}

/// They were not carried, and board anew. Who has gone away hears nothing.
fn send_back<J, O>(passengers: impl Iterator<Item = Passenger<J, O>>) {
    for passenger in passengers {
        let _ = passenger.answer.send(Answer::Again(passenger.jobs));
    }
}

async fn fly<K: Clone + Eq + Hash, J, O>(mut flight: Flight<K, J, O>) {
    let lines = Arc::clone(&flight.lines);
    let mut next = flight.boarded.take();
    while let Some(passengers) = next {
        let mut jobs = Vec::with_capacity(lines.seats);
        let mut answers = Vec::with_capacity(passengers.len());
        for passenger in passengers {
            answers.push((passenger.jobs.len(), passenger.answer));
            jobs.extend(passenger.jobs);
        }
        let mut outcomes = (lines.carry)(flight.line.clone(), jobs).await.into_iter();
        for (count, answer) in answers {
            // Who has gone away hears nothing.
            let _ = answer.send(Answer::Done(outcomes.by_ref().take(count).collect()));
        }
        next = lines.next(&flight.line);
    }
    flight.landed = true;
}

impl<K: Clone + Eq + Hash, J, O> Lines<K, J, O> {
    fn lock(&self) -> MutexGuard<'_, State<K, J, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who rides on the next call; where nobody waits, there is one call less under way.
    fn next(&self, line: &K) -> Option<Vec<Passenger<J, O>>> {
        let mut state = self.lock();
        let found = state.lines.get_mut(line)?;
        let (mut passengers, mut taken, mut bytes) = (Vec::new(), 0, 0);
        while let Some(passenger) = found.waiting.front() {
            if !passenger.answer.is_closed() {
                let is_full = taken + passenger.jobs.len() > self.seats || bytes + passenger.bytes > CALL_BYTES;
                if taken > 0 && is_full {
                    break;
                }
                taken += passenger.jobs.len();
                bytes += passenger.bytes;
                passengers.extend(found.waiting.pop_front());
            } else {
                found.waiting.pop_front();
            }
        }
        if passengers.is_empty() {
            found.flying -= 1;
            if found.flying == 0 {
                state.lines.remove(line);
            }
            return None;
        }
        Some(passengers)
    }

    /// There is one call less under way, and nobody carries on for it: who waits boards anew.
    fn break_off(&self, line: &K) {
        let mut state = self.lock();
        let Some(found) = state.lines.get_mut(line) else { return };
        found.flying -= 1;
        let waiting = std::mem::take(&mut found.waiting);
        if found.flying == 0 {
            state.lines.remove(line);
        }
        drop(state);
        send_back(waiting.into_iter());
    }
}

#[cfg(test)]
mod tests;
