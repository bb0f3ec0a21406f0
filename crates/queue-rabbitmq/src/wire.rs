//! A job as a message of AMQP 0-9-1.
//!
//! The body is the payload as it is; what AMQP has a property for stands there, so that a client in any language can read a job and
//! send one. The rest is in headers, and absent where it is the default.
//!
//! | property | what |
//! |---|---|
//! | `app_id` | `queue/1`: of this library, with the version of what is below; a message without it is another client's |
//! | `message_id` | the job's id, a UUID as text |
//! | `type` | the kind |
//! | `content_type` | the payload's |
//! | `priority` | the priority, but never below 5; it is the band's queue that decides |
//! | `timestamp` | when it was submitted, in seconds |
//! | `correlation_id` | the correlation id, where it has at most 255 bytes |
//! | `delivery_mode` | 2 |
//! | `expiration` | never sent: RabbitMQ would make a dead letter of what expires. What another client sends is kept to by the broker |
//!
//! | header | type | what |
//! |---|---|---|
//! | `queue-created-ms` | integer | when it was submitted, in ms; absent where the id, a UUID of version 7, says the same |
//! | `queue-priority` | integer | the priority, where it is 1 to 4 |
//! | `queue-timeout-ms` | integer | the longest an attempt may run; 60,000 where absent |
//! | `queue-attempt` | integer | 1 where absent |
//! | `queue-deliveries` | integer | deliveries of earlier copies that were not settled; 0 where absent |
//! | `queue-generation` | integer | 0 where absent |
//! | `queue-not-before-ms`, `queue-expires-ms` | integer | times, where there are any |
//! | `queue-unique`, `queue-window-ms` | text, integer | the unique key and its window |
//! | `queue-store` | integer | the store of its record |
//! | `queue-headers` | text | JSON: retry policy, correlation, keys, tags, metadata |
//! | `traceparent`, `tracestate` | text | W3C trace context |

