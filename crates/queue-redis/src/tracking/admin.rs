//! What people ask of a queue: numbers, dead letters, an empty queue.

use std::{cmp::Reverse, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use queue_core::{
    Error, ErrorCode, QueueName, Result,
    job::{Envelope, JobId, JobRef, Timestamp},
    lifecycle::JobState,
    provider::{Cancel, Cursor, DeadBody, DeadFilter, DeadJob, Page, ParkKey},
    stats::QueueStats,
    store::{JobRecord, RedriveOutcome, StagedJob},
};
use redis::Value;

use super::{
    Inner, ROWS,
    parts::{Answers, Part, by_queue},
    scripts, wire,
};
use crate::{
    SCHEME, fault, link,
    provider::BATCH,
    record::{self, millis},
};

impl Inner {
    /// The cursor is the last name that was shown. The list of names never shrinks, so each is asked whether anything is there.
    pub(super) async fn queues(
        &self,
        provider: &str,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<QueueName>> {
        let mut page = Page { items: Vec::<QueueName>::new(), next: None };
        let mut names = self.names(prefix, cursor.as_ref().map(|cursor| &*cursor.0)).await?;
        while let Some(last) = names.last().cloned() {
            let there = join_all(names.iter().map(|queue| self.is_carried_by(queue, provider))).await;
            for (queue, there) in names.into_iter().zip(there) {
                if !there? {
                    continue;
                }
                if page.items.len() == limit {
                    page.next = page.items.last().map(|last| Cursor(last.as_str().into()));
                    return Ok(page);
                }
                page.items.push(queue);
            }
            names = self.names(prefix, Some(last.as_str())).await?;
        }
        Ok(page)
    }

    /// The next names with this prefix, of queues that were used once.
    async fn names(&self, prefix: &str, behind: Option<&str>) -> Result<Vec<QueueName>> {
        let from = behind.map_or_else(|| format!("[{prefix}"), |behind| format!("({behind}"));
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.shared.layout.queues()).arg(from).arg("+").arg("BYLEX").arg("LIMIT").arg(0).arg(BATCH);
        let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "queues"))?;
        let broken = |what| fault::broken(what, "queues");
        let mut names = Vec::new();
        for name in link::items(answer).map_err(broken)? {
            let name = link::text(name).map_err(broken)?;
            if !name.starts_with(prefix) {
                break;
            }
            names.extend(QueueName::new(name));
        }
        Ok(names)
    }

    /// By any of its jobs: a queue is one provider's. Where there is none, whether there is anything at all.
    async fn is_carried_by(&self, queue: &QueueName, provider: &str) -> Result<bool> {
        let base = self.base(queue);
        let fail = |error: redis::RedisError| fault::of(&error, "queues").on(queue);
        let any = redis::cmd("HRANDFIELD").arg(format!("{base}s")).arg(1).arg("WITHVALUES").take();
        let any = link::items(self.shared.link.ask(&any).await.map_err(fail)?).unwrap_or_default();
        let row = any.into_iter().nth(1).and_then(|row| link::bytes(row).and_then(wire::Row::read).ok().flatten());
        match row {
            Some(row) => Ok(row.provider == wire::short(provider)),
            // None, or one that only a newer version can read.
            None => {
                let there = self.shared.link.ask(redis::cmd("EXISTS").arg(format!("{base}n"))).await.map_err(fail)?;
                Ok(there == Value::Int(1))
            }
        }
    }

    /// The most first, then by name.
    pub(super) async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let key = format!("{}k", self.base(queue));
        let range = redis::cmd("ZREVRANGE").arg(key).arg(0).arg(limit - 1).arg("WITHSCORES").take();
        let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "parked").on(queue))?;
        let broken = |what| fault::broken(what, "parked").on(queue);
        let mut answer = link::items(answer).map_err(broken)?.into_iter();
        let mut keys = Vec::new();
        while let (Some(key), Some(count)) = (answer.next(), answer.next()) {
            let count = u64::try_from(link::number(&count).map_err(broken)?).unwrap_or(0);
            keys.push((ParkKey(link::text(key).map_err(broken)?.into()), count));
        }
        keys.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(keys)
    }

    pub(super) async fn stats(&self, queue: &QueueName) -> Result<QueueStats> {
        let none: [&str; 0] = [];
        let answer = self.run(&scripts::STATS, queue, &none, "stats").await?;
        let broken = |what| fault::broken(what, "stats").on(queue);
        let (oldest, numbers) = answer.split_last().ok_or_else(|| broken("numbers are missing"))?;
        let oldest = link::number(oldest).map_err(broken)?;
        let numbers = numbers.iter().map(|value| link::number(value).map(|value| u64::try_from(value).unwrap_or(0)));
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
        stats.oldest_pending = u64::try_from(oldest).ok().map(Timestamp::from_millis);
        Ok(stats)
    }

    /// Walks over the whole queue.
    pub(super) async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        let now = self.now("position").await?;
        let own = self.rows(&job.queue, &[job.id], "position").await?.1.into_iter().next();
        let Some(Some(own)) = own else { return Ok(None) };
        let place = |row: &wire::Row| (Reverse(row.priority), row.submitted, row.born);
        if !own.row.is_ready(now) {
            return Ok(None);
        }
        let own = place(&own.row);
        let (mut ahead, mut from) = (0, 0);
        loop {
            let pick = |id: JobId, row: wire::Row| (row.is_ready(now) && place(&row) < own).then_some(id);
            let (part, next) = self.walk(&job.queue, from, ROWS, "position", pick).await?;
            // A walk may meet a row twice while the table grows; never more than a few.
            ahead += part.len() as u64;
            from = next;
            if from == 0 {
                return Ok(Some(ahead));
            }
        }
    }

    /// The oldest first; the cursor is the place of the last one that was shown.
    pub(super) async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let mut last = cursor.map(|cursor| read_cursor(&cursor)).transpose()?;
        let mut page = Page { items: Vec::new(), next: None };
        loop {
            let part = self.dead_behind(queue, last).await?;
            let Some(end) = part.last().copied() else { return Ok(page) };
            let ids: Vec<JobId> = part.iter().map(|(_, id)| *id).collect();
            let records = self.records(queue, &ids, "dead").await?;
            for ((died, id), record) in part.into_iter().zip(records) {
                let dead = record.and_then(dead_job);
                let Some(dead) = dead.filter(|dead| is_meant(dead, filter)) else { continue };
                if page.items.len() == limit {
                    return Ok(page);
                }
                page.items.push(dead);
                page.next = Some(Cursor(format!("{died}.{id}").into()));
            }
            last = Some(end);
            if ids.len() < BATCH {
                // Nothing is behind the last one that was shown.
                page.next = None;
                return Ok(page);
            }
        }
    }

    /// The next dead jobs behind a place, in their order.
    async fn dead_behind(&self, queue: &QueueName, last: Option<(u64, JobId)>) -> Result<Vec<(u64, JobId)>> {
        let broken = |what| fault::broken(what, "dead").on(queue);
        let mut found = Vec::new();
        let mut offset = 0;
        while found.len() < BATCH {
            let range = redis::cmd("ZRANGE")
                .arg(format!("{}d", self.base(queue)))
                .arg(last.map_or(0, |(died, _)| died))
                .arg("+inf")
                .arg("BYSCORE")
                .arg("LIMIT")
                .arg(offset)
                .arg(BATCH)
                .arg("WITHSCORES")
                .take();
            let answer = self.shared.link.ask(&range).await.map_err(|error| fault::of(&error, "dead").on(queue))?;
            let mut answer = link::items(answer).map_err(broken)?.into_iter();
            let mut met = 0;
            while let (Some(id), Some(died)) = (answer.next(), answer.next()) {
                met += 1;
                let id = link::bytes(id).and_then(|id| record::read_id(&id)).map_err(broken)?;
                let died = u64::try_from(link::number(&died).map_err(broken)?).unwrap_or(0);
                if last.is_none_or(|last| (died, id) > last) && found.len() < BATCH {
                    found.push((died, id));
                }
            }
            offset += met;
            if met < BATCH {
                break;
            }
        }
        Ok(found)
    }

    pub(super) async fn redrive(
        &self,
        jobs: &[(JobRef, Option<Bytes>)],
        lease: Duration,
    ) -> Vec<Result<RedriveOutcome>> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|(job, _)| Some(&job.queue))) {
            match self.redrive_part(&part, jobs, lease).await {
                Ok(outcomes) => answers.put(&part, outcomes.into_iter().map(Ok)),
                Err(error) => answers.put(&part, part.items.iter().map(|_| Err(error.clone()))),
            }
        }
        answers.into_vec(|| Err(fault::broken("an answer is missing", "redrive")))
    }

    async fn redrive_part(
        &self,
        part: &Part,
        jobs: &[(JobRef, Option<Bytes>)],
        lease: Duration,
    ) -> Result<Vec<RedriveOutcome>> {
        let broken = |what| fault::broken(what, "redrive").on(&part.queue);
        let mut outcomes = vec![RedriveOutcome::NotDead; part.items.len()];
        let mut left: Vec<usize> = (0..part.items.len()).collect();
        // One that lived and died again since it was read is read again.
        for _ in 0..3 {
            let ids: Vec<JobId> = left.iter().map(|at| jobs[part.items[*at]].0.id).collect();
            let (now, found) = self.rows(&part.queue, &ids, "redrive").await?;
            let mut arguments = vec![millis(lease).to_string().into_bytes()];
            let mut asked = Vec::new();
            for (at, kept) in std::mem::take(&mut left).into_iter().zip(found) {
                let (job, payload) = &jobs[part.items[at]];
                let Some(kept) = kept.filter(|kept| kept.row.state == JobState::Dead) else { continue };
                let (place, provider) = (kept.row.place, kept.row.provider.clone());
                let copy = edit(&kept.into_copy().map_err(broken)?, payload.as_ref(), Timestamp::from_millis(now));
                let job = JobRef { place, ..job.clone() };
                arguments.extend([wire::head(&job, &copy), wire::record(&copy)]);
                asked.push((at, StagedJob::new(provider, job, copy)));
            }
            if asked.is_empty() {
                break;
            }
            let answers = self.promise(&scripts::REDRIVE, &part.queue, &arguments, "redrive").await?;
            for ((at, staged), answer) in asked.into_iter().zip(answers) {
                let answer = link::bytes(answer).map_err(broken)?;
                match answer.split_first() {
                    Some((b'S', head)) => {
                        let head = Bytes::copy_from_slice(head);
                        let record = wire::record(&staged.envelope).into();
                        let (_, _, copy) = wire::handed_out(head, record).map_err(broken)?;
                        outcomes[at] = RedriveOutcome::Staged(StagedJob::new(staged.provider, staged.job, copy));
                    }
                    Some((b'D', holder)) => {
                        let holder = record::read_id(holder).map_err(broken)?;
                        outcomes[at] = RedriveOutcome::Duplicate { existing: JobRef::new(part.queue.clone(), holder) };
                    }
                    Some((b'G', _)) => left.push(at),
                    _ => {}
                }
            }
        }
        Ok(outcomes)
    }

    pub(super) async fn forget_dead(&self, jobs: &[JobRef]) -> Vec<Result<bool>> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|job| Some(&job.queue))) {
            let ids: Vec<_> = part.items.iter().map(|item| jobs[*item].id.as_bytes().as_slice()).collect();
            match self.run(&scripts::FORGET, &part.queue, &ids, "forget_dead").await {
                Ok(found) => answers.put(&part, found.into_iter().map(|found| Ok(found == Value::Int(1)))),
                Err(error) => answers.put(&part, part.items.iter().map(|_| Err(error.clone()))),
            }
        }
        answers.into_vec(|| Err(fault::broken("an answer is missing", "forget_dead")))
    }

    /// Walks over the whole queue; what comes meanwhile may stay.
    pub(super) async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let request = record::write_cancel(&Cancel::by("purge"));
        let (mut purged, mut from) = (0, 0);
        loop {
            let pick = |id: JobId, row: wire::Row| row.state.is_waiting().then_some(id);
            let (ids, next) = self.walk(queue, from, ROWS, "purge", pick).await?;
            for part in ids.chunks(BATCH) {
                let mut arguments: Vec<&[u8]> = vec![b"1", &request];
                arguments.extend(part.iter().map(|id| id.as_bytes().as_slice()));
                let answers = self.run(&scripts::CANCEL, queue, &arguments, "purge").await?;
                let cancelled = answers.into_iter().filter(|answer| *answer == Value::BulkString(b"C".to_vec()));
                purged += cancelled.count() as u64;
            }
            from = next;
            if from == 0 {
                return Ok(purged);
            }
        }
    }

    pub(super) async fn drop_queue(&self, queue: &QueueName) -> Result<()> {
        let none: [&str; 0] = [];
        let answer = self.shared.link.run(&scripts::DROP, self.base(queue), &none).await;
        answer.map(drop).map_err(|error| fault::of(&error, "drop_queue").on(queue))
    }

    /// Records of one queue, in order; `None` for what is not there.
    pub(super) async fn records(
        &self,
        queue: &QueueName,
        ids: &[JobId],
        operation: &'static str,
    ) -> Result<Vec<Option<JobRecord>>> {
        let (now, rows) = self.rows(queue, ids, operation).await?;
        let record = |(id, kept): (&JobId, Option<wire::Kept>)| {
            kept.map(|kept| kept.into_record(&JobRef::new(queue.clone(), *id), now)).transpose()
        };
        let records: Result<_, _> = ids.iter().zip(rows).map(record).collect();
        records.map_err(|what| fault::broken(what, operation).on(queue))
    }
}

