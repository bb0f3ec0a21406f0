//! What is asked of a store, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::JobRecord;
use crate::{
    event::JobEvent,
    job::{JobKind, JobRef, QueueName},
    lifecycle::JobState,
    queue_spec::Retention,
};

/// Who can open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreScope {
    /// This process: memory, a file. A second opener of a file gets `STORE_IN_USE`; two `memory:` are two stores.
    Process,
    /// Everyone who can reach it.
    Shared,
}

/// What is known of a job.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// Its record.
    Found(Box<JobRecord>),
    /// There never was one, as far as the store can tell.
    NotFound,
    /// It finished and retention took it.
    Gone,
    /// Untracked, or the store was away. Never to be shown as pending.
    Unknown,
}

/// Which records; everything that is set must match.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct JobQuery {
    /// In this queue.
    pub queue: Option<QueueName>,
    /// In one of these states; empty for any.
    pub states: Vec<JobState>,
    /// Of this kind.
    pub kind: Option<JobKind>,
    /// With this tag.
    pub tag: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
}

impl JobQuery {
    /// Every job of a queue.
    #[must_use]
    pub fn queue(queue: QueueName) -> Self {
        Self { queue: Some(queue), ..Self::default() }
    }

    /// Only in these states.
    #[must_use]
    pub fn in_states(mut self, states: impl IntoIterator<Item = JobState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Whether a record matches. Headers are parsed only where a tag or tenant is asked for.
    #[must_use]
    pub fn matches(&self, record: &JobRecord) -> bool {
        let quick = self.queue.as_ref().is_none_or(|queue| *queue == record.job.queue)
            && (self.states.is_empty() || self.states.contains(&record.state))
            && self.kind.as_ref().is_none_or(|kind| *kind == record.envelope.kind);
        if !quick || (self.tag.is_none() && self.tenant.is_none()) {
            return quick;
        }
        let Ok(headers) = record.envelope.headers() else { return false };
        self.tag.as_ref().is_none_or(|tag| headers.tags.contains(tag))
            && self.tenant.as_deref().is_none_or(|tenant| headers.keys.tenant.as_deref() == Some(tenant))
    }
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// Of these jobs.
    Jobs(Vec<JobRef>),
    /// Of a queue.
    Queue(QueueName),
    /// Only the requests to stop running jobs of a queue: what a worker listens to. Far fewer than all events.
    Commands(QueueName),
    /// Of everything.
    All,
}

/// An item of [`super::JobStore::watch`], and of streams of other events.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched<E = JobEvent> {
    /// Something happened.
    Event(E),
    /// The watcher was too slow, or the connection broke: events are missing here. Read the records.
    Missed,
}

/// What a cancel request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was waiting and is cancelled.
    Cancelled,
    /// It runs; its worker is told.
    Requested,
    /// It was finished already.
    AlreadyTerminal,
    /// There is no such job.
    NotFound,
}

/// The switches of a queue, and what was noted of its declaration. Every change raises the version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueControl {
    /// As it was read; the compare-and-set is on it.
    pub version: u64,
    /// Workers are held back.
    pub paused: bool,
    /// As the queue was declared last, where the transport cannot tell declarations, so that whoever leads the maintenance
    /// knows it; in whole milliseconds. `None`: nobody noted one.
    #[serde(default)]
    pub retention: Option<Retention>,
}

/// A lead that was won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Raised with every change of leader: fences what an old one writes.
    pub epoch: u64,
    /// How long it holds without being renewed.
    pub remaining: Duration,
}
