//! The line before a sink, and the task that empties it.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use queue_core::{Error, ErrorCode, Event, Result};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

use super::{filter::EventFilter, sink::AlertSink};

/// How a sink is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Events it took.
    pub sent: u64,
    /// Events it failed on, after all its attempts.
    pub failed: u64,
    /// Events that were dropped because too many waited, or the time to close was up.
    pub dropped: u64,
    /// Events that wait now, the one that it is at included.
    pub waiting: usize,
}

/// A sink with its line.
#[derive(Debug)]
pub(super) struct Outbox {
    line: Arc<Line>,
    filter: EventFilter,
    task: JoinHandle<()>,
}

/// What the watcher, the task and those who ask share.
#[derive(Debug)]
pub(super) struct Line {
    name: String,
    capacity: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// Dropped since the sink was last told.
    missed: u64,
    closing: bool,
    /// The sink is at one.
    busy: bool,
    counts: SinkStatus,
}

impl Outbox {
    /// Starts the task.
    pub(super) fn open(sink: Box<dyn AlertSink>, filter: EventFilter, capacity: usize) -> Self {
        let line = Arc::new(Line {
            name: sink.name().to_owned(),
            capacity: capacity.max(1),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let task = tokio::spawn(empty(sink, Arc::clone(&line)));
        Self { line, filter, task }
    }

    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Lines up an event, if it is wanted. Never waits.
    pub(super) fn offer(&self, event: &Event) {
        if self.filter.wants(event) {
            self.line.push(event.clone());
        }
    }

    /// Some events never arrived here; which ones is not known.
    pub(super) fn gap(&self) {
        if self.filter.wants_more_than_alerts() {
            self.line.with(|state| state.missed += 1);
        }
    }

    /// Lets the sink finish what waits, until `deadline`; then drops it.
    pub(super) async fn close(mut self, deadline: Duration) {
        self.line.with(|state| state.closing = true);
        self.line.changed.notify_one();
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            self.task.abort();
            // It ends cancelled.
            let _ = (&mut self.task).await;
            let left = self.line.with(|state| {
                let left = std::mem::take(&mut state.events).len() + usize::from(state.busy);
                state.counts.dropped += left as u64;
                left
            });
            tracing::warn!(sink = self.line.name, left, "the sink did not finish in time");
        }
    }
}

/// Whoever drops the watcher with its boxes leaves no task behind.
impl Drop for Outbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, event: Event) {
        let began_to_drop = self.with(|state| {
            let full = state.events.len() == self.capacity;
            if full {
                state.events.pop_front();
                state.missed += 1;
                state.counts.dropped += 1;
            }
            state.events.push_back(event);
            full && state.missed == 1
        });
        if began_to_drop {
            tracing::warn!(
                sink = self.name,
                capacity = self.capacity,
                "the sink is too slow: its oldest events are dropped"
            );
        }
        self.changed.notify_one();
    }

    /// The next event, and how many were dropped before it. `None` when it is closing and nothing is left.
    async fn next(&self) -> Option<(u64, Event)> {
        loop {
            let taken = self.with(|state| match state.events.pop_front() {
                Some(event) => {
                    state.busy = true;
                    Some(Some((std::mem::take(&mut state.missed), event)))
                }
                None => state.closing.then_some(None),
            });
            match taken {
                Some(next) => return next,
                None => self.changed.notified().await,
            }
        }
    }

    fn done(&self, count: impl FnOnce(&mut SinkStatus)) {
        self.with(|state| {
            state.busy = false;
            count(&mut state.counts);
        });
    }

    pub(super) fn status(&self) -> SinkStatus {
        self.with(|state| {
            let waiting = state.events.len() + usize::from(state.busy);
            SinkStatus { name: self.name.clone(), waiting, ..state.counts.clone() }
        })
    }
}

async fn empty(sink: Box<dyn AlertSink>, line: Arc<Line>) {
    while let Some((missed, event)) = line.next().await {
        if missed > 0
            && let Err(error) = guarded(sink.missed(missed)).await
        {
            tracing::warn!(sink = line.name, %error, "the sink could not be told that it missed {missed} events");
        }
        match guarded(sink.send(&event)).await {
            Ok(()) => line.done(|counts| counts.sent += 1),
            Err(error) => {
                line.done(|counts| counts.failed += 1);
                tracing::warn!(sink = line.name, event = event.wire_name(), %error, "the sink failed");
            }
        }
    }
}

/// A sink that panics has failed at this event, and gets the next.
async fn guarded(work: impl Future<Output = Result<()>>) -> Result<()> {
    let panicked = |_| Err(Error::new(ErrorCode::Internal, "the sink panicked").at("alert"));
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked)
}
