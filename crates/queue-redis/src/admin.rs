//! What may be asked of the queues.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Error, ErrorCode, QueueName, QueueSpec, Result,
    job::{Envelope, JobId, JobRef, Timestamp},
    provider::{
        Cursor, DeadBody, DeadFilter, DeadJob, Page, ParkKey, QueueAdmin, Redrive, RedriveReport, RedriveSelection,
        Rejection,
    },
    stats::QueueStats,
    store::JobRecord,
};
use redis::Value;

use crate::{
    SCHEME, fault,
    link::{self, items, number},
    provider::{BATCH, Shared},
    record, scripts,
    store::{RedisStore, Seen},
};

#[derive(Debug)]
pub(crate) struct RedisAdmin {
    shared: Arc<Shared>,
}

impl RedisAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn missing(queue: &QueueName, operation: &'static str) -> Error {
        Error::new(ErrorCode::NotFound, "there is no such queue").at(operation).by(SCHEME).on(queue)
    }

    async fn stats_of(&self, queue: &QueueName) -> Result<QueueStats> {
        const NAMES: [&str; 11] = ["paused", "p", "k", "s", "t", "r", "d", "c", "submitted", "completed", "failed"];
        let shared = &self.shared;
        if shared.specs.find(&shared.link, &shared.layout, queue).await?.is_none() {
            return Err(Self::missing(queue, "stats"));
        }
        let base = shared.layout.base(queue);
        let ask = redis::cmd("HMGET").arg(format!("{base}n")).arg(&NAMES).take();
        let answer = shared.link.ask(&ask).await.map_err(|error| fault::of(&error, "stats").on(queue))?;
        let broken = |what| fault::broken(what, "stats").on(queue);
        let numbers = items(answer).map_err(broken)?;
        let numbers = numbers.iter().map(|value| number(value).map(|value| u64::try_from(value).unwrap_or(0)));
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().map_err(broken)?;
        let [paused, pending, parked, scheduled, retrying, running, dead, finished, submitted, completed, failed] =
            numbers[..]
        else {
            return Err(broken("numbers are missing"));
        };
        let mut stats = QueueStats::empty(queue.clone());
        stats.paused = paused == 1;
        (stats.pending, stats.parked, stats.scheduled, stats.retrying) = (pending, parked, scheduled, retrying);
        (stats.running, stats.dead, stats.finished) = (running, dead, finished);
        (stats.submitted_total, stats.completed_total, stats.failed_total) = (submitted, completed, failed);
        stats.oldest_pending = self.oldest_pending(&base).await?;
        Ok(stats)
    }

    async fn oldest_pending(&self, base: &str) -> Result<Option<Timestamp>> {
        let none: [&str; 0] = [];
        let answer = self.shared.link.run(&scripts::OLDEST, base, &none).await;
        let since = number(&answer.map_err(|error| fault::of(&error, "stats"))?);
        let since = since.map_err(|what| fault::broken(what, "stats"))?;
        Ok(u64::try_from(since).ok().map(Timestamp::from_millis))
    }

    /// How many of a list's jobs, up to the end or one of them, stand in line, and whether that one was met.
    async fn count_line(&self, base: &str, list: &str, end: Option<JobId>) -> Result<(u64, bool)> {
        const PART: usize = 1_000;
        let fail = |error: redis::RedisError| fault::of(&error, "position");
        let broken = |what| fault::broken(what, "position");
        let (mut ahead, mut from) = (0, 0);
        loop {
            let range = if list == "h" { "ZRANGE" } else { "LRANGE" };
            let part = redis::cmd(range).arg(format!("{base}{list}")).arg(from).arg(from + PART - 1).take();
            let part = items(self.shared.link.ask(&part).await.map_err(fail)?).map_err(broken)?;
            let ids: Vec<_> = part.into_iter().map(link::bytes).collect::<Result<_, _>>().map_err(broken)?;
            let met = end.and_then(|end| ids.iter().position(|id| id[..] == end.as_bytes()[..]));
            let counted = &ids[..met.unwrap_or(ids.len())];
            let live = self.shared.link.run(&scripts::LIVE, base, counted).await.map_err(fail)?;
            ahead += u64::try_from(number(&live).map_err(broken)?).unwrap_or(0);
            if met.is_some() || ids.len() < PART {
                return Ok((ahead, met.is_some()));
            }
            from += PART;
        }
    }

    /// Dead jobs from a place on, the oldest first.
    async fn dead_from(&self, queue: &QueueName, from: usize, count: usize) -> Result<Vec<JobId>> {
        let base = self.shared.layout.base(queue);
        let range = redis::cmd("ZRANGE").arg(format!("{base}d")).arg(from).arg(from + count - 1).take();
        let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "dead").on(queue))?;
        let broken = |what| fault::broken(what, "dead").on(queue);
        let ids = items(answer).map_err(broken)?.into_iter().map(|id| record::read_id(&link::bytes(id)?));
        ids.collect::<Result<_, _>>().map_err(broken)
    }

    async fn records(&self, queue: &QueueName, ids: &[JobId]) -> Result<(Timestamp, Vec<Option<JobRecord>>)> {
        let base = self.shared.layout.base(queue);
        let (now, seen) = self.shared.look(&base, ids).await?;
        let record = |(id, seen): (&JobId, Seen)| match seen {
            Seen::Kept(kept) => kept.into_record(JobRef::new(queue.clone(), *id)).ok(),
            _ => None,
        };
        Ok((now, ids.iter().zip(seen).map(record).collect()))
    }

    /// The ids of all dead jobs that match.
    async fn matching(&self, queue: &QueueName, filter: &DeadFilter) -> Result<Vec<JobId>> {
        let (mut found, mut from) = (Vec::new(), 0);
        loop {
            let ids = self.dead_from(queue, from, BATCH).await?;
            let (_, records) = self.records(queue, &ids).await?;
            found.extend(
                records.into_iter().flatten().filter(|record| is_meant(record, filter)).map(|record| record.job.id),
            );
            from += ids.len();
            if ids.len() < BATCH {
                return Ok(found);
            }
        }
    }
}

