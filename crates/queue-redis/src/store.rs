//! The records of the same jobs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use queue_core::{
    Error, ErrorCode, JobStore, QueueName, Result,
    job::{JobId, JobRef, StoreId, Timestamp},
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};
use redis::Value;

use crate::{
    SCHEME, events, fault, indexes,
    link::{self, items, number},
    provider::{BATCH, Shared},
    record::{self, Kept},
    scripts,
    shards::{self, Found},
    specs::Known,
    upkeep::CALLABLE,
    walk::{Stride, Taken, Walk},
};

/// Parts of a walk that one question takes at most.
pub(crate) const MOST_PARTS: usize = 100;

#[derive(Debug)]
pub(crate) struct RedisStore {
    shared: Arc<Shared>,
}

/// What a tick did.
#[derive(Debug)]
pub(crate) struct Ticked {
    pub(crate) forgotten: usize,
    pub(crate) next: Duration,
    /// Nothing runs, and whatever begins calls.
    pub(crate) rests: bool,
}

fn tick_arguments(known: &Known, retention: &Retention, most: usize) -> Vec<Vec<u8>> {
    let numbers =
        [most as u64, record::millis(retention.age), retention.count, retention.bytes, record::millis(retention.dead)];
    let numbers = numbers.iter().map(|number| number.to_string().into_bytes());
    std::iter::once(known.tracked().as_bytes().to_vec()).chain(numbers).collect()
}

/// What was found of a job.
pub(crate) enum Seen {
    Kept(Box<Kept>),
    Gone,
    Nothing,
}

impl Shared {
    /// All that is kept of jobs of a queue, and the server's time.
    pub(crate) async fn look(&self, base: &str, ids: &[JobId]) -> Result<(Timestamp, Vec<Seen>)> {
        let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let answer = self.link.run(&scripts::LOOK, base, &ids).await;
        let answer = answer.map_err(|error| fault::of(&error, "get"))?;
        let broken = |what| fault::broken(what, "get");
        let mut answer = items(answer).map_err(broken)?.into_iter();
        let now = number(&answer.next().unwrap_or_default()).map_err(broken)?;
        let mut seen = Vec::with_capacity(ids.len());
        for _ in ids {
            let mut next = || link::bytes(answer.next().unwrap_or_default());
            let (record, status, gone) = (next().map_err(broken)?, next().map_err(broken)?, next().map_err(broken)?);
            let mut details = [const { None }; 7];
            for detail in &mut details {
                let mut value = next().map_err(broken)?;
                *detail = (!value.is_empty()).then(|| value.split_off(1));
            }
            seen.push(match (record.is_empty(), gone.is_empty()) {
                (false, _) => Seen::Kept(Box::new(Kept { record, status, details })),
                (true, false) => Seen::Gone,
                (true, true) => Seen::Nothing,
            });
        }
        Ok((Timestamp::from_millis(u64::try_from(now).unwrap_or(0)), seen))
    }

    pub(crate) async fn tick(&self, known: &Known, retention: &Retention, most: usize) -> Result<Ticked> {
        self.tick_with(known, tick_arguments(known, retention, most))
            .await?
            .ok_or_else(|| fault::broken("an answer is missing", "maintain").on(&known.spec.name))
    }

    /// All shards by the queue's own declaration: what came of it altogether; `None` where another stands now, or none.
    pub(crate) async fn tick_all(&self, known: &Known, most: usize) -> Result<Option<Ticked>> {
        // What one suffers from stops no other.
        let parts = known.parts().iter().map(|shard| self.tick_as_declared(shard, most));
        let ticked = futures_util::future::join_all(parts).await.into_iter();
        let ticked: Option<Vec<Ticked>> = ticked.collect::<Result<_>>()?;
        let both = |one: Ticked, other: Ticked| Ticked {
            forgotten: one.forgotten + other.forgotten,
            next: one.next.min(other.next),
            rests: one.rests && other.rests,
        };
        Ok(ticked.and_then(|ticked| ticked.into_iter().reduce(both)))
    }