use std::{
    num::{NonZeroU64, ParseIntError},
    time::Duration,
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use queue_core::{
    Envelope, JobId, Priority, QueueSpec, Timestamp,
    config::defaults,
    job::{ContentType, FrameError, Headers, JobKind, RawHeaders, StoreId, TraceContext, Unique, UniqueKey},
};

/// What this library writes, and the newest it reads.
const VERSION: u32 = 1;

/// Before the version in `app_id`: a property and no header, for most jobs then have no header at all, and each costs the broker and both
/// clients about as much as 50 bytes of payload.
const MARK: &str = "queue/";

/// A body of this content type is a whole envelope, as other transports carry it.
pub(crate) const FRAME: &str = "application/x-queue-envelope";

/// How often the broker took the message back, as quorum queues note it on the message.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// RabbitMQ 4.x keeps what is below in a lane of its own in each quorum queue, and looks at the other lane first: a message that is due
/// would wait behind one that is not.
const ONE_LANE: u8 = 5;

mod name {
    pub(super) const PRIORITY: &str = "queue-priority";
    pub(super) const CREATED: &str = "queue-created-ms";
    pub(super) const TIMEOUT: &str = "queue-timeout-ms";
    pub(super) const ATTEMPT: &str = "queue-attempt";
    pub(super) const DELIVERIES: &str = "queue-deliveries";
    pub(super) const GENERATION: &str = "queue-generation";
    pub(super) const NOT_BEFORE: &str = "queue-not-before-ms";
    pub(super) const EXPIRES: &str = "queue-expires-ms";
    pub(super) const UNIQUE: &str = "queue-unique";
    pub(super) const WINDOW: &str = "queue-window-ms";
    pub(super) const STORE: &str = "queue-store";
    pub(super) const HEADERS: &str = "queue-headers";
    pub(super) const TRACEPARENT: &str = "traceparent";
    pub(super) const TRACESTATE: &str = "tracestate";
}

/// What a message turns out to be.
#[derive(Debug)]
pub(crate) enum Reading {
    /// A job.
    Job {
        envelope: Envelope,
        /// Another client's message without an id: the id was made up now, and a redelivery would get another. To keep one, it is
        /// published anew with this one before it runs.
        nameless: bool,
    },
    /// Written by a newer version: leave it to a newer worker.
    Newer,
    /// It says it is ours, and cannot be read.
    Broken(&'static str),
}

/// How often it was delivered before without being settled, as the broker counts.
pub(crate) fn returns(properties: &BasicProperties) -> u32 {
    let count = properties.headers().as_ref().and_then(|headers| integer(headers, DELIVERY_COUNT));
    count.map_or(0, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

/// The properties of a job. Its body is its payload.
pub(crate) fn properties(job: &Envelope) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut put = |name: &'static str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    // Each header costs the broker and both clients about as much as 50 bytes of payload: what goes without saying is not said.
    if job.id.created_at() != Some(job.created_at) {
        put(name::CREATED, number(job.created_at.as_millis()));
    }
    if job.priority.level() < ONE_LANE {
        put(name::PRIORITY, AMQPValue::LongLongInt(job.priority.level().into()));
    }
    if job.timeout != defaults::JOB_TIMEOUT {
        put(name::TIMEOUT, number(u64::try_from(job.timeout.as_millis()).unwrap_or(u64::MAX)));
    }
    for (name, value, default) in
        [(name::ATTEMPT, job.attempt, 1), (name::DELIVERIES, job.deliveries, 0), (name::GENERATION, job.generation, 0)]
    {
        if value != default {
            put(name, AMQPValue::LongLongInt(i64::from(value)));
        }
    }
    for (name, time) in [(name::NOT_BEFORE, job.not_before), (name::EXPIRES, job.expires_at)] {
        if let Some(time) = time {
            put(name, number(time.as_millis()));
        }
    }
    if let Some(unique) = &job.unique {
        put(name::UNIQUE, text(unique.key.as_str()));
        if let Some(window) = unique.window {
            put(name::WINDOW, number(u64::try_from(window.as_millis()).unwrap_or(u64::MAX)));
        }
    }
    if let Some(store) = job.store {
        put(name::STORE, AMQPValue::LongLongInt(store.0.get().cast_signed()));
    }
    let mut properties = BasicProperties::default();
    if !job.headers.is_empty() {
        put(name::HEADERS, AMQPValue::LongString(job.headers.as_bytes().to_vec().into()));
        if let Ok(parsed) = job.headers() {
            if let Some(trace) = parsed.trace {
                put(name::TRACEPARENT, text(&trace.traceparent));
                if let Some(state) = trace.tracestate {
                    put(name::TRACESTATE, text(&state));
                }
            }
            if let Some(id) = parsed.correlation_id.and_then(|id| ShortString::try_new(id).ok()) {
                properties = properties.with_correlation_id(id);
            }
        }
    }
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    properties
        .with_app_id(short(format!("{MARK}{VERSION}")))
        .with_message_id(short(job.id.to_string()))
        .with_type(short(job.kind.as_str()))
        .with_content_type(short(job.content_type.as_str()))
        .with_priority(job.priority.level().max(ONE_LANE))
        .with_timestamp(job.created_at.as_millis() / 1_000)
        .with_delivery_mode(2)
}

/// A message as it came, so that it may wait among others: see [`ONE_LANE`].
pub(crate) fn in_one_lane(properties: BasicProperties) -> BasicProperties {
    let level = *properties.priority();
    if level.is_some_and(|level| level >= ONE_LANE) {
        return properties;
    }
    let mut headers = properties.headers().clone().unwrap_or_default();
    if let Some(level) = level {
        headers.insert(name::PRIORITY.into(), AMQPValue::LongLongInt(level.into()));
    }
    properties.with_headers(headers).with_priority(ONE_LANE)
}

/// As [`properties`] wrote it, or as AMQP has it.
fn level(properties: &BasicProperties, headers: &FieldTable) -> Option<u8> {
    let ours = integer(headers, name::PRIORITY).and_then(|level| u8::try_from(level).ok());
    ours.or(*properties.priority())
}

/// Reads a message: ours, or another client's, which becomes a job with the queue's defaults. `fresh` makes an id for one that has
/// none.
pub(crate) fn read(
    properties: &BasicProperties,
    body: Bytes,
    spec: &QueueSpec,
    now: Timestamp,
    fresh: impl FnOnce() -> JobId,
) -> Reading {
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    if properties.content_type().as_ref().is_some_and(|content| content.as_str() == FRAME) {
        return match Envelope::decode(body) {
            Ok(envelope) => Reading::Job { envelope, nameless: false },
            Err(FrameError::Newer { .. }) => Reading::Newer,
            Err(_) => Reading::Broken("its body is no envelope, as its content type says it is"),
        };
    }
    match mark(properties) {
        None => adopt(properties, headers, body, spec, now, fresh),
        Some(Ok(VERSION)) => match ours(properties, headers, body) {
            Ok(envelope) => Reading::Job { envelope, nameless: false },
            Err(why) => Reading::Broken(why),
        },
        Some(Ok(newer)) if newer > VERSION => Reading::Newer,
        Some(_) => Reading::Broken("`app_id` names no version"),
    }
}

/// Which version of this library wrote it, as it says; `None` of another client's.
fn mark(properties: &BasicProperties) -> Option<Result<u32, ParseIntError>> {
    let version = properties.app_id().as_ref()?.as_str().strip_prefix(MARK)?;
    Some(version.parse())
}

fn ours(properties: &BasicProperties, headers: &FieldTable, body: Bytes) -> Result<Envelope, &'static str> {
    let id =
        properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()).ok_or("`message_id` is no UUID")?;
    let kind =
        properties.kind().as_ref().and_then(|kind| JobKind::new(kind.as_str()).ok()).ok_or("`type` is no kind")?;
    let created = natural(headers, name::CREATED)?.map(Timestamp::from_millis).or_else(|| JobId::created_at(&id));
    let mut job = Envelope::builder(id, kind, body, created.ok_or("`queue-created-ms` is missing")?);
    if let Some(content) = properties.content_type() {
        job.content_type = ContentType::parse(content.as_str()).map_err(|_| "`content_type` is no content type")?;
    }
    if let Some(level) = level(properties, headers) {
        job.priority = Priority::new(level).map_err(|_| "`priority` is not 1 to 15")?;
    }
    job.timeout = natural(headers, name::TIMEOUT)?.map_or(defaults::JOB_TIMEOUT, Duration::from_millis);
    job.attempt = count(headers, name::ATTEMPT, 1)?;
    if job.attempt == 0 {
        return Err("`queue-attempt` counts from 1");
    }
    job.deliveries = count(headers, name::DELIVERIES, 0)?;
    job.generation = count(headers, name::GENERATION, 0)?;
    job.not_before = natural(headers, name::NOT_BEFORE)?.map(Timestamp::from_millis);
    job.expires_at = natural(headers, name::EXPIRES)?.map(Timestamp::from_millis);
    if let Some(key) = bytes(headers, name::UNIQUE)? {
        let key = std::str::from_utf8(key).ok().and_then(|key| UniqueKey::new(key).ok());
        let key = key.ok_or("`queue-unique` is no key of 1 to 256 bytes")?;
        let window = natural(headers, name::WINDOW)?.map(Duration::from_millis);
        job.unique = Some(Box::new(Unique { key, window }));
    }
    if let Some(store) = headers.inner().get(name::STORE) {
        let AMQPValue::LongLongInt(store) = store else { return Err("`queue-store` is no store") };
        job.store = NonZeroU64::new(store.cast_unsigned()).map(StoreId);
    }
    if let Some(raw) = bytes(headers, name::HEADERS)? {
        job.headers =
            RawHeaders::from_wire(Bytes::copy_from_slice(raw)).map_err(|_| "`queue-headers` are too large")?;
    }
    Ok(job.seal())
}

/// Another client's message, with the queue's defaults for what it does not say.
fn adopt(
    properties: &BasicProperties,
    headers: &FieldTable,
    body: Bytes,
    spec: &QueueSpec,
    now: Timestamp,
    fresh: impl FnOnce() -> JobId,
) -> Reading {
    let named = properties.message_id().as_ref().filter(|id| !id.as_str().is_empty());
    // A UUID is taken as it is, any other name leads to the same id each time.
    let id = named.map(|id| {
        let seed = [spec.name.as_str().as_bytes(), b"\0", id.as_str().as_bytes()].concat();
        id.as_str().parse().unwrap_or_else(|_| JobId::derive(&seed, 0))
    });
    let kind = properties.kind().as_ref().and_then(|kind| JobKind::new(kind.as_str()).ok());
    let stamped = properties.timestamp().map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1_000)));
    let created = stamped.unwrap_or(now);
    let mut job =
        Envelope::builder(id.unwrap_or_else(fresh), kind.unwrap_or_else(|| spec.default_kind.clone()), body, created);
    let content = properties.content_type().as_ref().and_then(|content| ContentType::parse(content.as_str()).ok());
    job.content_type = content.unwrap_or(ContentType::Bytes);
    job.priority = match level(properties, headers) {
        Some(level) => Priority::new(level.clamp(1, 15)).unwrap_or(spec.default_priority),
        None => spec.default_priority,
    };
    job.timeout = spec.timeout;
    // The broker keeps to an `expiration` while the message waits; nobody does once it is here.
    let expiration = properties.expiration().as_ref().and_then(|text| text.as_str().parse().ok());
    let life = expiration.map(Duration::from_millis).filter(|_| stamped.is_some());
    job.expires_at = life.or(spec.ttl).map(|life| created + life);
    job.headers = foreign_headers(properties, headers);
    Reading::Job { envelope: job.seal(), nameless: id.is_none() }
}