fn is_meant(record: &JobRecord, filter: &DeadFilter) -> bool {
    let code = record.error.as_ref().map_or("", |error| &error.code);
    record.finished_at.is_some_and(|died| filter.matches(code, Some(&record.envelope.kind), died))
}

#[async_trait]
impl QueueAdmin for RedisAdmin {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        let after = cursor.map(|cursor| QueueName::new(&*cursor.0)).transpose()?;
        let mut names = self.shared.all_queues("queues").await?;
        names.retain(|name| name.as_str().starts_with(prefix) && after.as_ref().is_none_or(|after| name > after));
        names.sort();
        let more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| more).map(|name| Cursor(name.as_str().into()));
        Ok(Page { items: names, next })
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let mut answers = Vec::with_capacity(queues.len());
        for queue in queues {
            answers.push(self.stats_of(queue).await);
        }
        answers
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        use queue_core::JobStore as _;
        let store = RedisStore::new(Arc::clone(&self.shared));
        loop {
            let control = store.queue_control(queue).await?;
            let changed = queue_core::store::QueueControl { paused, ..control };
            match store.set_queue_control(queue, &changed).await {
                Err(error) if error.code() == ErrorCode::Conflict => {}
                other => return other,
            }
        }
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let shared = &self.shared;
        let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else {
            return Err(Self::missing(queue, "purge"));
        };
        let (mut purged, mut skip) = (0, 0);
        loop {
            let arguments = [known.tracked().to_owned(), BATCH.to_string(), skip.to_string()];
            let answer = shared.link.run(&scripts::PURGE, &known.base, &arguments).await;
            let answer = answer.map_err(|error| fault::of(&error, "purge").on(queue))?;
            let broken = |what| fault::broken(what, "purge").on(queue);
            let answer = items(answer).map_err(broken)?;
            let [part, next, more] = &answer[..] else { return Err(broken("numbers are missing")) };
            purged += u64::try_from(number(part).map_err(broken)?).unwrap_or(0);
            skip = number(next).map_err(broken)?;
            if *more == Value::Int(0) {
                return Ok(purged);
            }
        }
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let bad = |_| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead").by(SCHEME);
        let mut from = cursor.map_or(Ok(0), |cursor| cursor.0.parse::<usize>()).map_err(bad)?;
        let mut found: Vec<DeadJob> = Vec::new();
        loop {
            let ids = self.dead_from(queue, from, BATCH).await?;
            let (_, records) = self.records(queue, &ids).await?;
            for (index, record) in records.into_iter().enumerate() {
                let Some(record) = record.filter(|record| is_meant(record, filter)) else { continue };
                if found.len() == limit {
                    let next = Some(Cursor((from + index).to_string().into()));
                    return Ok(Page { items: found, next });
                }
                found.extend(dead_job(record));
            }
            from += ids.len();
            if ids.len() < BATCH {
                return Ok(Page { items: found, next: None });
            }
        }
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        let one = matches!(&what.which, RedriveSelection::Jobs(jobs) if jobs.len() == 1);
        if what.payload.is_some() && !one {
            let message = "an edited payload goes with exactly one named job";
            return Err(Error::new(ErrorCode::Validation, message).at("redrive").by(SCHEME).on(queue));
        }
        let shared = &self.shared;
        let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else {
            return Ok(RedriveReport::default());
        };
        let mut ids = match &what.which {
            RedriveSelection::Jobs(ids) => ids.clone(),
            RedriveSelection::Matching(filter) => self.matching(queue, filter).await?,
        };
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        let mut report = RedriveReport::default();
        for part in ids.chunks(BATCH) {
            let (now, records) = self.records(queue, part).await?;
            let mut arguments = vec![if what.dry_run { b"1".to_vec() } else { b"0".to_vec() }];
            for record in records.into_iter().flatten() {
                let edited = edit(&record.envelope, what, now);
                let (limit, actual) = (known.spec.max_encoded_len, edited.encoded_len());
                if what.payload.is_some() && actual > limit {
                    return Err(Error::from(Rejection::TooLarge { limit, actual }).at("redrive").by(SCHEME).on(queue));
                }
                let (head, body) = record::to_publish(&edited);
                arguments.extend([head, body]);
            }
            let answer = shared.link.run(&scripts::REDRIVE, &known.base, &arguments).await;
            let answer = answer.map_err(|error| fault::of(&error, "redrive").on(queue))?;
            let broken = |what| fault::broken(what, "redrive").on(queue);
            let answer = items(answer).map_err(broken)?;
            let [matched, redriven, duplicates] = &answer[..] else { return Err(broken("numbers are missing")) };
            let count = |value| number(value).map(|value| u64::try_from(value).unwrap_or(0)).map_err(broken);
            report.matched += count(matched)?;
            report.redriven += count(redriven)?;
            report.duplicates += count(duplicates)?;
        }
        Ok(report)
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        let known = self.shared.specs.find(&self.shared.link, &self.shared.layout, queue).await?;
        Ok(known.map(|known| known.spec))
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let base = self.shared.layout.base(queue);
        let range = redis::cmd("ZREVRANGE").arg(format!("{base}k")).arg(0).arg(limit - 1).arg("WITHSCORES").take();
        let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "parked").on(queue))?;
        let broken = |what| fault::broken(what, "parked").on(queue);
        let mut keys = Vec::new();
        let mut answer = items(answer).map_err(broken)?.into_iter();
        while let (Some(key), Some(count)) = (answer.next(), answer.next()) {
            let key = ParkKey(link::text(key).map_err(broken)?.into());
            keys.push((key, u64::try_from(number(&count).map_err(broken)?).unwrap_or(0)));
        }
        keys.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(keys)
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let (_, records) = self.records(&job.queue, std::slice::from_ref(&job.id)).await?;
        let Some(record) = records.into_iter().next().flatten() else { return Ok(None) };
        if record.state != queue_core::lifecycle::JobState::Pending || record.parked.is_some() {
            return Ok(None);
        }
        let base = self.shared.layout.base(&job.queue);
        let level = record.envelope.priority.level();
        let mut ahead = 0;
        for higher in level + 1..=15 {
            ahead += self.count_line(&base, &format!("r{higher}"), None).await?.0;
        }
        // Those at the head of lower priorities stand behind it there, and those of its own before it.
        let (heads, met) = self.count_line(&base, "h", Some(job.id)).await?;
        if met {
            return Ok(Some(ahead + heads));
        }
        let (own, met) = self.count_line(&base, &format!("r{level}"), Some(job.id)).await?;
        Ok(met.then_some(ahead + own))
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let base = self.shared.layout.base(queue);
        let mut dropped = 0;
        for part in self.matching(queue, filter).await?.chunks(BATCH) {
            let ids: Vec<&[u8]> = part.iter().map(|id| id.as_bytes().as_slice()).collect();
            let answer = self.shared.link.run(&scripts::BURY, &base, &ids).await;
            let answer = answer.map_err(|error| fault::of(&error, "drop_dead").on(queue))?;
            let part = number(&answer).map_err(|what| fault::broken(what, "drop_dead"))?;
            dropped += u64::try_from(part).unwrap_or(0);
        }
        Ok(dropped)
    }
}

/// As it is to run again: with the new payload, and without a time to live that has passed, which would end the new life at once.
fn edit(envelope: &Envelope, what: &Redrive, now: Timestamp) -> Envelope {
    envelope.edit(|parts| {
        parts.expires_at = parts.expires_at.filter(|end| *end > now);
        if let Some(payload) = &what.payload {
            parts.payload = payload.clone();
        }
    })
}

fn dead_job(record: JobRecord) -> Option<DeadJob> {
    Some(DeadJob {
        id: record.job.id,
        error: record.error?,
        attempt: record.attempt,
        died_at: record.finished_at?,
        body: DeadBody::Envelope(record.envelope),
    })
}
