//! A dead letter as a message: the job's own properties and body, or the bytes that could not be read with theirs, and beside
//! them why and when it died.
//!
//! | header | type | what |
//! |---|---|---|
//! | `queue-died-ms` | integer | when it died |
//! | `queue-error` | text | JSON: the error, with its code and message |
//!
//! A message without them was put there by the broker, which notes in `x-first-death-reason` why: its count of deliveries reached
//! the backstop, or the time to live that another client gave it passed.

use std::collections::HashSet;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use queue_core::{
    ErrorCode, JobError, JobId, QueueSpec, Timestamp,
    provider::{DeadBody, DeadJob},
};

use crate::wire::{self, Reading};

const DIED: &str = "queue-died-ms";
const ERROR: &str = "queue-error";
const BROKERS_REASON: &str = "x-first-death-reason";
const BROKERS_NOTES: &str = "x-death";

/// All headers of a message are one frame, and one that is larger than the broker takes costs the connection. RabbitMQ takes
/// 128 KiB unless it is told otherwise; beside the headers there are the other properties, a few KiB at most.
const MOST_HEADERS: usize = 120_000;

/// Notes on a message why and when it died. What another client sent along may fill its frame: then the longest headers that are
/// not needed go first.
pub(crate) fn mark(properties: BasicProperties, error: &JobError, died_at: Timestamp) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    let millis = i64::try_from(died_at.as_millis()).unwrap_or(i64::MAX);
    headers.insert(DIED.into(), AMQPValue::LongLongInt(millis));
    // An error is strings and numbers: there is nothing in it that JSON could not say.
    let error = serde_json::to_vec(error).unwrap_or_default();
    headers.insert(ERROR.into(), AMQPValue::LongString(LongString::from(error)));
    fit(&mut headers);
    properties.with_headers(headers).with_delivery_mode(2)
}

fn fit(headers: &mut FieldTable) {
    let mut total = table_size(headers);
    if total <= MOST_HEADERS {
        return;
    }
    let size = |(name, value): (&ShortString, &AMQPValue)| (name.as_str().len() + value_size(value), name.clone());
    let mut all: Vec<_> = headers.inner().iter().map(size).collect();
    all.retain(|(_, name)| name.as_str() != DIED && name.as_str() != ERROR);
    all.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
    let mut gone = HashSet::new();
    for (size, name) in all {
        if total <= MOST_HEADERS {
            break;
        }
        total -= size;
        gone.insert(name);
    }
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner().iter().filter(|(name, _)| !gone.contains(*name)) {
        kept.insert(name.clone(), value.clone());
    }
    *headers = kept;
}

fn table_size(table: &FieldTable) -> usize {
    table.inner().iter().map(|(name, value)| name.as_str().len() + value_size(value)).sum()
}

/// At least what it takes up in its frame.
fn value_size(value: &AMQPValue) -> usize {
    // A byte for the type, and one before the name; four for a length.
    let inner = match value {
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => 4 + values.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => 4 + table_size(table),
        _ => 8,
    };
    2 + inner
}

/// Takes the notes off again: for another life.
pub(crate) fn unmark(properties: &BasicProperties) -> BasicProperties {
    let mut kept = FieldTable::default();
    if let Some(headers) = properties.headers() {
        for (name, value) in headers.inner() {
            // The broker's own begin with `x-`.
            if name.as_str() != DIED && name.as_str() != ERROR && !name.as_str().starts_with("x-") {
                kept.insert(name.clone(), value.clone());
            }
        }
    }
    properties.clone().with_headers(kept).with_delivery_mode(2)
}

/// Reads one.
pub(crate) fn read(properties: &BasicProperties, body: Bytes, spec: &QueueSpec, now: Timestamp) -> DeadJob {
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let derived = derived_id(properties, &body, spec);
    let (id, attempt, what) = match wire::read(properties, body.clone(), spec, now, || derived) {
        Reading::Job { envelope, .. } => (envelope.id, envelope.attempt, DeadBody::Envelope(envelope)),
        Reading::Newer | Reading::Broken(_) => (derived, 1, DeadBody::Raw(body)),
    };
    let noted = text(headers, ERROR).and_then(|json| serde_json::from_slice(json).ok());
    let error = noted.unwrap_or_else(|| brokers_error(headers));
    let died_at = match headers.inner().get(DIED) {
        Some(AMQPValue::LongLongInt(millis)) => Timestamp::from_millis(u64::try_from(*millis).unwrap_or(0)),
        _ => brokers_time(headers).unwrap_or(now),
    };
    DeadJob { id, body: what, error, attempt, died_at }
}

/// The same for the same message each time it is looked at.
fn derived_id(properties: &BasicProperties, body: &Bytes, spec: &QueueSpec) -> JobId {
    let named = properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
    named.unwrap_or_else(|| JobId::derive(&[spec.name.as_str().as_bytes(), b"\0", body.as_ref()].concat(), 0))
}

fn brokers_error(headers: &FieldTable) -> JobError {
    match text(headers, BROKERS_REASON) {
        Some(b"delivery_limit") => JobError::custom(
            "DELIVERY_LIMIT",
            "RabbitMQ gave up on it: it was delivered again and again, and never settled",
        ),
        Some(b"expired") => JobError::new(ErrorCode::Expired, "the time to live that its sender gave it passed"),
        _ => JobError::custom("DEAD_LETTERED", "RabbitMQ made it a dead letter"),
    }
}

/// Its first note is the last death.
fn brokers_time(headers: &FieldTable) -> Option<Timestamp> {
    let AMQPValue::FieldArray(notes) = headers.inner().get(BROKERS_NOTES)? else { return None };
    let AMQPValue::FieldTable(note) = notes.as_slice().first()? else { return None };
    let AMQPValue::Timestamp(seconds) = note.inner().get("time")? else { return None };
    Some(Timestamp::from_millis(seconds.saturating_mul(1_000)))
}

fn text<'a>(headers: &'a FieldTable, name: &str) -> Option<&'a [u8]> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
