//! A line as a job.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use queue_core::{
    Priority, RetryPolicy,
    error::ErrorCode,
    job::{ContentType, Headers, JobError, JobKind, UniqueKey},
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Object, Text};
use crate::values;

/// A job as its line describes it. What is not given is for the run to fill in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobLine {
    /// What the program reads from stdin, byte for byte as it was written (text without its quotes).
    pub payload: Bytes,
    /// JSON, or text.
    pub content_type: ContentType,
    /// Who runs first.
    pub priority: Option<Priority>,
    /// Not to be started for that long.
    pub delay: Option<Duration>,
    /// Not to be started after that long.
    pub ttl: Option<Duration>,
    /// The longest an attempt may run.
    pub timeout: Option<Duration>,
    /// The application's name for "the same job".
    pub unique_key: Option<UniqueKey>,
    /// What the program sees as its kind.
    pub kind: Option<JobKind>,
    /// How often it is run at most.
    pub max_attempts: Option<u32>,
    /// The wait between attempts.
    pub backoff: Option<queue_core::job::Backoff>,
    /// Correlation, user, project, tags, metadata. Most lines have none, and each of them is moved from hand to hand.
    pub headers: Option<Box<Headers>>,
}

impl JobLine {
    /// The job's own retry policy, where it differs from the run's.
    #[must_use]
    pub fn retry(&self, default: &RetryPolicy) -> Option<RetryPolicy> {
        if self.max_attempts.is_none() && self.backoff.is_none() {
            return None;
        }
        let max_attempts = self.max_attempts.unwrap_or(default.max_attempts);
        Some(match &self.backoff {
            Some(backoff) => values::retry_policy(max_attempts, backoff.clone()),
            None => RetryPolicy { max_attempts, ..default.clone() },
        })
    }
}

/// Why a line is not a job, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl From<Invalid> for JobError {
    fn from(invalid: Invalid) -> Self {
        Self::new(ErrorCode::Validation, invalid.0)
    }
}

/// How lines are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobText {
    /// Each line is a JSON object.
    Objects,
    /// Each line is a payload.
    Lines,
}

/// Reads a line as a job.
///
/// # Errors
/// Says what is wrong with it, naming the key where there is one.
pub fn parse(text: &Text, how: JobText) -> Result<JobLine, Invalid> {
    match text {
        Text::Utf8(bytes) if how == JobText::Lines => {
            Ok(JobLine { payload: bytes.clone(), content_type: ContentType::Text, ..JobLine::default() })
        }
        Text::Utf8(bytes) => parse_object(bytes),
        Text::NotUtf8(bytes) if bytes.contains(&0) => {
            Err(Invalid("the line is not UTF-8; it looks like UTF-16, or is no text".to_owned()))
        }
        Text::NotUtf8(_) => Err(Invalid("the line is not UTF-8".to_owned())),
        Text::TooLong { length, limit, .. } => {
            Err(Invalid(format!("the line has {length} bytes and --max-line allows {limit}")))
        }
    }
}

fn parse_object(line: &Bytes) -> Result<JobLine, Invalid> {
    // Checked once, and not for each value again.
    let text = std::str::from_utf8(line).map_err(|_| Invalid("the line is not UTF-8".to_owned()))?;
    let Object(members) = serde_json::from_str(text).map_err(|error| not_an_object(line, &error))?;
    let mut job = JobLine::default();
    let mut payload = None;
    for (index, (key, value)) in members.iter().enumerate() {
        if key.starts_with('_') {
            continue;
        }
        if members[..index].iter().any(|(earlier, _)| earlier == key) {
            return Err(Invalid(format!("key {key:?} is given twice")));
        }
        if key == "payload" {
            payload = Some(*value);
        } else {
            take(&mut job, key, value)?;
        }
    }
    let payload = payload.ok_or_else(|| Invalid("the line has no \"payload\" (it may be null)".to_owned()))?;
    job.payload = match job.content_type {
        ContentType::Json => line.slice_ref(payload.get().as_bytes()),
        _ => Bytes::from(read::<String>("payload", payload, "a string, as the content_type is text")?),
    };
    Ok(job)
}

