//! What may be asked of the queues: of the store what records know, of the transport the rest.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Error, ErrorCode, JobRef, QueueName, QueueSpec, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
    store::QueueControl,
};

use super::core::{CONTROL_TRIES, Core};

#[derive(Debug)]
pub(super) struct TrackedAdmin(pub(super) Arc<Core>);

/// What the transport cannot do is no error where the store did its part.
pub(super) fn if_supported<T: Default>(answer: Result<T>) -> Result<T> {
    match answer {
        Err(error) if error.code() == ErrorCode::Unsupported => Ok(T::default()),
        answer => answer,
    }
}

impl TrackedAdmin {
    fn bare(&self) -> Arc<dyn QueueAdmin> {
        self.0.transport.admin()
    }

    /// The queues that the store has records of, and those that were declared here and have none yet.
    async fn remembered(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        let core = &self.0;
        let after = cursor.as_ref().map(|cursor| Arc::clone(&cursor.0));
        let page = core.ask(core.store.queues(&core.name, prefix, cursor, limit)).await;
        let mut page = page.map_err(|error| error.at("queues"))?;
        let declared = core.declared_queues().into_iter().filter(|queue| {
            let behind = after.as_deref().is_none_or(|after| queue.as_str() > after);
            // What is behind the page is in a later one.
            let before = page.next.is_none() || page.items.last().is_some_and(|last| queue <= last);
            queue.as_str().starts_with(prefix) && behind && before
        });
        let declared: Vec<QueueName> = declared.collect();
        page.items.extend(declared);
        page.items.sort_unstable();
        page.items.dedup();
        if page.items.len() > limit {
            page.items.truncate(limit);
            page.next = page.items.last().map(|last| Cursor(last.as_str().into()));
        }
        Ok(page)
    }

    async fn tracked_stats(&self, queues: &[QueueName], bare: Vec<Result<QueueStats>>) -> Vec<Result<QueueStats>> {
        let core = &self.0;
        let mut of_store = core.ask_all(queues.len(), core.store.stats(queues)).await.into_iter();
        let mut all = Vec::with_capacity(queues.len());
        for (queue, bare) in queues.iter().zip(bare) {
            let stored = of_store.next();
            all.push(match (bare, stored) {
                (bare, _) if !core.is_tracked(queue).await => bare,
                (Err(error), _) if error.code() == ErrorCode::NotFound => Err(error),
                (bare, Some(Ok(stats))) => {
                    Ok(bare.map_or_else(|_| stats.clone(), |bare| together(&bare, stats.clone())))
                }
                (_, Some(Err(error))) => Err(error.at("stats").on(queue)),
                (bare, None) => bare,
            });
        }
        all
    }
}

/// Records, and what the transport has beyond them: messages that no claim has adopted yet, of other clients or from a time
/// when the store was away. Copies that are to be dropped count among these until somebody fetches them.
fn together(bare: &QueueStats, mut stats: QueueStats) -> QueueStats {
    let beyond = (bare.waiting() + bare.running).saturating_sub(stats.waiting() + stats.running - stats.parked);
    stats.pending += beyond;
    stats.exact = beyond == 0;
    let copied = bare.oldest_pending.filter(|_| stats.pending > stats.parked);
    stats.oldest_pending = match stats.oldest_pending {
        // What has no record may have been there longer.
        Some(known) if beyond > 0 => copied.into_iter().chain([known]).min(),
        known => known.or(copied),
    };
    // Bytes that nobody could read have no record.
    stats.dead += bare.dead;
    stats
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueAdmin for TrackedAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        match self.bare().queues(prefix, cursor.clone(), limit).await {
            Err(error) if error.code() == ErrorCode::Unsupported => self.remembered(prefix, cursor, limit).await,
            listed => listed,
        }
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let bare = self.bare().stats(queues).await;
        self.tracked_stats(queues, bare).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let core = &self.0;
        if !core.is_tracked(queue).await {
            return self.bare().pause(queue, paused).await;
        }
        if let Some(Err(error)) = self.bare().stats(std::slice::from_ref(queue)).await.pop()
            && error.code() == ErrorCode::NotFound
        {
            return Err(error.at("pause"));
        }
        let at = |error: Error| error.at("pause").on(queue);
        for _ in 0..CONTROL_TRIES {
            let control = core.ask(core.store.queue_control(queue)).await.map_err(at)?;
            if control.paused == paused {
                return Ok(());
            }
            let control = QueueControl { paused, ..control };
            match core.ask(core.store.set_queue_control(queue, &control)).await {
                Err(error) if error.code() == ErrorCode::Conflict => {}
                answer => return answer.map_err(at),
            }
        }
        Err(at(
            Error::new(ErrorCode::Conflict, "others keep changing the queue's switches: try again").by(core.scheme())
        ))
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let core = &self.0;
        if !core.is_tracked(queue).await {
            return self.bare().purge(queue).await;
        }
        // The transport first: a job that is published in between keeps its copy if it keeps its record.
        if core.transport.capabilities(None).purge.is_supported() {
            core.require_store().await?;
            if_supported(self.bare().purge(queue).await)?;
        }
        core.ask(core.store.purge(queue)).await.map_err(|error| error.at("purge").on(queue))
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        match self.0.is_tracked(queue).await {
            true => self.0.dead(queue, filter, cursor, limit).await,
            false => self.bare().dead(queue, filter, cursor, limit).await,
        }
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        match self.0.is_tracked(queue).await {
            true => self.0.redrive(queue, what).await,
            false => self.bare().redrive(queue, what).await,
        }
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.bare().spec(queue).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        if !self.0.is_tracked(queue).await {
            return self.bare().parked(queue, limit).await;
        }
        self.0.ask(self.0.store.parked(queue, limit)).await.map_err(|error| error.at("parked").on(queue))
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        if !self.0.is_tracked(&job.queue).await {
            return self.bare().position(job).await;
        }
        self.0.ask(self.0.store.position(job)).await.map_err(|error| error.at("position").on(&job.queue))
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        match self.0.is_tracked(queue).await {
            true => self.0.drop_dead(queue, filter).await,
            false => self.bare().drop_dead(queue, filter).await,
        }
    }
}
