//! What may be asked of the queues.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use queue_core::{
    Error, ErrorCode, Result,
    job::{JobRef, QueueName, Timestamp},
    provider::{
        Cursor, DeadBody, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport, RedriveSelection,
    },
    queue_spec::QueueSpec,
    stats::QueueStats,
};

use crate::{queue::State, shared::Shared};

#[derive(Debug)]
pub(crate) struct MemoryAdmin {
    shared: Arc<Shared>,
}

impl MemoryAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// The place of the last job that was shown: jobs that are redriven meanwhile leave no hole.
fn read_cursor(cursor: &Cursor) -> Result<(Timestamp, u32)> {
    let place = cursor
        .0
        .split_once('.')
        .and_then(|(millis, slot)| Some((Timestamp::from_millis(millis.parse().ok()?), slot.parse().ok()?)));
    place.ok_or_else(|| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead"))
}

#[async_trait]
impl QueueAdmin for MemoryAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        let after = |name: &QueueName| cursor.as_ref().is_none_or(|cursor| name.as_str() > &*cursor.0);
        let mut names = self.shared.all().into_iter().map(|queue| queue.name.clone());
        let mut names = names.by_ref().filter(|name| name.as_str().starts_with(prefix) && after(name));
        let items: Vec<QueueName> = names.by_ref().take(limit).collect();
        let more = names.next().is_some();
        let next = items.last().filter(|_| more).map(|last| Cursor(last.as_str().into()));
        Ok(Page { items, next })
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let now = self.shared.now();
        let stats = |name: &QueueName| {
            let queue = self.shared.existing(name, "stats")?;
            queue.catch_up(now);
            Ok(queue.with(|state| state.stats()))
        };
        queues.iter().map(stats).collect()
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let queue = self.shared.existing(queue, "pause")?;
        let change = |state: &mut State| {
            state.control.paused = paused;
            state.control.version += 1;
            state.note_queue();
            state.stir();
        };
        self.shared.change(&queue, "pause", change).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let now = self.shared.now();
        let Some(queue) = self.shared.find(queue) else { return Ok(0) };
        self.shared.change(&queue, "purge", |state| state.purge(now)).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let Some(queue) = self.shared.find(queue) else { return Ok(Page { items: Vec::new(), next: None }) };
        let behind = cursor.as_ref().map(read_cursor).transpose()?;
        queue.with(|state| {
            let mut found = state.dead_slots(filter, behind);
            let slots: Vec<u32> = found.by_ref().take(limit).collect();
            let more = found.next().is_some();
            let items = slots.iter().filter_map(|slot| {
                let entry = state.entry(*slot)?;
                Some(DeadJob {
                    id: entry.envelope.id,
                    body: DeadBody::Envelope(entry.envelope.clone()),
                    error: state.error_of(*slot)?,
                    attempt: entry.attempt,
                    died_at: entry.changed_at,
                })
            });
            let items: Vec<DeadJob> = items.collect();
            let last = items.last().zip(slots.last()).filter(|_| more);
            let next = last.map(|(job, slot)| Cursor(format!("{}.{slot}", job.died_at.as_millis()).into()));
            Ok(Page { items, next })
        })
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        let one = matches!(&what.which, RedriveSelection::Jobs(jobs) if jobs.len() == 1);
        if what.payload.is_some() && !one {
            let message = "an edited payload goes with exactly one named job";
            return Err(Error::new(ErrorCode::Validation, message).at("redrive").by("memory").on(queue));
        }
        let now = self.shared.now();
        let Some(found) = self.shared.find(queue) else { return Ok(RedriveReport::default()) };
        let redrive = |state: &mut State| match state.refuse_edit(what) {
            Some(rejection) => Err(Error::from(rejection).at("redrive").by("memory").on(queue)),
            None => Ok(state.redrive(what, now)),
        };
        self.shared.change(&found, "redrive", redrive).await?
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        Ok(self.shared.find(queue).map(|queue| queue.with(|state| state.spec.clone())))
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        // Keys looked at under one lock.
        const AT_ONCE: usize = 1_024;
        let Some(queue) = self.shared.find(queue) else { return Ok(Vec::new()) };
        let now = self.shared.now();
        queue.catch_up(now);
        // The most first, then by name.
        let mut most = BTreeSet::new();
        let mut after: Option<ParkKey> = None;
        loop {
            let part = queue.with(|state| state.parked_after(after.as_ref(), AT_ONCE));
            let ends = part.len() < AT_ONCE;
            after = part.last().map(|(key, _)| key.clone());
            for (key, jobs) in part {
                most.insert((Reverse(jobs), key));
                if most.len() > limit {
                    most.pop_last();
                }
            }
            if ends {
                return Ok(most.into_iter().map(|(Reverse(jobs), key)| (key, jobs)).collect());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let Some(queue) = self.shared.find(&job.queue) else { return Ok(None) };
        if !queue.with(|state| state.is_tracked()) {
            let instead = "the queue is untracked: declare it with tracking";
            return Err(Error::unsupported("memory", "position", instead).on(&job.queue));
        }
        queue.catch_up(self.shared.now());
        let Some(mut ahead) = queue.with(|state| state.ahead_of(job.id)) else { return Ok(None) };
        loop {
            let now = self.shared.now();
            if let Some(jobs) = queue.with(|state| state.count_ahead(&mut ahead, now)) {
                // Somebody may have taken it meanwhile.
                return Ok(queue.with(|state| state.ahead_of(job.id)).map(|_| jobs));
            }
            tokio::task::yield_now().await;
        }
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let Some(queue) = self.shared.find(queue) else { return Ok(0) };
        self.shared.change(&queue, "drop_dead", |state| state.drop_dead(filter)).await
    }
}
