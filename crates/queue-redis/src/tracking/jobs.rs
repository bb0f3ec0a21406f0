//! Records, as everyone may read and command them.

use std::time::Duration;

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, QueueName, Result,
    job::{JobId, JobRef},
    lifecycle::JobState,
    provider::{Cancel, Cursor, Page},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, JobRecord, Lookup, QueueControl},
};
use redis::Value;

use super::{
    Inner,
    parts::{Answers, by_queue},
    scripts,
    wire::{Kept, Row},
};
use crate::{
    SCHEME, fault, link,
    provider::BATCH,
    record::{self, millis},
    store::MOST_PARTS,
    walk::{Stride, Taken, Walk},
};

/// What was found of a job.
enum Seen {
    Kept(Box<Kept>),
    Evicted,
    Nothing,
}

impl Inner {
    /// All that is kept of jobs, and the server's time in milliseconds.
    async fn look(&self, queue: &QueueName, ids: &[JobId], operation: &'static str) -> Result<(u64, Vec<Seen>)> {
        let broken = |what| fault::broken(what, operation).on(queue);
        let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let mut answer = self.run(&scripts::LOOK, queue, &ids, operation).await?.into_iter();
        let now = link::number(&answer.next().unwrap_or_default()).map_err(broken)?;
        let mut seen = Vec::with_capacity(ids.len());
        for _ in ids {
            let mut next = || link::bytes(answer.next().unwrap_or_default());
            let (record, row, stone) = (next().map_err(broken)?, next().map_err(broken)?, next().map_err(broken)?);
            let mut details = [const { None }; 7];
            for detail in &mut details {
                let mut value = next().map_err(broken)?;
                *detail = (!value.is_empty()).then(|| value.split_off(1));
            }
            seen.push(match (row.is_empty(), &stone[..]) {
                (false, _) => {
                    let row = Row::read(row).map_err(broken)?;
                    let row = row.ok_or_else(|| broken(record::NEWER))?;
                    Seen::Kept(Box::new(Kept { record, row, details }))
                }
                (true, b"E") => Seen::Evicted,
                (true, _) => Seen::Nothing,
            });
        }
        Ok((u64::try_from(now).unwrap_or(0), seen))
    }

    /// The same of those that are there.
    pub(super) async fn rows(
        &self,
        queue: &QueueName,
        ids: &[JobId],
        operation: &'static str,
    ) -> Result<(u64, Vec<Option<Kept>>)> {
        let (now, seen) = self.look(queue, ids, operation).await?;
        let kept = |seen| match seen {
            Seen::Kept(kept) => Some(*kept),
            Seen::Evicted | Seen::Nothing => None,
        };
        Ok((now, seen.into_iter().map(kept).collect()))
    }

