//! What is asked of queues that several providers have.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::future::join_all;
use queue_core::{
    Error, ErrorCode, JobRef, JobScheduler, QueueName, QueueSpec, Result,
    provider::{Cursor, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport},
    stats::QueueStats,
};

use super::{all, cursor::Walk, known};
use crate::config::ProviderName;

#[derive(Debug)]
pub(super) struct SeveralAdmin {
    members: Arc<[(ProviderName, JobScheduler)]>,
}

impl SeveralAdmin {
    pub(super) fn new(members: Arc<[(ProviderName, JobScheduler)]>) -> Self {
        Self { members }
    }

    fn admins(&self) -> impl Iterator<Item = Arc<dyn QueueAdmin>> {
        self.members.iter().map(|(_, scheduler)| scheduler.admin())
    }

    /// Makes the queue known to those who have not met it, so that nothing that comes there later slips past the pause.
    async fn pause_everywhere(&self, queue: &QueueName) -> Result<()> {
        let spec = self.spec(queue).await?;
        for (_, scheduler) in &*self.members {
            match scheduler.admin().pause(queue, true).await {
                Err(error) if error.code() == ErrorCode::NotFound => {
                    let spec = spec.clone().unwrap_or_else(|| QueueSpec::new(queue.clone()));
                    scheduler.provider().declare(&spec).await?;
                    scheduler.admin().pause(queue, true).await?;
                }
                other => other?,
            }
        }
        Ok(())
    }
}

/// The numbers of a queue's two parts, as one queue's. Held back is only what is held back everywhere.
pub(crate) fn merge_stats(mut one: QueueStats, other: QueueStats) -> QueueStats {
    one.exact &= other.exact;
    one.paused &= other.paused;
    one.pending += other.pending;
    one.parked += other.parked;
    one.scheduled += other.scheduled;
    one.retrying += other.retrying;
    one.running += other.running;
    one.dead += other.dead;
    one.finished += other.finished;
    one.submitted_total += other.submitted_total;
    one.completed_total += other.completed_total;
    one.failed_total += other.failed_total;
    one.oldest_pending = [one.oldest_pending, other.oldest_pending].into_iter().flatten().min();
    // Each part counts for itself what may run; together they may run as many as both.
    for theirs in other.partitions {
        match one.partitions.iter_mut().find(|own| own.name == theirs.name) {
            None => one.partitions.push(theirs),
            Some(own) => {
                own.ready += theirs.ready;
                own.running += theirs.running;
                own.max_concurrency = own.max_concurrency.zip(theirs.max_concurrency).map(|(a, b)| a.saturating_add(b));
                own.oldest_ready = [own.oldest_ready, theirs.oldest_ready].into_iter().flatten().min();
            }
        }
    }
    one
}

#[async_trait]
impl QueueAdmin for SeveralAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        // Each is asked for as many as there could be; the cursor is a name.
        let after = cursor.map(|cursor| QueueName::new(&*cursor.0)).transpose()?;
        let mut names = Vec::new();
        for (_, scheduler) in &*self.members {
            names.extend(crate::listing::names(scheduler, prefix, usize::MAX).await?);
        }
        names.sort();
        names.dedup();
        let mut rest = names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after));
        let items: Vec<QueueName> = rest.by_ref().take(limit).collect();
        let more = rest.next().is_some();
        let next = items.last().filter(|_| more).map(|last| Cursor(last.as_str().into()));
        Ok(Page { items, next })
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let admins: Vec<_> = self.admins().collect();
        let answers = join_all(admins.iter().map(|admin| admin.stats(queues))).await;
        let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
        let missing = || Err(Error::new(ErrorCode::Internal, "the provider answered nothing").at("stats"));
        let one = |_: &QueueName| {
            let parts = answers.iter_mut().map(|answers| answers.next().unwrap_or_else(missing)).collect();
            known(parts)?.into_iter().reduce(merge_stats).map_or_else(missing, Ok)
        };
        queues.iter().map(one).collect()
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        let admins: Vec<_> = self.admins().collect();
        let outcomes = join_all(admins.iter().map(|admin| admin.pause(queue, paused))).await;
        let unknown = outcomes.iter().flat_map(|outcome| outcome.as_ref().err());
        let some_unknown = unknown.into_iter().any(|error| error.code() == ErrorCode::NotFound);
        known(outcomes)?;
        if paused && some_unknown { self.pause_everywhere(queue).await } else { Ok(()) }
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let admins: Vec<_> = self.admins().collect();
        Ok(all(join_all(admins.iter().map(|admin| admin.purge(queue))).await)?.into_iter().sum())
    }

    /// By provider, and the oldest of each first.
    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let mut walk = Walk::begin(&self.members, cursor, limit)?;
        while let Some((scheduler, cursor, limit)) = walk.next() {
            walk.take(scheduler.admin().dead(queue, filter, cursor, limit).await)?;
        }
        Ok(walk.finish())
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        let admins: Vec<_> = self.admins().collect();
        let reports = all(join_all(admins.iter().map(|admin| admin.redrive(queue, what))).await)?;
        Ok(reports.into_iter().fold(RedriveReport::default(), |sum, one| RedriveReport {
            matched: sum.matched + one.matched,
            redriven: sum.redriven + one.redriven,
            duplicates: sum.duplicates + one.duplicates,
        }))
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        for admin in self.admins() {
            if let Some(spec) = admin.spec(queue).await? {
                return Ok(Some(spec));
            }
        }
        Ok(None)
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        let admins: Vec<_> = self.admins().collect();
        let mut sums: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for parked in all(join_all(admins.iter().map(|admin| admin.parked(queue, limit))).await)? {
            for (key, jobs) in parked {
                *sums.entry(key.0).or_default() += jobs;
            }
        }
        let mut sums: Vec<_> = sums.into_iter().map(|(key, jobs)| (ParkKey(key), jobs)).collect();
        sums.sort_by_key(|(_, jobs)| std::cmp::Reverse(*jobs));
        sums.truncate(limit);
        Ok(sums)
    }

    /// In its own provider's line.
    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let mut refused = None;
        for admin in self.admins() {
            match admin.position(job).await {
                Ok(Some(position)) => return Ok(Some(position)),
                Ok(None) => {}
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let admins: Vec<_> = self.admins().collect();
        Ok(all(join_all(admins.iter().map(|admin| admin.drop_dead(queue, filter))).await)?.into_iter().sum())
    }
}
