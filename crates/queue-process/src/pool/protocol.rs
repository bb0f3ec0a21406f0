//! What is said between the pool and a process: one JSON object a line, in either direction.

use std::{borrow::Cow, fmt::Write as _};

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use memchr::memchr2;
use queue_core::{
    error::ErrorCode,
    event::Progress,
    job::{ContentType, JobError},
    worker::JobContext,
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;

/// A job on its way to a process: its line, with its line break.
#[derive(Debug)]
pub(crate) struct Request(String);

const BEFORE_ID: &str = r#"{"id":""#;
const ID_LENGTH: usize = 36;

impl Request {
    /// The job's id, as the answer must have it.
    pub(crate) fn id(&self) -> &str {
        &self.0[BEFORE_ID.len()..BEFORE_ID.len() + ID_LENGTH]
    }

    pub(crate) fn line(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The line that hands a job over.
///
/// # Errors
/// A payload that calls itself JSON and is none.
pub(crate) fn request(job: &JobContext) -> Result<Request, JobError> {
    let envelope = job.envelope();
    let mut line = String::with_capacity(224 + envelope.payload.len());
    // Piece by piece: formatting it all at once takes longer than many a process does to answer.
    line.push_str(BEFORE_ID);
    let _ = write!(line, "{}", job.id());
    line.push_str(r#"","queue":"#);
    text(&mut line, job.queue().as_str());
    line.push_str(r#","kind":"#);
    text(&mut line, envelope.kind.as_str());
    line.push_str(r#","attempt":"#);
    number(&mut line, job.attempt());
    line.push_str(r#","max_attempts":"#);
    number(&mut line, job.max_attempts());
    line.push_str(r#","payload":"#);
    payload(&mut line, &envelope.content_type, &envelope.payload)?;
    line.push_str("}\n");
    Ok(Request(line))
}

fn payload(line: &mut String, kind: &ContentType, payload: &Bytes) -> Result<(), JobError> {
    match (kind, std::str::from_utf8(payload)) {
        (ContentType::Json, Ok(json)) if serde_json::from_str::<IgnoredAny>(json).is_ok() => {
            // A line break in JSON stands between tokens, where it means nothing: inside a string it would be escaped.
            match memchr2(b'\n', b'\r', json.as_bytes()) {
                None => line.push_str(json),
                Some(_) => line.extend(json.split(['\n', '\r'])),
            }
        }
        (ContentType::Json, _) => {
            let message =
                "the payload is not JSON: give the job the content type text/plain or application/octet-stream";
            return Err(JobError::new(ErrorCode::Validation, message));
        }
        (ContentType::Text, Ok(words)) => text(line, words),
        _ => {
            let _ = write!(line, r#""{}","encoding":"base64""#, Base64Display::new(payload, &STANDARD));
        }
    }
    Ok(())
}

/// A text as JSON: a name is any text, and so written as JSON writes text.
fn text(line: &mut String, text: &str) {
    let special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    // All of it is looked at, many bytes at once.
    match text.bytes().fold(false, |found, byte| found | special(byte)) {
        false => line.extend(["\"", text, "\""]),
        true => line.push_str(&serde_json::Value::from(text).to_string()),
    }
}

fn number(line: &mut String, number: u32) {
    match u8::try_from(number) {
        Ok(digit @ 0..10) => line.push(char::from(b'0' + digit)),
        _ => drop(write!(line, "{number}")),
    }
}

/// A line that a process wrote.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<Refusal<'a>>,
    progress: Option<Progress>,
    #[serde(borrow)]
    log: Option<Cow<'a, str>>,
}

/// `null` is a result too.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// How a process says that a job failed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal<'a> {
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(default = "yes")]
    retryable: bool,
    #[serde(borrow)]
    detail: Option<Cow<'a, str>>,
}

fn yes() -> bool {
    true
}

/// What a line means for the job under way.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Result(Bytes),
    Error(JobError),
    Progress(Progress),
    Log(String),
}

/// Reads a line, without its break, that is to be about this job.
///
/// # Errors
/// Why it breaks the protocol, for people.
pub(crate) fn read(line: &[u8], id: &str) -> Result<Said, String> {
    if let Some(result) = plain_result(line, id) {
        return Ok(Said::Result(Bytes::copy_from_slice(result.get().as_bytes())));
    }
    let answer: Answer<'_> = serde_json::from_slice(line)
        .map_err(|error| format!("a line that is no answer ({error}): {}", excerpt(line)))?;
    if answer.id != id {
        return Err(format!("an answer for {:?} while {id:?} is under way", excerpt(answer.id.as_bytes())));
    }
    match (answer.result, answer.error, answer.progress, answer.log) {
        (Some(result), None, None, None) => Ok(Said::Result(Bytes::copy_from_slice(result.get().as_bytes()))),
        (None, Some(error), None, None) => Ok(Said::Error(error.into())),
        (None, None, Some(progress), None) => Ok(Said::Progress(progress)),
        (None, None, None, Some(log)) => Ok(Said::Log(log.into_owned())),
        _ => Err(format!("a line without exactly one of result, error, progress and log: {}", excerpt(line))),
    }
}

/// The result of an answer that is written as most are: `{"id":"…","result":…}`.
fn plain_result<'a>(line: &'a [u8], id: &str) -> Option<&'a RawValue> {
    let rest = line.strip_prefix(BEFORE_ID.as_bytes())?.strip_prefix(id.as_bytes())?;
    let value = rest.strip_prefix(br#"","result":"#)?.strip_suffix(b"}")?;
    // One value, so that nothing else of the answer is in there.
    serde_json::from_slice(value).ok()
}

impl From<Refusal<'_>> for JobError {
    fn from(refusal: Refusal<'_>) -> Self {
        let code = refusal.code.as_deref().filter(|code| !code.is_empty());
        let mut error = Self::custom(code.unwrap_or(ErrorCode::HandlerFailed.as_str()), refusal.message);
        error.retryable = refusal.retryable;
        match refusal.detail {
            Some(detail) => error.with_detail(detail),
            None => error,
        }
    }
}

/// The beginning of a line, for a message.
fn excerpt(line: &[u8]) -> String {
    const MAX: usize = 80;
    let text = String::from_utf8_lossy(&line[..line.len().min(MAX)]).replace(char::is_control, "\u{FFFD}");
    if line.len() > MAX { text + "…" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(kind: ContentType, bytes: &'static [u8]) -> Result<String, JobError> {
        let mut line = String::new();
        payload(&mut line, &kind, &Bytes::from_static(bytes)).map(|()| line)
    }

    #[test]
    fn payloads_go_as_they_are() {
        let json = b"{\r\n \"n\": 12345678901234567890.10, \"s\": \"x\\ny\"\n}";
        assert_eq!(sent(ContentType::Json, json).unwrap(), r#"{ "n": 12345678901234567890.10, "s": "x\ny"}"#);
        assert_eq!(sent(ContentType::Text, b"two\n\"lines\"").unwrap(), r#""two\n\"lines\"""#);
        assert_eq!(sent(ContentType::Text, b"plain").unwrap(), r#""plain""#);
        assert_eq!(sent(ContentType::Bytes, b"\xFF\0").unwrap(), r#""/wA=","encoding":"base64""#);
        assert_eq!(sent(ContentType::Text, b"\xFF\0").unwrap(), r#""/wA=","encoding":"base64""#);
        for none in [&b"hello"[..], b"", b"{} {}", b"\"\xFF\""] {
            let error = sent(ContentType::Json, none).unwrap_err();
            assert_eq!((&*error.code, error.retryable), ("VALIDATION", false), "{none:?}");
        }
    }

    #[test]
    fn answers_are_understood() {
        let result = |json: &str| Ok(Said::Result(Bytes::copy_from_slice(json.as_bytes())));
        assert_eq!(read(br#"{"id":"a","result":{"n": 1.10}}"#, "a"), result(r#"{"n": 1.10}"#));
        assert_eq!(read(br#" {"id":"a","result":null} "#, "a"), result("null"));
        assert_eq!(read(br#"{"id":"a","log":"x\ty"}"#, "a"), Ok(Said::Log("x\ty".into())));
        let progress = Progress { percent: 40.0, stage: Some("sending".into()), message: None };
        assert_eq!(
            read(br#"{"id":"a","progress":{"percent":40,"stage":"sending"}}"#, "a"),
            Ok(Said::Progress(progress))
        );
        let error = |json: &str| match read(format!(r#"{{"id":"a","error":{json}}}"#).as_bytes(), "a") {
            Ok(Said::Error(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(error(r#"{"message":"no"}"#), JobError::new(ErrorCode::HandlerFailed, "no"));
        let full = error(r#"{"code":"GONE","message":"no","retryable":false,"detail":"why"}"#);
        assert_eq!(full, JobError::custom("GONE", "no").permanent().with_detail("why"));
    }

    #[test]
    fn nonsense_is_told_apart() {
        for (line, said) in [
            (&b"hello"[..], "no answer"),
            (b"", "no answer"),
            (b"[]", "no answer"),
            (b"{\"id\":\"a\",\"result\":1} 2", "no answer"),
            (br#"{"result":1}"#, "missing field `id`"),
            (br#"{"id":"a","reslut":1}"#, "unknown field `reslut`"),
            (br#"{"id":"b","result":1}"#, r#"an answer for "b" while "a""#),
            (br#"{"id":"a"}"#, "exactly one of"),
            (br#"{"id":"a","result":1,"log":"x"}"#, "exactly one of"),
            (br#"{"id":"a","error":"no"}"#, "no answer"),
            (b"{\"id\":\"a\",\"result\":\"\xFF\"}", "no answer"),
        ] {
            let error = read(line, "a").unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(read(&[b'x'; 100_000], "a").unwrap_err().len() < 300);
    }
}