    pub(super) async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|job| Some(&job.queue))) {
            let ids: Vec<JobId> = part.items.iter().map(|item| jobs[*item].id).collect();
            match self.look(&part.queue, &ids, "get").await {
                Err(error) => answers.put(&part, vec![Err(error); part.items.len()]),
                Ok((now, seen)) => {
                    let lookup = |(item, seen): (&usize, Seen)| match seen {
                        Seen::Kept(kept) => {
                            let record = kept.into_record(&jobs[*item], now);
                            let record = record.map_err(|what| fault::broken(what, "get").on(&part.queue));
                            record.map(|record| Lookup::Found(Box::new(record)))
                        }
                        Seen::Evicted => Ok(Lookup::Gone),
                        Seen::Nothing => Ok(Lookup::NotFound),
                    };
                    answers.put(&part, part.items.iter().zip(seen).map(lookup));
                }
            }
        }
        answers.into_vec(|| Err(fault::broken("an answer is missing", "get")))
    }

    /// A walk in the order of the hash tables, of so many parts at most: where few match, a page may hold fewer than were asked for, even
    /// none, and is the last only where it names no next one.
    pub(super) async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        let mut queues = match &query.queue {
            Some(queue) => vec![queue.clone()],
            None => self.shared.all_queues("list").await?,
        };
        queues.sort();
        let mut walk = Walk::default();
        if let Some(cursor) = cursor {
            let name;
            (walk, name) = read_cursor(&cursor)?;
            queues.retain(|queue| queue.as_str() >= name.as_str());
            if queues.first().is_some_and(|queue| queue.as_str() != name) {
                walk = Walk::default();
            }
        }
        let mut page = Page { items: Vec::new(), next: None };
        let mut parts = 0;
        for queue in queues {
            let here = |walk: &Walk| Some(Cursor(format!("{}@{queue}", walk.text()).into()));
            let mut stride = Stride::new(limit - page.items.len(), false);
            loop {
                if parts == MOST_PARTS || page.items.len() == limit {
                    page.next = here(&walk);
                    return Ok(page);
                }
                parts += 1;
                let (found, next) = self.listed(&queue, query, walk.at, stride.rows()).await?;
                match walk.take(found, next, &mut page.items, limit, &mut stride) {
                    Taken::All | Taken::Nothing => {}
                    Taken::Some => {
                        page.next = here(&walk);
                        return Ok(page);
                    }
                    Taken::Last => break,
                }
            }
            walk = Walk::default();
        }
        Ok(page)
    }

    /// What matches in one part of a walk, and where the walk goes on. States are told by the rows: only what is in one of them is read.
    async fn listed(
        &self,
        queue: &QueueName,
        query: &JobQuery,
        from: u64,
        rows: usize,
    ) -> Result<(Vec<JobRecord>, u64)> {
        // A job that waits may have become due since its row was written.
        let wanted = |row: &Row| {
            let states = &query.states;
            states.is_empty()
                || states.contains(&row.state)
                || (states.contains(&JobState::Pending) && row.state.is_waiting())
        };
        let (ids, next) = self.walk(queue, from, rows, "list", |id, row| wanted(&row).then_some(id)).await?;
        let mut found = Vec::new();
        for part in ids.chunks(BATCH) {
            let records = self.records(queue, part, "list").await?.into_iter().flatten();
            found.extend(records.filter(|record| query.matches(record)));
        }
        found.sort_by_key(|record| record.job.id);
        Ok((found, next))
    }

    pub(super) async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        let mut answers = Answers::new(jobs.len());
        let request: Bytes = record::write_cancel(cancel).into();
        for part in by_queue(jobs.iter().map(|job| Some(&job.queue))) {
            let mut arguments: Vec<&[u8]> = vec![b"0", &request];
            arguments.extend(part.items.iter().map(|item| jobs[*item].id.as_bytes().as_slice()));
            match self.promise(&scripts::CANCEL, &part.queue, &arguments, "cancel").await {
                Err(error) => answers.put(&part, vec![Err(error); part.items.len()]),
                Ok(letters) => answers.put(&part, letters.into_iter().map(|letter| cancelled(letter, &part.queue))),
            }
        }
        answers.into_vec(|| Err(fault::broken("an answer is missing", "cancel")))
    }

    pub(super) async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        let ask =
            redis::cmd("HMGET").arg(format!("{}n", self.base(queue))).arg(&["version", "paused", "retention"]).take();
        let answer = self.shared.link.ask(&ask).await.map_err(|error| fault::of(&error, "queue_control").on(queue))?;
        let broken = |what| fault::broken(what, "queue_control").on(queue);
        let answer = link::items(answer).map_err(broken)?;
        let [version, paused, retention] = &answer[..] else { return Err(broken("three values are missing")) };
        let version = u64::try_from(link::number(version).map_err(broken)?).unwrap_or(0);
        let retention = link::bytes(retention.clone()).ok().and_then(|text| read_retention(&text));
        Ok(QueueControl { version, paused: link::number(paused).map_err(broken)? == 1, retention })
    }

    pub(super) async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.number(queue, "set_queue_control").await?;
        let retention = control.retention.as_ref().map_or_else(String::new, write_retention);
        let arguments = [control.version.to_string(), u8::from(control.paused).to_string(), retention];
        let answer = self.shared.link.run(&scripts::CONTROL, self.base(queue), &arguments).await;
        let answer = answer.map_err(|error| fault::of(&error, "set_queue_control").on(queue))?;
        if answer == Value::Int(-1) {
            let message = "somebody changed the queue's switches in the meantime: read them again";
            return Err(Error::new(ErrorCode::Conflict, message).at("set_queue_control").by(SCHEME).on(queue));
        }
        Ok(())
    }

    pub(super) async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        let mut evicted = 0;
        while evicted < limit {
            let part = BATCH.min(limit - evicted);
            let arguments = [
                part.to_string(),
                millis(retention.age).to_string(),
                retention.count.to_string(),
                retention.bytes.to_string(),
                millis(retention.dead).to_string(),
            ];
            let answer = self.shared.link.run(&scripts::EVICT, self.base(queue), &arguments).await;
            let answer = answer.map_err(|error| fault::of(&error, "evict").on(queue))?;
            let done = link::number(&answer).map_err(|what| fault::broken(what, "evict").on(queue))?;
            let done = usize::try_from(done).unwrap_or(0);
            evicted += done;
            if done < part {
                break;
            }
        }
        Ok(evicted)
    }
}

/// Four numbers, divided by spaces: age in milliseconds, count, bytes, age of the dead in milliseconds.
fn write_retention(retention: &Retention) -> String {
    let Retention { age, count, bytes, dead } = retention;
    format!("{} {count} {bytes} {}", millis(*age), millis(*dead))
}

/// What is not readable is as if nobody had noted it: the next declaration notes it anew.
fn read_retention(text: &[u8]) -> Option<Retention> {
    let mut numbers = std::str::from_utf8(text).ok()?.split(' ').map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    let (age, count, bytes, dead) = (next()?, next()?, next()?, next()?);
    Some(Retention { age: Duration::from_millis(age), count, bytes, dead: Duration::from_millis(dead) })
}

fn cancelled(letter: Value, queue: &QueueName) -> Result<CancelOutcome> {
    let broken = |what| fault::broken(what, "cancel").on(queue);
    match link::bytes(letter).map_err(broken)?.as_ref() {
        b"C" => Ok(CancelOutcome::Cancelled),
        b"R" => Ok(CancelOutcome::Requested),
        b"T" => Ok(CancelOutcome::AlreadyTerminal),
        b"N" => Ok(CancelOutcome::NotFound),
        _ => Err(broken("an unknown answer")),
    }
}

fn read_cursor(cursor: &Cursor) -> Result<(Walk, String)> {
    let parts = cursor.0.split_once('@').and_then(|(place, name)| Some((Walk::read(place)?, name.to_owned())));
    parts.ok_or_else(|| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("list").by(SCHEME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_read_as_it_was_written() {
        let most = Retention { age: Duration::from_millis(u64::MAX), count: u64::MAX, ..Retention::default() };
        for retention in [Retention::default(), Retention::none(), most] {
            assert_eq!(read_retention(write_retention(&retention).as_bytes()), Some(retention));
        }
        assert_eq!(write_retention(&Retention::default()), "86400000 10000 67108864 604800000");
        for unreadable in [&b""[..], b"1 2 3", b"1 2 3 x", b"1 -2 3 4", b"\xff"] {
            assert_eq!(read_retention(unreadable), None);
        }
    }
}
