//! The tracking store at its plainest: one map, one lock, every rule written out once.

mod jobs;
mod rules;
mod tracking;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{
    Env, Envelope, JobRef, QueueName,
    job::{JobId, UniqueKey},
    provider::Cancel,
    store::{Fence, JobRecord, QueueControl},
};

type Moment = Duration;
type Id = (QueueName, JobId);

#[derive(Debug)]
struct Job {
    record: JobRecord,
    envelope: Envelope,
    /// Until then its publisher, or a sweep, is at work.
    staged: Option<Moment>,
    swept: bool,
    /// Who holds it; kept when a dead lease is swept.
    fence: Option<Fence>,
    lease_ends: Moment,
    due: Moment,
    parked_until: Option<Moment>,
    started: bool,
    orphaned: bool,
    cancel: Option<Cancel>,
    settled: Option<(Fence, String)>,
    since: Moment,
    provider: Arc<str>,
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<Id, Job>,
    keys: BTreeMap<(QueueName, UniqueKey), JobId>,
    submitted: BTreeMap<QueueName, u64>,
    controls: BTreeMap<QueueName, QueueControl>,
    epoch: u64,
}

#[derive(Debug)]
pub(crate) struct ReferenceStore {
    env: Env,
    state: Mutex<State>,
}

fn id_of(job: &JobRef) -> Id {
    (job.queue.clone(), job.id)
}

impl ReferenceStore {
    pub(crate) fn new(env: Env) -> Self {
        Self { env, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn monotonic(&self) -> Moment {
        self.env.clock.monotonic()
    }
}
