//! Where somebody stands who follows a stream, and whether it was cut off before he got there.
//!
//! A stream is bounded: what is too old goes, read or not. It counts what was ever added, so that who counts what he read knows how much went
//! that he did not read.

use redis::{RedisResult, Value};

use crate::link::{self, Link};

/// The id of an entry: milliseconds, and a number within them.
type Id = (u64, u64);

/// Which entry was read last, and which one that was of all that were ever added.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    last: String,
    number: u64,
}

impl Default for Position {
    /// Before the first.
    fn default() -> Self {
        Self { last: "0".to_owned(), number: 0 }
    }
}

impl Position {
    /// Behind all that is there.
    pub(crate) async fn at_end(link: &Link, key: &str) -> RedisResult<Self> {
        let end = ask(link, key).await?;
        Ok(end.map_or_else(Self::default, |stream| Self { last: stream.last, number: stream.added }))
    }

    /// The id of the entry that was read last.
    pub(crate) fn last(&self) -> &str {
        &self.last
    }

    /// These, in their order, were read. Whether others went unread before them, or may have.
    pub(crate) async fn read(&mut self, link: &Link, key: &str, ids: Vec<String>) -> bool {
        let asked = ask(link, key).await;
        let missed = match &asked {
            Ok(stream) => self.count(stream.as_ref(), &ids),
            Err(_) => {
                self.number += ids.len() as u64;
                Missed::Unknown
            }
        };
        if let Some(last) = ids.into_iter().next_back() {
            self.last = last;
        }
        match missed {
            Missed::None => return false,
            Missed::Some(events) => {
                tracing::warn!(
                    stream = key,
                    events,
                    "events went before they were read: the reader is too slow, or somebody cut the stream"
                );
            }
            Missed::Unknown => tracing::warn!(stream = key, "events may have gone before they were read"),
        }
        true
    }

    fn count(&mut self, stream: Option<&Stream>, ids: &[String]) -> Missed {
        let read = ids.len() as u64;
        // It went as a whole since.
        let Some(stream) = stream else {
            self.number = 0;
            return Missed::None;
        };
        let gone = stream.added.saturating_sub(stream.length);
        let is_gone = |id: &&String| stream.length == 0 || read_id(id) < stream.first;
        let gone_since = ids.iter().filter(is_gone).count() as u64;
        if stream.added < self.number + read {
            // It is another one, or what was read of it got lost in a failover.
            self.number = gone + read - gone_since;
            return Missed::Unknown;
        }
        let missed = gone.saturating_sub(self.number + gone_since);
        self.number += missed + read;
        if missed == 0 { Missed::None } else { Missed::Some(missed) }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Missed {
    None,
    Some(u64),
    Unknown,
}

/// What a stream tells of itself.
struct Stream {
    length: u64,
    added: u64,
    first: Option<Id>,
    last: String,
}

fn read_id(text: &str) -> Option<Id> {
    let (millis, number) = text.split_once('-')?;
    Some((millis.parse().ok()?, number.parse().ok()?))
}

/// `None` where there is no such stream.
async fn ask(link: &Link, key: &str) -> RedisResult<Option<Stream>> {
    let answer = match link.ask(redis::cmd("XINFO").arg("STREAM").arg(key)).await {
        Err(error) if error.code() == Some("ERR") => return Ok(None),
        other => other?,
    };
    let pairs: Vec<(Value, Value)> = match answer {
        Value::Map(pairs) => pairs,
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            std::iter::from_fn(|| flat.next().zip(flat.next())).collect()
        }
        _ => Vec::new(),
    };
    let mut stream = Stream { length: 0, added: 0, first: None, last: "0".to_owned() };
    for (name, value) in pairs {
        let number = || link::number(&value).ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        match link::text(name).as_deref() {
            Ok("length") => stream.length = number(),
            Ok("entries-added") => stream.added = number(),
            Ok("last-generated-id") => stream.last = link::text(value).unwrap_or_default(),
            Ok("recorded-first-entry-id") => stream.first = link::text(value).ok().and_then(|id| read_id(&id)),
            _ => {}
        }
    }
    // Before 7.0 nobody counts.
    Ok((stream.added >= stream.length).then_some(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
        range.map(|number| format!("{number}-0")).collect()
    }

    /// Of so many that were added these are there.
    fn stream(left: std::ops::RangeInclusive<u64>) -> Stream {
        let (first, last) = (*left.start(), *left.end());
        Stream { length: last + 1 - first, added: last, first: Some((first, 0)), last: format!("{last}-0") }
    }

    fn at(number: u64) -> Position {
        Position { last: format!("{number}-0"), number }
    }

    #[test]
    fn what_went_unread_is_counted() {
        let count = |from: u64, stream: Stream, read| {
            let mut position = at(from);
            (position.count(Some(&stream), &ids(read)), position.number)
        };
        assert_eq!(count(3, stream(1..=7), 4..=7), (Missed::None, 7));
        assert_eq!(count(3, stream(4..=7), 4..=7), (Missed::None, 7), "only what was read went");
        assert_eq!(count(3, stream(6..=9), 6..=9), (Missed::Some(2), 9));
        assert_eq!(count(3, stream(6..=9), 6..=7), (Missed::Some(2), 7), "the rest comes");
        assert_eq!(count(3, stream(6..=9), 4..=7), (Missed::None, 7), "it was cut after it was read");
        assert_eq!(count(3, stream(8..=9), 5..=6), (Missed::Some(2), 7), "one before, one after");
        let empty = Stream { length: 0, added: 7, first: Some((0, 0)), last: "7-0".to_owned() };
        assert_eq!(count(3, empty, 6..=7), (Missed::Some(2), 7));
        assert_eq!(count(5, stream(1..=3), 1..=3), (Missed::Unknown, 3), "another one");
    }
}