    /// By the queue's own declaration; `None` where another stands now, or none.
    pub(crate) async fn tick_as_declared(&self, known: &Known, most: usize) -> Result<Option<Ticked>> {
        let mut arguments = tick_arguments(known, &known.spec.retention, most);
        arguments.push(known.text.to_vec());
        if !self.link.is_cluster() {
            arguments.push(record::millis(CALLABLE).to_string().into_bytes());
        }
        self.tick_with(known, arguments).await
    }

    async fn tick_with(&self, known: &Known, arguments: Vec<Vec<u8>>) -> Result<Option<Ticked>> {
        let answer = self.link.run(&scripts::TICK, &known.base, &arguments).await;
        let answer = answer.map_err(|error| fault::of(&error, "maintain").on(&known.spec.name))?;
        let broken = |what| fault::broken(what, "maintain");
        let answer = items(answer).map_err(broken)?;
        if answer.is_empty() {
            return Ok(None);
        }
        let [forgotten, next, more] = &answer[..] else { return Err(broken("three numbers are missing")) };
        let (forgotten, next) = (number(forgotten).map_err(broken)?, number(next).map_err(broken)?);
        let idle = Duration::from_secs(60);
        let next = match (*more == Value::Int(1), u64::try_from(next)) {
            (true, _) => Duration::ZERO,
            (false, Ok(next)) => Duration::from_millis(next).min(idle),
            (false, Err(_)) => idle,
        };
        let rests = *more == Value::Int(2);
        Ok(Some(Ticked { forgotten: usize::try_from(forgotten).unwrap_or(0), next, rests }))
    }

    pub(crate) async fn all_queues(&self, operation: &'static str) -> Result<Vec<QueueName>> {
        let range = redis::cmd("ZRANGE").arg(self.layout.queues()).arg(0).arg(-1).take();
        let answer = self.link.ask(&range).await.map_err(|error| fault::of(&error, operation))?;
        let names = items(answer).map_err(|what| fault::broken(what, operation))?;
        Ok(names.into_iter().filter_map(|name| QueueName::new(link::text(name).ok()?).ok()).collect())
    }
}

impl RedisStore {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// One answer each, wherever they are: what cannot be read is its own job's trouble.
    async fn look_up(&self, queue: &QueueName, jobs: &[(JobId, u16)]) -> Result<Vec<Result<Lookup>>> {
        let shared = &self.shared;
        let known = shared.whole(queue).await?;
        let mut found = shared.seek(&known, jobs).await;
        let is_missing = |found: &Result<Found>| found.as_ref().is_ok_and(|found| matches!(found.seen, Seen::Nothing));
        if found.iter().any(is_missing) {
            // Perhaps it was declared anew, with other shards, since it was known.
            let now = shared.specs.find(&shared.link, &shared.layout, queue).await.ok().flatten();
            if let Some(now) = now.filter(|now| now.spec.shards != known.spec.shards) {
                shared.specs.forget_stale(&known);
                found = shared.seek(&now, jobs).await;
            }
        }
        let lookup = |((id, _), found): (&(JobId, u16), Result<Found>)| {
            found.and_then(|found| {
                let job = JobRef { queue: queue.clone(), id: *id, place: found.place };
                lookup(job, found.seen)
            })
        };
        Ok(jobs.iter().zip(found).map(lookup).collect())
    }

    /// By which index a query is answered best.
    async fn way(&self, shard: &Known, query: &JobQuery) -> Result<Way> {
        if is_unfiltered(query) {
            return Ok(None);
        }
        let ask = redis::cmd("HMGET").arg(format!("{}n", shard.base)).arg("indexes").arg("indexed").take();
        let answer = self.shared.link.ask(&ask).await;
        let answer = answer.map_err(|error| fault::of(&error, "list").on(&shard.spec.name))?;
        let answer = items(answer).map_err(|what| fault::broken(what, "list").on(&shard.spec.name))?;
        // One that is being filled is no good yet.
        let complete = match &answer[..] {
            [Value::BulkString(kept), Value::BulkString(complete)] if kept == complete => {
                String::from_utf8_lossy(complete).into_owned()
            }
            _ => String::new(),
        };
        Ok(indexes::best(query, &complete))
    }