/// Correlation, trace context, and every header that is text as metadata. What is too much of it is left out.
fn foreign_headers(properties: &BasicProperties, table: &FieldTable) -> RawHeaders {
    let mut headers = Headers {
        correlation_id: properties.correlation_id().as_ref().map(|id| id.as_str().to_owned()),
        ..Headers::default()
    };
    let string = |name: &str| bytes(table, name).ok().flatten().and_then(|text| String::from_utf8(text.to_vec()).ok());
    headers.trace =
        string(name::TRACEPARENT).map(|traceparent| TraceContext { traceparent, tracestate: string(name::TRACESTATE) });
    for (name, value) in table.inner() {
        let name = name.as_str();
        // Those of the broker itself begin with `x-`.
        let own = name.starts_with("x-") || name == name::TRACEPARENT || name == name::TRACESTATE;
        if let (false, AMQPValue::LongString(value)) = (own, value)
            && let Ok(value) = std::str::from_utf8(value.as_bytes())
        {
            headers.metadata.insert(name.to_owned(), value.to_owned());
        }
    }
    RawHeaders::encode(&headers).unwrap_or_else(|_| {
        headers.metadata.clear();
        RawHeaders::encode(&headers).unwrap_or_default()
    })
}

fn number(value: u64) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// Of what cannot be longer than 255 bytes.
fn short(value: impl Into<String>) -> ShortString {
    ShortString::try_new(value).unwrap_or_default()
}

