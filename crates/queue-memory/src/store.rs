//! The records of the same jobs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use hashbrown::HashMap;
use parking_lot::Mutex;
use queue_core::{
    Error, ErrorCode, JobStore, Result,
    job::{JobRef, QueueName, StoreId},
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};

use crate::{
    queue::{Moment, Now, Queue, State},
    shared::Shared,
};

#[derive(Debug)]
pub(crate) struct MemoryStore {
    shared: Arc<Shared>,
}

/// Who leads which role.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    leads: Mutex<HashMap<String, Lead>>,
    /// All epochs are above it.
    after: u64,
}

#[derive(Debug)]
struct Lead {
    candidate: String,
    epoch: u64,
    until: Moment,
}

impl Leaders {
    /// Nobody leads yet; epochs are above this one, as they must be above those of an earlier process.
    #[cfg(feature = "journal")]
    pub(crate) fn after(after: u64) -> Self {
        Self { after, ..Self::default() }
    }

    /// Gives the role to the candidate for the term, unless another's has not ended.
    pub(crate) fn lead(&self, role: &str, candidate: &str, term: Duration, now: Now) -> Option<Leadership> {
        let mut leaders = self.leads.lock();
        let lead = leaders.entry_ref(role).or_insert_with(|| Lead {
            candidate: candidate.to_owned(),
            epoch: self.after + 1,
            until: now.mono,
        });
        if lead.candidate != candidate {
            if lead.until > now.mono {
                return None;
            }
            candidate.clone_into(&mut lead.candidate);
            lead.epoch += 1;
        }
        lead.until = now.after(term);
        Some(Leadership { epoch: lead.epoch, remaining: term })
    }
}

impl MemoryStore {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The queues a query looks into, and where in the first of them it goes on.
    fn scan(&self, query: &JobQuery, cursor: Option<&Cursor>) -> Result<(Vec<Arc<Queue>>, u32)> {
        let queues = match &query.queue {
            Some(name) => self.shared.find(name).into_iter().collect(),
            None => self.shared.all(),
        };
        let Some(cursor) = cursor else { return Ok((queues, 0)) };
        let bad = || Error::new(ErrorCode::Validation, "this cursor is of another listing").at("list");
        let (slot, name) = cursor.0.split_once('@').ok_or_else(bad)?;
        let slot = slot.parse().map_err(|_| bad())?;
        let rest = queues.into_iter().skip_while(|queue| queue.name.as_str() < name).collect::<Vec<_>>();
        let same = rest.first().is_some_and(|queue| queue.name.as_str() == name);
        Ok((rest, if same { slot } else { 0 }))
    }
}

/// One page of a queue's records, and the slot where the next begins.
fn page_of(queue: &Queue, query: &JobQuery, start: u32, limit: usize, now: Now) -> (Vec<JobRecord>, Option<u32>) {
    queue.with(|state| {
        let mut found = Vec::new();
        for (slot, record) in state.records(start, &query.states, now) {
            if query.matches(&record) {
                if found.len() == limit {
                    return (found, Some(slot));
                }
                found.push(record);
            }
        }
        (found, None)
    })
}

#[async_trait]
impl JobStore for MemoryStore {
    fn id(&self) -> StoreId {
        self.shared.store
    }

    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let look_up = |job: &JobRef| {
            let Some(queue) = self.shared.find(&job.queue) else { return Lookup::NotFound };
            let now = self.shared.now();
            // Nobody may be consuming: what time has done shows here too.
            queue.catch_up(now);
            queue.with(|state| match state.find(job.id).and_then(|slot| state.entry(slot)) {
                Some(entry) => Lookup::Found(Box::new(state.record(entry, now))),
                None if !state.is_tracked() => Lookup::Unknown,
                None if state.is_gone(job.id) => Lookup::Gone,
                None => Lookup::NotFound,
            })
        };
        jobs.iter().map(|job| Ok(look_up(job))).collect()
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let (queues, mut start) = self.scan(query, cursor.as_ref())?;
        let mut items = Vec::new();
        for queue in queues {
            let (found, next) = page_of(&queue, query, start, limit - items.len(), self.shared.now());
            items.extend(found);
            if let Some(slot) = next {
                let next = Some(Cursor(format!("{slot}@{}", queue.name).into()));
                return Ok(Page { items, next });
            }
            start = 0;
        }
        Ok(Page { items, next: None })
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        Ok(self.shared.hub.watch(what))
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        if let Err(error) = self.shared.ready() {
            let error = error.at("cancel");
            return jobs.iter().map(|_| Err(error.clone())).collect();
        }
        let mut last = None;
        let cancel_one = |job: &JobRef| {
            let Some(queue) = self.shared.find(&job.queue) else { return Ok(CancelOutcome::NotFound) };
            let now = self.shared.now();
            let act = |state: &mut State| match state.find(job.id) {
                Some(slot) => {
                    state.rely(None);
                    Ok(state.cancel(slot, cancel, now))
                }
                None if !state.is_tracked() => {
                    let instead = "the queue is untracked: declare it with tracking";
                    Err(Error::unsupported("memory", "cancel", instead).on(&job.queue))
                }
                None if state.is_gone(job.id) => Ok(CancelOutcome::AlreadyTerminal),
                None => Ok(CancelOutcome::NotFound),
            };
            let (outcome, ticket) = queue.with_kept(act);
            last = last.max(ticket);
            outcome
        };
        let mut outcomes: Vec<_> = jobs.iter().map(cancel_one).collect();
        if let Err(error) = self.shared.kept(last).await {
            let error = error.at("cancel");
            outcomes.iter_mut().filter(|outcome| outcome.is_ok()).for_each(|outcome| *outcome = Err(error.clone()));
        }
        outcomes
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        Ok(self.shared.find(queue).map(|queue| queue.with(|state| state.control.clone())).unwrap_or_default())
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        let found = self.shared.existing(queue, "set_queue_control")?;
        let change = |state: &mut State| {
            if state.control.version != control.version {
                let message = "somebody changed the queue's switches in the meantime: read them again";
                return Err(Error::new(ErrorCode::Conflict, message).at("set_queue_control").on(queue));
            }
            state.control = QueueControl { version: control.version + 1, ..control.clone() };
            state.note_queue();
            state.stir();
            Ok(())
        };
        self.shared.change(&found, "set_queue_control", change).await?
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        let now = self.shared.now();
        Ok(self.shared.find(queue).map_or(0, |queue| queue.with(|state| state.sweep(retention, limit, now))))
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.shared.kept(self.shared.begun).await?;
        Ok(self.shared.leaders.lead(role, candidate, term, self.shared.now()))
    }
}