    /// One part of a walk over all records of a queue: what matches, and where the walk goes on.
    async fn walk(
        &self,
        shard: &Known,
        query: &JobQuery,
        way: Way,
        from: u64,
        rows: usize,
    ) -> Result<(Vec<JobRecord>, u64)> {
        let queue = &shard.spec.name;
        let set = way.and_then(|letter| indexes::set_of(query, letter));
        let (scan, key, width) = match &set {
            Some(set) => ("SSCAN", &**set, 1),
            None => ("HSCAN", "j", 2),
        };
        let scan = redis::cmd(scan).arg(format!("{}{key}", shard.base)).arg(from).arg("COUNT").arg(rows).take();
        let answer = self.shared.link.ask(&scan).await.map_err(|error| fault::of(&error, "list").on(queue))?;
        let broken = |what| fault::broken(what, "list").on(queue);
        let mut answer = items(answer).map_err(broken)?.into_iter();
        let next = link::text(answer.next().unwrap_or_default()).map_err(broken)?;
        let next = next.parse().map_err(|_| broken("not a cursor"))?;
        let rows = items(answer.next().unwrap_or_default()).map_err(broken)?;
        let ids = rows.into_iter().step_by(width).map(|id| record::read_id(&link::bytes(id)?));
        let ids: Vec<JobId> = ids.collect::<Result<_, _>>().map_err(broken)?;
        let mut found = Vec::new();
        for part in ids.chunks(BATCH) {
            let (_, seen) = self.shared.look(&shard.base, part).await?;
            for (id, seen) in part.iter().zip(seen) {
                match lookup(JobRef { queue: queue.clone(), id: *id, place: shard.place }, seen) {
                    Ok(Lookup::Found(record)) if query.matches(&record) => found.push(*record),
                    Err(error) => tracing::warn!(%error, "a job is left out of a list"),
                    Ok(_) => {}
                }
            }
        }
        found.sort_by_key(|record| record.job.id);
        Ok((found, next))
    }
}

fn is_unfiltered(query: &JobQuery) -> bool {
    query.kind.is_none() && query.tag.is_none() && query.tenant.is_none()
}

/// By which index a walk goes, if by any.
type Way = Option<char>;

fn lookup(job: JobRef, seen: Seen) -> Result<Lookup> {
    let broken = |what| fault::broken(what, "get").on(&job.queue);
    match seen {
        Seen::Kept(kept) => match kept.into_record(job.clone()) {
            Ok(record) => Ok(Lookup::Found(Box::new(record))),
            Err(what) => Err(broken(what)),
        },
        Seen::Gone => Ok(Lookup::Gone),
        Seen::Nothing => Ok(Lookup::NotFound),
    }
}

#[async_trait]
impl JobStore for RedisStore {
    fn id(&self) -> StoreId {
        self.shared.store
    }

    fn scope(&self) -> StoreScope {
        StoreScope::Shared
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let mut answers = Vec::with_capacity(jobs.len());
        let mut rest = jobs;
        while let Some(first) = rest.first() {
            let same = rest.iter().take(BATCH).take_while(|job| job.queue == first.queue).count();
            let ids: Vec<(JobId, u16)> = rest[..same].iter().map(|job| (job.id, job.place)).collect();
            match self.look_up(&first.queue, &ids).await {
                Ok(found) => answers.extend(found),
                Err(error) => answers.extend(std::iter::repeat_n(Err(error), same)),
            }
            rest = &rest[same..];
        }
        answers
    }

