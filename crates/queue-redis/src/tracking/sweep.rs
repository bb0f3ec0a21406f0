//! What somebody must publish because its publisher has not.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue_core::{
    QueueName, Result,
    job::{JobId, JobRef},
    provider::ParkKey,
    store::{Scope, StagedJob},
};
use redis::Value;

use super::{Inner, ROWS, scripts, wire};
use crate::{link, provider::BATCH, record::millis, store::MOST_PARTS};

/// Where walks over long queues go on.
#[derive(Debug, Default)]
pub(super) struct Walks(Mutex<HashMap<QueueName, u64>>);

impl Walks {
    fn begin(&self, queue: &QueueName) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(queue).unwrap_or(0)
    }

    fn go_on(&self, queue: &QueueName, from: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), from);
    }
}

impl Inner {
    async fn queues_in(&self, scope: &Scope, operation: &'static str) -> Result<Vec<QueueName>> {
        match &scope.queues {
            Some(queues) => Ok(queues.clone()),
            None => self.shared.all_queues(operation).await,
        }
    }

    pub(super) async fn due(
        &self,
        scope: &Scope,
        dead_leases: bool,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let mut found = Vec::new();
        for queue in self.queues_in(scope, "due").await? {
            if let Err(error) = self.mend(&queue).await {
                tracing::warn!(%queue, %error, "a tracked queue was not looked through");
            }
            while found.len() < limit {
                let part = BATCH.min(limit - found.len());
                match self.due_part(scope, &queue, dead_leases, part, lease).await {
                    Ok(copies) => {
                        let more = copies.len() == part;
                        found.extend(copies);
                        if !more {
                            break;
                        }
                    }
                    // What was handed out before goes to the caller; the rest waits for the next time.
                    Err(error) if found.is_empty() => return Err(error),
                    Err(_) => return Ok(found),
                }
            }
        }
        Ok(found)
    }

    async fn due_part(
        &self,
        scope: &Scope,
        queue: &QueueName,
        dead_leases: bool,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let arguments = [
            millis(lease).to_string(),
            wire::short(&scope.provider).to_owned(),
            u8::from(dead_leases).to_string(),
            limit.to_string(),
        ];
        let mut answer = self.run(&scripts::DUE, queue, &arguments, "due").await?.into_iter();
        let waiting = answer.next().unwrap_or_default();
        let copies = staged(scope, queue, answer, "due");
        if waiting != Value::Int(0)
            && let Err(error) = self.sweep_follow_ups(queue, lease).await
        {
            tracing::warn!(%queue, %error, "follow-ups stay where they were laid down; they are looked for again");
        }
        Ok(copies)
    }

    /// Looks through the whole queue, a part at a time; of a long one so many parts at one call, and goes on there at the next.
    pub(super) async fn silent(
        &self,
        scope: &Scope,
        at_least: Duration,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let mut found = Vec::new();
        let since = self.now("silent").await?.saturating_sub(millis(at_least));
        for queue in self.queues_in(scope, "silent").await? {
            let mut from = self.silent.begin(&queue);
            for parts in 0.. {
                if parts == MOST_PARTS {
                    self.silent.go_on(&queue, from);
                    break;
                }
                let pick = |id: JobId, row: wire::Row| row.is_silent(since).then_some(id);
                let (ids, next) = self.walk(&queue, from, ROWS, "silent", pick).await?;
                for part in ids.chunks(BATCH) {
                    // Never more than were asked for: what is staged is handed out.
                    let part = &part[..part.len().min(limit - found.len())];
                    if part.is_empty() {
                        self.silent.go_on(&queue, from);
                        return Ok(found);
                    }
                    found.extend(self.silent_part(scope, &queue, part, at_least, lease).await?);
                }
                from = next;
                if from == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }

    async fn silent_part(
        &self,
        scope: &Scope,
        queue: &QueueName,
        ids: &[JobId],
        at_least: Duration,
        lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let (lease, at_least) = (millis(lease).to_string(), millis(at_least).to_string());
        let provider = wire::short(&scope.provider);
        let mut arguments: Vec<&[u8]> = vec![lease.as_bytes(), provider.as_bytes(), at_least.as_bytes()];
        arguments.extend(ids.iter().map(|id| id.as_bytes().as_slice()));
        let answer = self.run(&scripts::SILENT, queue, &arguments, "silent").await?;
        Ok(staged(scope, queue, answer.into_iter(), "silent"))
    }

    pub(super) async fn unpark(
        &self,
        scope: &Scope,
        key: &ParkKey,
        n: usize,
        lease: Duration,
    ) -> Result<Vec<StagedJob>> {
        let mut found = Vec::new();
        for queue in self.queues_in(scope, "unpark").await? {
            while found.len() < n {
                let part = BATCH.min(n - found.len());
                let arguments = [
                    millis(lease).to_string(),
                    wire::short(&scope.provider).to_owned(),
                    key.0.to_string(),
                    part.to_string(),
                ];
                let answer = self.run(&scripts::UNPARK, &queue, &arguments, "unpark").await?;
                let copies = staged(scope, &queue, answer.into_iter(), "unpark");
                let more = copies.len() == part;
                found.extend(copies);
                if !more {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// Copies that a script handed out: packed copy and record, in turn.
fn staged(
    scope: &Scope,
    queue: &QueueName,
    mut answer: impl Iterator<Item = Value>,
    operation: &'static str,
) -> Vec<StagedJob> {
    let mut copies = Vec::new();
    while let (Some(head), Some(record)) = (answer.next(), answer.next()) {
        let copy = link::bytes(head).and_then(|head| wire::handed_out(head, link::bytes(record)?));
        match copy {
            Ok((id, place, envelope)) => {
                let job = JobRef { place, ..JobRef::new(queue.clone(), id) };
                copies.push(StagedJob::new(scope.provider.clone(), job, envelope));
            }
            // The others are staged, and must go to the caller.
            Err(what) => tracing::error!(%queue, what, operation, "a record cannot be read, and is not published"),
        }
    }
    copies
}
