//! What may be asked of the queues.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::future::join_all;
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
    specs::Known,
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
        let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else {
            return Err(Self::missing(queue, "stats"));
        };
        let broken = |what| fault::broken(what, "stats").on(queue);
        let parts = known.parts().iter().map(async |shard: &Known| {
            let ask = redis::cmd("HMGET").arg(format!("{}n", shard.base)).arg(&NAMES).take();
            let answer = shared.link.ask(&ask).await.map_err(|error| fault::of(&error, "stats").on(queue))?;
            let numbers = items(answer).map_err(broken)?;
            let numbers = numbers.iter().map(|value| number(value).map(|value| u64::try_from(value).unwrap_or(0)));
            let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().map_err(broken)?;
            let numbers: [u64; NAMES.len()] = numbers.try_into().map_err(|_| broken("numbers are missing"))?;
            Ok::<_, Error>((numbers, self.oldest_pending(&shard.base).await?))
        });
        let mut stats = QueueStats::empty(queue.clone());
        for (place, part) in join_all(parts).await.into_iter().enumerate() {
            let (
                [paused, pending, parked, scheduled, retrying, running, dead, finished, submitted, completed, failed],
                oldest,
            ) = part?;
            // The first has the switches.
            stats.paused |= place == 0 && paused == 1;
            stats.pending += pending;
            stats.parked += parked;
            stats.scheduled += scheduled;
            stats.retrying += retrying;
            stats.running += running;
            stats.dead += dead;
            stats.finished += finished;
            stats.submitted_total += submitted;
            stats.completed_total += completed;
            stats.failed_total += failed;
            stats.oldest_pending = stats.oldest_pending.into_iter().chain(oldest).min();
        }
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

    /// So many dead jobs of a shard behind one of them, or less, the oldest first.
    async fn dead_behind(&self, shard: &Known, last: Option<Spot>, count: usize) -> Result<Vec<Spot>> {
        let queue = &shard.spec.name;
        let broken = |what| fault::broken(what, "dead").on(queue);
        let mut passed = 0;
        loop {
            let since = last.map_or_else(|| "-inf".to_owned(), |last| last.died.to_string());
            let mut range = redis::cmd("ZRANGEBYSCORE");
            range.arg(format!("{}d", shard.base)).arg(since).arg("+inf").arg("WITHSCORES");
            range.arg("LIMIT").arg(passed).arg(count);
            let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "dead").on(queue))?;
            let answer = items(answer).map_err(broken)?;
            let spots =
                answer.chunks_exact(2).map(|pair| Spot::read(&pair[0], &pair[1])).collect::<Result<Vec<_>, _>>();
            let mut spots = spots.map_err(broken)?;
            let all = spots.len();
            // Several may have died in that millisecond; they stand in the order of their ids.
            spots.retain(|spot| last.is_none_or(|last| *spot > last));
            if !spots.is_empty() || all < count {
                return Ok(spots);
            }
            passed += all;
        }
    }

    async fn records(&self, shard: &Known, ids: &[JobId]) -> Result<(Timestamp, Vec<Option<JobRecord>>)> {
        let (now, seen) = self.shared.look(&shard.base, ids).await?;
        let record = |(id, seen): (&JobId, Seen)| match seen {
            Seen::Kept(kept) => {
                kept.into_record(JobRef { queue: shard.spec.name.clone(), id: *id, place: shard.place }).ok()
            }
            _ => None,
        };
        Ok((now, ids.iter().zip(seen).map(record).collect()))
    }

    /// The ids of all dead jobs of a shard that match.
    async fn matching(&self, shard: &Known, filter: &DeadFilter) -> Result<Vec<JobId>> {
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let spots = self.dead_behind(shard, last, BATCH).await?;
            let Some(end) = spots.last() else { return Ok(found) };
            last = Some(*end);
            let ids: Vec<JobId> = spots.into_iter().map(|spot| spot.id).collect();
            let (_, records) = self.records(shard, &ids).await?;
            let meant = records.into_iter().flatten().filter(|record| is_meant(record, filter));
            found.extend(meant.map(|record| record.job.id));
        }
    }

    /// Up to so many dead jobs of a shard that match, the oldest first, behind one of them; and the last that was looked at.
    async fn dead_of(
        &self,
        shard: &Known,
        filter: &DeadFilter,
        mut last: Option<Spot>,
        most: usize,
    ) -> Result<(Vec<(Spot, JobRecord)>, Option<Spot>)> {
        let mut found = Vec::new();
        loop {
            let spots = self.dead_behind(shard, last, BATCH).await?;
            let ids: Vec<JobId> = spots.iter().map(|spot| spot.id).collect();
            let Some(end) = spots.last().copied() else { return Ok((found, last)) };
            last = Some(end);
            let (_, records) = self.records(shard, &ids).await?;
            for (spot, record) in spots.into_iter().zip(records) {
                let Some(record) = record.filter(|record| is_meant(record, filter)) else { continue };
                found.push((spot, record));
                if found.len() == most {
                    return Ok((found, last));
                }
            }
        }
    }

    /// How many stand in line, or have gone back to the head of one.
    async fn waiting(&self, shard: &Known) -> Result<u64> {
        let ask = redis::cmd("HMGET").arg(format!("{}n", shard.base)).arg("p").arg("k").take();
        let answer = self.shared.link.ask(&ask).await.map_err(|error| fault::of(&error, "position"))?;
        let broken = |what| fault::broken(what, "position");
        let counts = items(answer).map_err(broken)?;
        let [pending, parked] = &counts[..] else { return Err(broken("two values are missing")) };
        let waiting = number(pending).map_err(broken)? - number(parked).map_err(broken)?;
        Ok(u64::try_from(waiting).unwrap_or(0))
    }

    /// How many stand before a job in its own shard.
    async fn ahead_of(&self, shard: &Known, job: JobId, level: u8) -> Result<Option<u64>> {
        let base = &shard.base;
        let mut ahead = 0;
        for higher in level + 1..=15 {
            ahead += self.count_line(base, &format!("r{higher}"), None).await?.0;
        }
        // Those at the head of lower priorities stand behind it there, and those of its own before it.
        let (heads, met) = self.count_line(base, "h", Some(job)).await?;
        if met {
            return Ok(Some(ahead + heads));
        }
        let (own, met) = self.count_line(base, &format!("r{level}"), Some(job)).await?;
        Ok(met.then_some(ahead + own))
    }

    async fn redrive_all(&self, known: &Known, what: &Redrive, report: &mut RedriveReport) -> Result<()> {
        for shard in known.parts() {
            let mut ids = match &what.which {
                RedriveSelection::Jobs(ids) => ids.clone(),
                RedriveSelection::Matching(filter) => self.matching(shard, filter).await?,
            };
            let mut seen = HashSet::new();
            ids.retain(|id| seen.insert(*id));
            // Those of other shards are not found here.
            self.redrive_in(shard, &ids, what, report).await?;
        }
        Ok(())
    }

    /// Redrives these of one shard.
    async fn redrive_in(&self, shard: &Known, ids: &[JobId], what: &Redrive, report: &mut RedriveReport) -> Result<()> {
        let (shared, queue) = (&self.shared, &shard.spec.name);
        for part in ids.chunks(BATCH) {
            let (now, records) = self.records(shard, part).await?;
            let mut arguments = vec![if what.dry_run { b"1".to_vec() } else { b"0".to_vec() }];
            for record in records.into_iter().flatten() {
                let edited = edit(&record.envelope, what, now);
                let (limit, actual) = (shard.spec.max_encoded_len, edited.encoded_len());
                if what.payload.is_some() && actual > limit {
                    return Err(Error::from(Rejection::TooLarge { limit, actual }).at("redrive").by(SCHEME).on(queue));
                }
                let (head, body) = record::to_publish(&edited);
                arguments.extend([head, body]);
            }
            let answer = shared.link.run(&scripts::REDRIVE, &shard.base, &arguments).await;
            let answer = answer.map_err(|error| fault::of(&error, "redrive").on(queue))?;
            let broken = |what| fault::broken(what, "redrive").on(queue);
            let answer = items(answer).map_err(broken)?;
            let [matched, redriven, duplicates] = &answer[..] else { return Err(broken("numbers are missing")) };
            let count = |value| number(value).map(|value| u64::try_from(value).unwrap_or(0)).map_err(broken);
            report.matched += count(matched)?;
            report.redriven += count(redriven)?;
            report.duplicates += count(duplicates)?;
        }
        Ok(())
    }
}