fn take(job: &mut JobLine, key: &str, value: &RawValue) -> Result<(), Invalid> {
    match key {
        "priority" => job.priority = Some(read(key, value, "a whole number from 1 to 15")?),
        "delay" => job.delay = Some(read_with(key, value, values::duration)?),
        "ttl" => job.ttl = Some(read_with(key, value, values::time_limit)?),
        "timeout" => job.timeout = Some(read_with(key, value, values::time_limit)?),
        "unique_key" => job.unique_key = Some(read(key, value, "a string of 1 to 256 bytes")?),
        "kind" => {
            job.kind = Some(read_with(key, value, |text| JobKind::new(text).map_err(|e| e.message().to_owned()))?)
        }
        "max_attempts" => {
            let attempts = read::<std::num::NonZeroU32>(key, value, "a whole number from 1")?;
            job.max_attempts = Some(attempts.get());
        }
        "backoff" => job.backoff = Some(read_with(key, value, values::backoff)?),
        "content_type" => job.content_type = read_with(key, value, content_type)?,
        "correlation_id" => job.headers.get_or_insert_default().correlation_id = Some(read(key, value, "a string")?),
        "user" => job.headers.get_or_insert_default().user = Some(read(key, value, "a string")?),
        "project" => job.headers.get_or_insert_default().project = Some(read(key, value, "a string")?),
        "tags" => job.headers.get_or_insert_default().tags = read(key, value, "a list of strings")?,
        "metadata" => {
            job.headers.get_or_insert_default().metadata = read::<BTreeMap<_, _>>(key, value, "an object of strings")?
        }
        _ => return Err(unknown(key)),
    }
    Ok(())
}

const KEYS: [&str; 15] = [
    "payload",
    "priority",
    "delay",
    "ttl",
    "timeout",
    "unique_key",
    "kind",
    "max_attempts",
    "backoff",
    "content_type",
    "correlation_id",
    "user",
    "project",
    "tags",
    "metadata",
];

fn unknown(key: &str) -> Invalid {
    let key: String = key.chars().take(60).collect();
    Invalid(format!("unknown key {key:?}; the keys are {}, and any that begins with `_` is ignored", KEYS.join(", ")))
}

fn read<T: DeserializeOwned>(key: &str, value: &RawValue, wanted: &str) -> Result<T, Invalid> {
    serde_json::from_str(value.get())
        .map_err(|_| Invalid(format!("{key:?} is {}, and should be {wanted}", show(value))))
}