/// A header that is a whole number, in whichever width its writer chose.
fn integer(headers: &FieldTable, name: &str) -> Option<i64> {
    match *headers.inner().get(name)? {
        AMQPValue::LongLongInt(value) => Some(value),
        AMQPValue::LongInt(value) => Some(value.into()),
        AMQPValue::LongUInt(value) => Some(value.into()),
        AMQPValue::ShortInt(value) => Some(value.into()),
        AMQPValue::ShortUInt(value) => Some(value.into()),
        AMQPValue::ShortShortInt(value) => Some(value.into()),
        AMQPValue::ShortShortUInt(value) => Some(value.into()),
        _ => None,
    }
}

fn natural(headers: &FieldTable, name: &'static str) -> Result<Option<u64>, &'static str> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let value = integer(headers, name).and_then(|value| u64::try_from(value).ok());
    value.map(Some).ok_or("a header that is to be a whole number is none")
}

fn count(headers: &FieldTable, name: &'static str, default: u32) -> Result<u32, &'static str> {
    match natural(headers, name)? {
        None => Ok(default),
        Some(value) => u32::try_from(value).map_err(|_| "a count is too large"),
    }
}

fn bytes<'a>(headers: &'a FieldTable, name: &str) -> Result<Option<&'a [u8]>, &'static str> {
    match headers.inner().get(name) {
        None => Ok(None),
        Some(AMQPValue::LongString(text)) => Ok(Some(text.as_bytes())),
        Some(AMQPValue::ByteArray(bytes)) => Ok(Some(bytes.as_slice())),
        Some(_) => Err("a header that is to be text is none"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use queue_core::QueueName;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);

    fn spec() -> QueueSpec {
        QueueSpec::new(QueueName::from_static("mail"))
    }

    fn job() -> Envelope {
        let (id, kind) = (JobId::derive(b"x", 1), JobKind::from_static("email.send"));
        Envelope::builder(id, kind, &b"{\"to\":1}"[..], NOW).seal()
    }

    fn read_back(properties: &BasicProperties, body: &Bytes) -> Reading {
        read(properties, body.clone(), &spec(), NOW, || JobId::derive(b"fresh", 7))
    }

    fn envelope(reading: Reading) -> Envelope {
        match reading {
            Reading::Job { envelope, .. } => envelope,
            other => panic!("{other:?}"),
        }
    }

    fn with_header(name: &str, value: AMQPValue) -> BasicProperties {
        let properties = properties(&job());
        let mut headers = properties.headers().clone().unwrap_or_default();
        headers.insert(name.into(), value);
        properties.with_headers(headers)
    }

    fn with_app_id(text: &str) -> BasicProperties {
        properties(&job()).with_app_id(short(text))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (attempt, generation, deliveries, level) in (1u32.., any::<u32>(), any::<u32>(), 1u8..=15),
            (created, due, expiry, timeout) in (1u64..1 << 60, 0u64..1 << 60, 0u64..1 << 60, 1u64..1 << 40),
            (store, window) in (any::<u64>(), 0u64..1 << 40),
            (key, payload, tag) in (".{0,60}", any::<Vec<u8>>(), ".{0,40}"),
        ) {
            let some = |millis: u64| (millis > 0).then(|| Timestamp::from_millis(millis));
            let headers = Headers { correlation_id: Some(tag.clone()), tags: vec![tag], ..Headers::default() };
            let job = job().edit(|parts| {
                (parts.attempt, parts.generation, parts.deliveries) = (attempt, generation, deliveries);
                parts.priority = Priority::new(level).unwrap();
                parts.created_at = Timestamp::from_millis(created);
                (parts.not_before, parts.expires_at) = (some(due), some(expiry));
                parts.timeout = Duration::from_millis(timeout);
                parts.store = NonZeroU64::new(store).map(StoreId);
                parts.payload = payload.clone().into();
                parts.headers = RawHeaders::encode(&headers).unwrap();
                let window = (window > 0).then(|| Duration::from_millis(window));
                parts.unique = UniqueKey::new(&key).ok().map(|key| Box::new(Unique { key, window }));
            });
            prop_assert_eq!(envelope(read_back(&properties(&job), &job.payload)), job);
        }

        #[test]
        fn all_jobs_wait_in_one_lane(level in 1u8..=15) {
            let job = job().edit(|parts| parts.priority = Priority::new(level).unwrap());
            prop_assert!(properties(&job).priority().is_some_and(|shown| shown >= ONE_LANE));
            let theirs = in_one_lane(BasicProperties::default().with_priority(level));
            prop_assert!(theirs.priority().is_some_and(|shown| shown >= ONE_LANE));
            prop_assert_eq!(super::level(&theirs, theirs.headers().as_ref().unwrap_or(&FieldTable::default())), Some(level));
        }

        #[test]
        fn no_message_of_anybody_ends_a_worker(
            names in prop::collection::vec("(queue-[a-z-]{1,12}|queue-attempt|queue-store|x|traceparent)", 0..6),
            numbers in prop::collection::vec(any::<i64>(), 6),
            (app, id, kind, body) in ("(queue/)?[0-9]{0,2}", "[ -~]{0,40}", ".{0,40}", any::<Vec<u8>>()),
        ) {
            let mut headers = FieldTable::default();
            for (index, (name, number)) in names.iter().zip(&numbers).enumerate() {
                let value = if index % 2 == 0 { AMQPValue::LongLongInt(*number) } else { text(&kind) };
                headers.insert(name.as_str().into(), value);
            }
            let properties = BasicProperties::default().with_headers(headers).with_message_id(short(&id)).with_type(short(&kind)).with_app_id(short(&app));
            let _ = read_back(&properties, &body.into());
            let _ = returns(&properties);
        }
    }

    /// Another version of this library, and clients in other languages, read these names.
    #[test]
    fn a_job_in_the_words_of_amqp() {
        let job = job().edit(|parts| {
            parts.attempt = 3;
            let trace = TraceContext { traceparent: "00-1-2-01".into(), tracestate: None };
            let headers = Headers { correlation_id: Some("order-7".into()), trace: Some(trace), ..Headers::default() };
            parts.headers = RawHeaders::encode(&headers).unwrap();
        });
        let properties = properties(&job);
        let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
        assert_eq!(text(properties.app_id()).as_deref(), Some("queue/1"));
        assert_eq!(text(properties.message_id()), Some(job.id.to_string()));
        assert_eq!(text(properties.kind()).as_deref(), Some("email.send"));
        assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
        assert_eq!(text(properties.correlation_id()).as_deref(), Some("order-7"));
        assert_eq!((*properties.priority(), *properties.delivery_mode()), (Some(5), Some(2)));
        assert_eq!((*properties.timestamp(), properties.expiration()), (Some(1_700_000_000), &None));
        let names: Vec<_> = properties.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["queue-attempt", "queue-created-ms", "queue-headers", "traceparent"]);
    }

    #[test]
    fn what_goes_without_saying_is_not_said() {
        let names = |job: &Envelope| -> Vec<String> {
            let headers = properties(job).headers().clone().unwrap_or_default();
            headers.inner().keys().map(|name| name.as_str().to_owned()).collect()
        };
        let mut id = *JobId::derive(b"x", 1).as_bytes();
        id[..6].copy_from_slice(&NOW.as_millis().to_be_bytes()[2..]);
        id[6] = 0x70;
        let fresh = Envelope::builder(JobId::from_bytes(id), JobKind::from_static("k"), &b""[..], NOW).seal();
        assert_eq!(properties(&fresh).headers(), &None);
        assert_eq!(envelope(read_back(&properties(&fresh), &fresh.payload)), fresh);
        let other = fresh.edit(|job| {
            job.created_at = NOW + Duration::from_millis(1);
            job.timeout = Duration::from_secs(61);
        });
        assert_eq!(names(&other), ["queue-created-ms", "queue-timeout-ms"]);
        assert_eq!(envelope(read_back(&properties(&other), &other.payload)), other);
        // Nobody knows when a job of another kind of id was made unless it is said.
        let silent = properties(&job()).with_headers(FieldTable::default());
        assert!(matches!(read_back(&silent, &Bytes::new()), Reading::Broken(_)));
    }

    #[test]
    fn another_clients_message_becomes_a_job_with_the_queues_defaults() {
        let mut headers = FieldTable::default();
        headers.insert("customer".into(), text("7"));
        headers.insert("x-death".into(), text("of the broker"));
        let plain = BasicProperties::default()
            .with_message_id("invoice 7".into())
            .with_correlation_id("c".into())
            .with_priority(200)
            .with_timestamp(1_600_000_000)
            .with_expiration("5000".into())
            .with_content_type("text/csv".into())
            .with_headers(headers);
        let body = Bytes::from_static(b"a,b");
        let Reading::Job { envelope: first, nameless } = read_back(&plain, &body) else { panic!() };
        assert!(!nameless);
        assert_eq!(first.id, envelope(read_back(&plain, &body)).id, "the same name is the same id");
        assert_eq!((first.kind.as_str(), first.content_type.as_str()), ("message", "text/csv"));
        assert_eq!((first.priority, first.created_at.as_millis()), (Priority::MAX, 1_600_000_000_000));
        assert_eq!(first.expires_at.unwrap().as_millis(), 1_600_000_005_000);
        let headers = first.headers().unwrap();
        assert_eq!(headers.correlation_id.as_deref(), Some("c"));
        assert_eq!(headers.metadata, [("customer".to_owned(), "7".to_owned())].into());

        let Reading::Job { envelope, nameless } = read_back(&BasicProperties::default(), &body) else { panic!() };
        assert!(nameless && envelope.id == JobId::derive(b"fresh", 7));
        assert_eq!((envelope.created_at, envelope.content_type.clone()), (NOW, ContentType::Bytes));
    }

    #[test]
    fn a_newer_version_is_told_from_nonsense() {
        let body = Bytes::new();
        assert!(matches!(read_back(&with_app_id("queue/2"), &body), Reading::Newer));
        // A client that calls itself something else is another client.
        assert!(
            matches!(read_back(&with_app_id("queue"), &body), Reading::Job { envelope, .. } if envelope.id == job().id)
        );
        for broken in [
            with_app_id("queue/"),
            with_app_id("queue/one"),
            with_app_id("queue/0"),
            with_app_id("queue/-1"),
            with_app_id("queue/99999999999"),
            with_header("queue-attempt", AMQPValue::LongInt(0)),
            with_header("queue-attempt", AMQPValue::LongLongInt(-1)),
            with_header("queue-store", text("x")),
            with_header("queue-unique", text("")),
            properties(&job()).with_message_id("no uuid".into()),
            properties(&job()).with_type(ShortString::default()),
            properties(&job()).with_priority(16),
        ] {
            assert!(matches!(read_back(&broken, &body), Reading::Broken(_)), "{broken:?}");
        }
    }

    #[test]
    fn a_whole_envelope_is_taken_by_its_content_type() {
        let framed = BasicProperties::default().with_content_type(FRAME.into());
        assert_eq!(envelope(read_back(&framed, &job().encode())), job());
        assert!(matches!(read_back(&framed, &Bytes::from_static(b"Q\x02")), Reading::Newer));
        assert!(matches!(read_back(&framed, &Bytes::from_static(b"Q\x01")), Reading::Broken(_)));
        // Without it, text that looks like one is text.
        let body = Bytes::from_static(b"Quickly");
        assert_eq!(envelope(read_back(&BasicProperties::default(), &body)).payload, body);
    }

    #[test]
    fn the_brokers_count_is_read() {
        assert_eq!(returns(&properties(&job())), 0);
        assert_eq!(returns(&with_header(DELIVERY_COUNT, AMQPValue::LongLongInt(3))), 3);
        assert_eq!(returns(&with_header(DELIVERY_COUNT, AMQPValue::LongLongInt(-3))), 0);
    }
}