    /// A walk in the order of the hash tables, about [`MOST_PARTS`] times [`BATCH`] records long at most: where few match, a page may hold
    /// fewer than were asked for, even none, and is the last only where it names no next one. A job that is there all the time is listed
    /// once, whatever goes or comes meanwhile; twice only where the table grew or shrank to another power of two.
    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let bad = || Error::new(ErrorCode::Validation, "this cursor is of another listing").at("list").by(SCHEME);
        let mut queues = match &query.queue {
            Some(queue) => vec![queue.clone()],
            None => self.shared.all_queues("list").await?,
        };
        let (mut walk, mut first, mut begun) = (Walk::default(), 0, None);
        if let Some(cursor) = cursor {
            let (place, name) = cursor.0.split_once('@').ok_or_else(bad)?;
            let (place, shard) = place.split_once('/').unwrap_or((place, "0"));
            let letter = place.chars().next().filter(char::is_ascii_lowercase);
            walk = Walk::read(&place[letter.map_or(0, char::len_utf8)..]).ok_or_else(bad)?;
            queues.retain(|queue| queue.as_str() >= name);
            if queues.first().is_some_and(|queue| queue.as_str() == name) {
                first = shard.parse().map_err(|_| bad())?;
                begun = Some(letter);
            } else {
                walk = Walk::default();
            }
        }
        let mut items: Vec<JobRecord> = Vec::new();
        let mut parts = 0;
        for queue in queues {
            let known = self.shared.whole(&queue).await?;
            for shard in known.parts().iter().skip(std::mem::take(&mut first)) {
                // A walk goes on as it began, whatever indexes there are now.
                let way = match begun.take() {
                    Some(None) => None,
                    // Its set may have gone meanwhile.
                    Some(way) if self.way(shard, query).await? != way => return Err(bad()),
                    Some(way) => way,
                    None => self.way(shard, query).await?,
                };
                let letter = way.map_or(String::new(), String::from);
                let here = |walk: &Walk| {
                    let place = if known.count() > 1 { format!("/{}", shard.place) } else { String::new() };
                    Some(Cursor(format!("{letter}{}{place}@{queue}", walk.text()).into()))
                };
                let all_match = query.states.is_empty() && (way.is_some() || is_unfiltered(query));
                // A small table comes in one part, in the order of its ids.
                let mut stride = Stride::new(limit - items.len(), all_match && walk.at > 0);
                loop {
                    if parts == MOST_PARTS || items.len() == limit {
                        return Ok(Page { items, next: here(&walk) });
                    }
                    parts += 1;
                    let (found, next) = self.walk(shard, query, way, walk.at, stride.rows()).await?;
                    match walk.take(found, next, &mut items, limit, &mut stride) {
                        Taken::All | Taken::Nothing => {}
                        Taken::Some => return Ok(Page { items, next: here(&walk) }),
                        Taken::Last => break,
                    }
                }
                walk = Walk::default();
            }
        }
        Ok(Page { items, next: None })
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        let store = Arc::new(Self::new(Arc::clone(&self.shared)));
        events::watch(Arc::clone(&self.shared), store, what).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(self.cancel_one(job, cancel).await);
        }
        answers
    }

    /// Without a retention, and none is noted: declarations are kept as a whole, and whoever leads goes by them.
    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        let base = self.shared.layout.base(queue);
        let ask = redis::cmd("HMGET").arg(format!("{base}n")).arg("version").arg("paused").take();
        let answer = self.shared.link.ask(&ask).await.map_err(|error| fault::of(&error, "queue_control").on(queue))?;
        let broken = |what| fault::broken(what, "queue_control").on(queue);
        let answer = items(answer).map_err(broken)?;
        let [version, paused] = &answer[..] else { return Err(broken("two values are missing")) };
        let version = u64::try_from(number(version).map_err(broken)?).unwrap_or(0);
        Ok(QueueControl { version, paused: number(paused).map_err(broken)? == 1, retention: None })
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        let shared = &self.shared;
        let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else {
            let message = "there is no such queue";
            return Err(Error::new(ErrorCode::NotFound, message).at("set_queue_control").by(SCHEME).on(queue));
        };
        let arguments = [control.version.to_string(), u8::from(control.paused).to_string()];
        let fail = |error: redis::RedisError| fault::of(&error, "set_queue_control").on(queue);
        let answer = shared.link.run(&scripts::CONTROL, &known.base, &arguments).await.map_err(fail)?;
        if answer == Value::Int(-1) {
            let message = "somebody changed the queue's switches in the meantime: read them again";
            return Err(Error::new(ErrorCode::Conflict, message).at("set_queue_control").by(SCHEME).on(queue));
        }
        shards::switch(&shared.link, &known, control.version + 1, control.paused).await.map_err(fail)
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        let shared = &self.shared;
        let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else { return Ok(0) };
        let mut forgotten = 0;
        for shard in known.parts() {
            let retention = shards::share_of(retention, known.count());
            while forgotten < limit {
                let part = BATCH.min(limit - forgotten);
                let done = shared.tick(shard, &retention, part).await?.forgotten;
                forgotten += done;
                if done < part {
                    break;
                }
            }
        }
        Ok(forgotten)
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.shared.lead(role, candidate, term).await
    }
}