fn read_with<T>(key: &str, value: &RawValue, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, Invalid> {
    let text: String = read(key, value, "a string")?;
    parse(&text).map_err(|reason| Invalid(format!("{key:?}: {reason}")))
}

/// A value, cut to what a message bears.
fn show(value: &RawValue) -> String {
    let mut shown: String = value.get().chars().take(60).collect();
    if shown.len() < value.get().len() {
        shown.push('…');
    }
    shown
}

fn content_type(text: &str) -> Result<ContentType, String> {
    match text {
        "application/json" => Ok(ContentType::Json),
        "text/plain" | "text/plain; charset=utf-8" => Ok(ContentType::Text),
        _ => Err(format!("{text:?} is neither \"application/json\" nor \"text/plain\"")),
    }
}

fn not_an_object(line: &Bytes, error: &serde_json::Error) -> Invalid {
    if serde_json::from_slice::<&RawValue>(line).is_ok_and(|value| !value.get().starts_with('{')) {
        return Invalid(
            "the line is not a JSON object, such as {\"payload\": 1}; for lines of text use --lines".into(),
        );
    }
    // serde says "at line 1 column 7" of every line of this file.
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    Invalid(format!("the line is not JSON: {reason} at column {}", error.column()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(line: &str) -> Result<JobLine, Invalid> {
        parse(&Text::Utf8(Bytes::copy_from_slice(line.as_bytes())), JobText::Objects)
    }

    fn refused(line: &str) -> String {
        object(line).expect_err(line).0
    }

    #[test]
    fn the_payload_is_kept_to_the_byte() {
        for payload in [
            "null",
            "0.10",
            "12345678901234567890123",
            "\"a\\u00e9\\/\"",
            "{\"b\": 1, \"a\":[ ],\"b\":2}",
            "\"\\ud800\"",
        ] {
            let line = format!("{{\"priority\":10 , \"payload\" : {payload} }}");
            let job = object(&line).unwrap();
            assert_eq!(std::str::from_utf8(&job.payload).unwrap(), payload);
            assert_eq!((job.priority, job.content_type), (Some(Priority::HIGH), ContentType::Json));
        }
    }

    #[test]
    fn every_key_is_read() {
        let job = object(
            r#"{"payload":1,"priority":15,"delay":"2s","ttl":"1h","timeout":"5s","unique_key":"k","kind":"mail.send",
                "max_attempts":3,"backoff":"fixed:1s","content_type":"application/json","correlation_id":"c","user":"u",
                "project":"p","tags":["a","b"],"metadata":{"x":"y"},"_error":{"any":"thing"},"_error":2}"#,
        )
        .unwrap();
        assert_eq!(job.delay, Some(Duration::from_secs(2)));
        assert_eq!(job.ttl, Some(Duration::from_secs(3600)));
        assert_eq!(job.timeout, Some(Duration::from_secs(5)));
        assert_eq!(job.unique_key.as_ref().unwrap().as_str(), "k");
        assert_eq!(job.kind.as_ref().unwrap().as_str(), "mail.send");
        assert_eq!(job.retry(&RetryPolicy::default()), Some(RetryPolicy::fixed(3, Duration::from_secs(1))));
        let headers = *job.headers.unwrap();
        assert_eq!((headers.tags.len(), headers.metadata["x"].as_str()), (2, "y"));
        let others = [headers.correlation_id, headers.user, headers.project].map(Option::unwrap);
        assert_eq!(others, ["c", "u", "p"]);
    }

    #[test]
    fn every_key_that_is_read_is_listed_and_the_other_way_round() {
        for key in KEYS {
            let said = refused(&format!("{{\"{key}\": [[]]}}").replace("payload\": [[]]", "payload\": }"));
            assert!(!said.contains("unknown"), "{key}: {said}");
        }
        let said = refused(r#"{"payload":1,"prio":1}"#);
        assert!(said.contains("\"prio\"") && said.contains("priority"), "{said}");
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (r#"{"priority":1}"#, "no \"payload\""),
            (r#"{"payload":1,"payload":2}"#, "\"payload\" is given twice"),
            (r#"{"payload":1,"pa\u0079load":2}"#, "\"payload\" is given twice"),
            (r#"{"payload":1,"priority":16}"#, "\"priority\" is 16"),
            (r#"{"payload":1,"priority":"high"}"#, "from 1 to 15"),
            (r#"{"payload":1,"priority":2.5}"#, "from 1 to 15"),
            (r#"{"payload":1,"delay":2}"#, "\"delay\" is 2, and should be a string"),
            (r#"{"payload":1,"delay":"2"}"#, "with a unit"),
            (r#"{"payload":1,"timeout":"0s"}"#, "\"timeout\""),
            (r#"{"payload":1,"ttl":null}"#, "\"ttl\" is null"),
            (r#"{"payload":1,"unique_key":""}"#, "1 to 256 bytes"),
            (r#"{"payload":1,"kind":"a b"}"#, "white space"),
            (r#"{"payload":1,"max_attempts":0}"#, "from 1"),
            (r#"{"payload":1,"tags":"a"}"#, "list of strings"),
            (r#"{"payload":1,"metadata":{"a":1}}"#, "object of strings"),
            (r#"{"payload":1,"content_type":"text/plain"}"#, "\"payload\" is 1, and should be a string"),
            (r#"{"payload":1,"content_type":"image/png"}"#, "neither"),
            ("[1]", "not a JSON object"),
            ("17", "--lines"),
            (r#"{"payload":1} x"#, "trailing characters at column 15"),
            (r#"{"payload":"#, "not JSON: EOF"),
            (r#"{'payload':1}"#, "at column 2"),
            ("{\"payload\":\"tab\there\"}", "control character"),
        ];
        for (line, said) in cases {
            let message = refused(line);
            assert!(message.contains(said), "{line}: {message}");
        }
        let long = refused(&format!("{{\"payload\":1,\"tags\":\"{}\"}}", "x".repeat(100_000)));
        assert!(long.len() < 300, "a message quotes little of the input: {}", long.len());
    }

    #[test]
    fn text_comes_without_quotes() {
        let job = object(r#"{"payload":"a \"b\"\n","content_type":"text/plain"}"#).unwrap();
        assert_eq!((&job.payload[..], job.content_type), (&b"a \"b\"\n"[..], ContentType::Text));
        let line = parse(&Text::Utf8(Bytes::from_static(b"{\"payload\":1}")), JobText::Lines).unwrap();
        assert_eq!((&line.payload[..], line.content_type), (&b"{\"payload\":1}"[..], ContentType::Text));
    }

    #[test]
    fn a_deeply_nested_payload_is_no_problem() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(object(&format!("{{\"payload\":{deep}}}")).unwrap().payload.len(), 200_000);
    }

    #[test]
    fn own_attempts_keep_the_wait_of_the_run() {
        let default = values::retry_policy(4, values::backoff("exp:1s..9s").unwrap());
        let job = object(r#"{"payload":1,"max_attempts":2}"#).unwrap();
        assert_eq!(job.retry(&default), Some(RetryPolicy { max_attempts: 2, ..default.clone() }));
        assert_eq!(object(r#"{"payload":1}"#).unwrap().retry(&default), None);
    }
}