/// As it is to run again: with the new payload, due at once, and without a time to live that has passed.
fn edit(envelope: &Envelope, payload: Option<&Bytes>, now: Timestamp) -> Envelope {
    envelope.edit(|copy| {
        copy.not_before = None;
        copy.expires_at = copy.expires_at.filter(|end| *end > now);
        if let Some(payload) = payload {
            copy.payload = payload.clone();
        }
    })
}

fn is_meant(dead: &DeadJob, filter: &DeadFilter) -> bool {
    let kind = match &dead.body {
        DeadBody::Envelope(envelope) => Some(&envelope.kind),
        _ => None,
    };
    filter.matches(&dead.error.code, kind, dead.died_at)
}

fn dead_job(record: JobRecord) -> Option<DeadJob> {
    if record.state != JobState::Dead {
        return None;
    }
    Some(DeadJob {
        id: record.job.id,
        error: record.error?,
        attempt: record.attempt,
        died_at: record.finished_at?,
        body: DeadBody::Envelope(record.envelope),
    })
}

fn read_cursor(cursor: &Cursor) -> Result<(u64, JobId)> {
    let place = cursor.0.split_once('.').and_then(|(died, id)| Some((died.parse().ok()?, id.parse().ok()?)));
    place.ok_or_else(|| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead").by(SCHEME))
}