impl RedisStore {
    async fn cancel_one(&self, job: &JobRef, cancel: &Cancel) -> Result<CancelOutcome> {
        let shared = &self.shared;
        let Some(known) = shared.specs.find(&shared.link, &shared.layout, &job.queue).await? else {
            return Ok(CancelOutcome::NotFound);
        };
        // Where it should be, and then wherever else it may be.
        let guess = known.guess(job.id, job.place);
        let others = known.parts().iter().filter(|shard| shard.place != guess);
        let mut failed = None;
        for shard in std::iter::once(known.part(guess)).chain(others) {
            match self.cancel_in(shard, job, cancel).await {
                Ok(CancelOutcome::NotFound) => {}
                Err(error) if error.code() != ErrorCode::Undecodable => failed = Some(error),
                other => return other,
            }
        }
        failed.map_or(Ok(CancelOutcome::NotFound), Err)
    }

    async fn cancel_in(&self, known: &Known, job: &JobRef, cancel: &Cancel) -> Result<CancelOutcome> {
        let shared = &self.shared;
        let arguments: [Bytes; 3] = [
            Bytes::from_static(known.tracked().as_bytes()),
            record::write_cancel(cancel).into(),
            Bytes::copy_from_slice(job.id.as_bytes()),
        ];
        let durability = known.spec.durability;
        // It may be in another shard, where it is confirmed.
        let is_moot = |answer: &Value| matches!(letter_of(answer), Some(b"N" | b"U"));
        let answer =
            shared.link.run_assured_unless(&scripts::CANCEL, &known.base, &arguments, durability, is_moot).await;
        let answer = answer.map_err(|error| fault::of(&error, "cancel").on(&job.queue))?;
        let broken = |what| fault::broken(what, "cancel").on(&job.queue);
        let letter = items(answer).map_err(broken)?.into_iter().next().unwrap_or_default();
        match link::bytes(letter).map_err(broken)?.as_ref() {
            b"C" => Ok(CancelOutcome::Cancelled),
            b"R" => Ok(CancelOutcome::Requested),
            b"T" => Ok(CancelOutcome::AlreadyTerminal),
            b"N" => Ok(CancelOutcome::NotFound),
            b"U" => Err(broken("a job that cannot be read: a newer version may have written it")),
            _ => Err(broken("an unknown answer")),
        }
    }
}

/// What became of the one job that was to be cancelled.
fn letter_of(answer: &Value) -> Option<&[u8]> {
    match answer {
        Value::Array(letters) => match &letters[..] {
            [Value::BulkString(letter)] => Some(&letter[..]),
            _ => None,
        },
        _ => None,
    }
}