/// Where a dead job stands among the dead of its shard. It may be gone when a list goes on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    died: u64,
    id: JobId,
}

impl Spot {
    fn read(id: &Value, died: &Value) -> Result<Self, fault::Broken> {
        let id = record::read_id(&link::bytes(id.clone())?)?;
        let died = link::text(died.clone())?.parse::<f64>().map_err(|_| "not a time")?;
        Ok(Self { died: died.max(0.0) as u64, id })
    }

    /// As [`text`](Self::text) wrote it; nothing for the beginning.
    fn parse(text: &str) -> Option<Option<Self>> {
        if text.is_empty() {
            return Some(None);
        }
        let (died, id) = text.split_once('~')?;
        Some(Some(Self { died: died.parse().ok()?, id: id.parse().ok()? }))
    }

    fn text(self) -> String {
        format!("{}~{}", self.died, self.id)
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
        let mut purged = 0;
        for shard in known.parts() {
            let mut skip = 0;
            loop {
                let arguments = [known.tracked().to_owned(), BATCH.to_string(), skip.to_string()];
                let answer = shared.link.run(&scripts::PURGE, &shard.base, &arguments).await;
                let answer = answer.map_err(|error| fault::of(&error, "purge").on(queue))?;
                let broken = |what| fault::broken(what, "purge").on(queue);
                let answer = items(answer).map_err(broken)?;
                let [part, next, more] = &answer[..] else { return Err(broken("numbers are missing")) };
                purged += u64::try_from(number(part).map_err(broken)?).unwrap_or(0);
                skip = number(next).map_err(broken)?;
                if *more == Value::Int(0) {
                    break;
                }
            }
        }
        Ok(purged)
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let known = self.shared.whole(queue).await?;
        let bad = || Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead").by(SCHEME);
        // Behind which job each shard's list goes on.
        let mut from = vec![None; known.count()];
        if let Some(cursor) = cursor {
            let spots: Option<Vec<Option<Spot>>> = cursor.0.split('.').map(Spot::parse).collect();
            from = spots.filter(|spots| spots.len() == known.count()).ok_or_else(bad)?;
        }
        let parts = known.parts().iter().zip(&from).map(|(shard, from)| self.dead_of(shard, filter, *from, limit + 1));
        let (mut found, mut ends) = (Vec::new(), Vec::new());
        for part in join_all(parts).await {
            let (records, end) = part?;
            ends.push(end);
            found.extend(records);
        }
        found.sort_by_key(|(spot, _)| *spot);
        let rest = found.split_off(found.len().min(limit));
        let next = (!rest.is_empty()).then(|| {
            let left: HashSet<u16> = rest.iter().map(|(_, record)| record.job.place).collect();
            for (place, (from, end)) in (0..).zip(from.iter_mut().zip(ends)) {
                let last = found.iter().rev().find(|(_, record)| record.job.place == place).map(|(spot, _)| *spot);
                *from = if left.contains(&place) { last.or(*from) } else { end };
            }
            let spots: Vec<String> = from.iter().map(|from| from.map_or_else(String::new, Spot::text)).collect();
            Cursor(spots.join(".").into())
        });
        Ok(Page { items: found.into_iter().filter_map(|(_, record)| dead_job(record)).collect(), next })
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
        let mut report = RedriveReport::default();
        match self.redrive_all(&known, what, &mut report).await {
            Ok(()) => Ok(report),
            Err(error) if what.dry_run => Err(error),
            Err(error) => Err(report.stopped_by(error)),
        }
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        let known = self.shared.specs.find(&self.shared.link, &self.shared.layout, queue).await?;
        Ok(known.map(|known| known.spec))
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let known = self.shared.whole(queue).await?;
        let broken = |what| fault::broken(what, "parked").on(queue);
        // The most of all may be among the fewer of each: all keys of each shard are asked for, where there are several.
        let last = if known.count() > 1 { -1 } else { i64::try_from(limit - 1).unwrap_or(-1) };
        let mut keys: HashMap<ParkKey, u64> = HashMap::new();
        for shard in known.parts() {
            let range =
                redis::cmd("ZREVRANGE").arg(format!("{}k", shard.base)).arg(0).arg(last).arg("WITHSCORES").take();
            let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "parked").on(queue))?;
            let mut answer = items(answer).map_err(broken)?.into_iter();
            while let (Some(key), Some(count)) = (answer.next(), answer.next()) {
                let key = ParkKey(link::text(key).map_err(broken)?.into());
                *keys.entry(key).or_default() += u64::try_from(number(&count).map_err(broken)?).unwrap_or(0);
            }
        }
        let mut keys: Vec<(ParkKey, u64)> = keys.into_iter().collect();
        keys.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        keys.truncate(limit);
        Ok(keys)
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let known = self.shared.whole(&job.queue).await?;
        let Some(found) = self.shared.seek(&known, &[(job.id, job.place)]).await.pop() else { return Ok(None) };
        let found = found?;
        let Seen::Kept(kept) = found.seen else { return Ok(None) };
        let Ok(record) = kept.into_record(job.clone()) else { return Ok(None) };
        if record.state != queue_core::lifecycle::JobState::Pending || record.parked.is_some() {
            return Ok(None);
        }
        let shard = known.part(found.place);
        let Some(ahead) = self.ahead_of(shard, job.id, record.envelope.priority.level()).await? else {
            return Ok(None);
        };
        let mut all = ahead;
        // Each other shard has as many turns before it is this one's.
        for other in known.shards.iter().filter(|other| other.place != found.place) {
            all += self.waiting(other).await?.min(ahead);
        }
        Ok(Some(all))
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let known = self.shared.whole(queue).await?;
        let mut dropped = 0;
        for shard in known.parts() {
            for part in self.matching(shard, filter).await?.chunks(BATCH) {
                let ids: Vec<&[u8]> = part.iter().map(|id| id.as_bytes().as_slice()).collect();
                let answer = self.shared.link.run(&scripts::BURY, &shard.base, &ids).await;
                let answer = answer.map_err(|error| fault::of(&error, "drop_dead").on(queue))?;
                let part = number(&answer).map_err(|what| fault::broken(what, "drop_dead"))?;
                dropped += u64::try_from(part).unwrap_or(0);
            }
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
