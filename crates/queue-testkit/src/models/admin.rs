//! What may be asked of a model broker's queues.

use std::{ops::Bound, sync::Arc};

use async_trait::async_trait;
use queue_core::{
    Error, ErrorCode, JobRef, QueueName, QueueSpec, Result,
    provider::{
        ADD_STORE, Cursor, DeadBody, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport,
        RedriveSelection,
    },
    stats::QueueStats,
};

use super::{
    connection::Link,
    queue::{Letter, Queue},
    state::State,
};

#[derive(Debug)]
pub(super) struct ModelAdmin(pub(super) Arc<Link>);

impl ModelAdmin {
    fn with<T>(&self, operation: &'static str, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.0.broker.change(|state| {
            self.0.usable(state, operation)?;
            act(state)
        })
    }
}

#[async_trait]
impl QueueAdmin for ModelAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        self.with("queues", |state| {
            let from = match &cursor {
                Some(cursor) => Bound::Excluded(tail(cursor, "queue")?),
                None => Bound::Included(prefix),
            };
            let names = state.queues.range::<str, _>((from, Bound::Unbounded)).map(|(name, _)| name);
            let names = names.take_while(|name| name.as_str().starts_with(prefix)).cloned();
            Ok(page(names, limit, |name| format!("queue:{name}")))
        })
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let one = |name: &QueueName| {
            self.with("stats", |state| {
                let exact = state.can.exact_depth.is_supported();
                state.refresh(name).map(|queue| queue.stats(exact)).ok_or_else(|| {
                    Error::new(ErrorCode::NotFound, "no such queue: declare it, or publish to it").at("stats").on(name)
                })
            })
        };
        queues.iter().map(one).collect()
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.with("pause", |state| {
            let queue = state.queue(queue);
            queue.paused = paused;
            if paused {
                queue.line.recall(None);
            }
            Ok(())
        })
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.with("purge", |state| {
            state.shape.require(state.can.purge, "purge")?;
            Ok(state.refresh(queue).map_or(0, Queue::purge))
        })
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.with("dead", |state| {
            let after = match &cursor {
                Some(cursor) => tail(cursor, "dead")?.parse().map_err(|_| foreign_cursor())?,
                None => 0,
            };
            let Some(queue) = state.queues.get(queue) else { return Ok(Page { items: Vec::new(), next: None }) };
            let dead = queue.dead.range((Bound::Excluded(after), Bound::Unbounded));
            let dead = dead.filter(|(_, dead)| matches(filter, dead)).map(|(number, dead)| (*number, dead.clone()));
            let Page { items, next } = page(dead, limit, |(number, _)| format!("dead:{number}"));
            Ok(Page { items: items.into_iter().map(|(_, dead)| dead).collect(), next })
        })
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        self.with("redrive", |state| redrive(state, queue, what))
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.with("spec", |state| Ok(state.refresh(queue).map(|queue| queue.spec.clone())))
    }

    async fn parked(&self, queue: &QueueName, _limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        Err(Error::unsupported(self.0.scheme(), "parked", ADD_STORE).on(queue))
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        Err(Error::unsupported(self.0.scheme(), "position", ADD_STORE).on(&job.queue))
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        self.with("drop_dead", |state| {
            let Some(queue) = state.queues.get_mut(queue) else { return Ok(0) };
            let before = queue.dead.len();
            queue.dead.retain(|_, dead| !matches(filter, dead));
            Ok((before - queue.dead.len()) as u64)
        })
    }
}

fn redrive(state: &mut State, name: &QueueName, what: &Redrive) -> Result<RedriveReport> {
    let one_named = matches!(&what.which, RedriveSelection::Jobs(ids) if ids.len() == 1);
    if what.payload.is_some() && !one_named {
        let message = "a new payload goes to exactly one job, named by its id";
        return Err(Error::new(ErrorCode::Validation, message).at("redrive").on(name));
    }
    let mut report = RedriveReport::default();
    let Some(queue) = state.queues.get(name) else { return Ok(report) };
    let meant = |dead: &DeadJob| match &what.which {
        RedriveSelection::Jobs(ids) => ids.contains(&dead.id),
        RedriveSelection::Matching(filter) => matches(filter, dead),
    };
    let meant: Vec<(u64, DeadJob)> =
        queue.dead.iter().filter(|(_, dead)| meant(dead)).map(|(number, dead)| (*number, dead.clone())).collect();
    report.matched = meant.len() as u64;
    if what.dry_run {
        return Ok(report);
    }
    for (number, dead) in meant {
        let letter = another_life(state, name, &dead, what)?;
        // A refused one stays dead, and the report says so.
        if state.send(name, letter).is_ok() {
            state.queue(name).dead.remove(&number);
            report.redriven += 1;
        }
    }
    Ok(report)
}

fn another_life(state: &mut State, name: &QueueName, dead: &DeadJob, what: &Redrive) -> Result<Letter> {
    let delay = std::time::Duration::ZERO;
    let (job, now) = match (&dead.body, &what.payload) {
        (DeadBody::Envelope(envelope), _) => (envelope, state.ground.wall()),
        (DeadBody::Raw(_), Some(_)) => {
            let message = "these bytes could not be read, so no payload in them can be replaced";
            return Err(Error::new(ErrorCode::Validation, message).at("redrive").on(name));
        }
        // As they came: a worker of another version may read them.
        (DeadBody::Raw(wire), None) => {
            let band = state.queue(name).spec.default_priority.band();
            return Ok(Letter { wire: wire.clone(), band, retry: false, delay });
        }
    };
    let next = job.edit(|parts| {
        parts.attempt = 1;
        parts.generation = parts.generation.saturating_add(1);
        parts.deliveries = 0;
        parts.not_before = None;
        // What has passed would end the new life at once.
        parts.expires_at = parts.expires_at.filter(|expiry| *expiry >= now);
        if let Some(payload) = &what.payload {
            parts.payload = payload.clone();
        }
    });
    state.check(name, &next).map_err(Error::from)?;
    Ok(Letter { wire: next.encode(), band: next.priority.band(), retry: false, delay })
}

fn matches(filter: &DeadFilter, dead: &DeadJob) -> bool {
    let kind = match &dead.body {
        DeadBody::Envelope(envelope) => Some(&envelope.kind),
        DeadBody::Raw(_) => None,
    };
    filter.matches(&dead.error.code, kind, dead.died_at)
}

/// Up to `limit` items, and a cursor after the last where there are more.
fn page<T>(mut items: impl Iterator<Item = T>, limit: usize, cursor: impl Fn(&T) -> String) -> Page<T> {
    let taken: Vec<T> = items.by_ref().take(limit.max(1)).collect();
    let next = items.next().and(taken.last()).map(|last| Cursor(cursor(last).into()));
    Page { items: taken, next }
}

fn tail<'a>(cursor: &'a Cursor, listing: &str) -> Result<&'a str> {
    cursor.0.strip_prefix(listing).and_then(|rest| rest.strip_prefix(':')).ok_or_else(foreign_cursor)
}

fn foreign_cursor() -> Error {
    Error::new(ErrorCode::Validation, "this cursor belongs to another listing")
}
