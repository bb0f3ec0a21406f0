//! What was seen, as JSON. Times are milliseconds of the Unix epoch.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use queue_core::store::{JobRecord, PastFailure};
use serde_json::{Map, Value, json};

use super::find::Found;

pub(super) fn of(found: &Found, payload: bool) -> Value {
    match found {
        Found::Queues(queues) => {
            let row = |(name, stats): &(queue_core::QueueName, queue_core::Result<_>)| match stats {
                Ok(stats) => json!(stats),
                Err(error) => json!({"queue": name, "error": error.to_string()}),
            };
            json!({"queues": queues.iter().map(row).collect::<Vec<_>>()})
        }
        Found::Jobs { jobs, more } => {
            json!({"jobs": jobs.iter().map(|job| record(job, false)).collect::<Vec<_>>(), "more": more})
        }
        Found::Job(job) => json!({"job": record(job, payload)}),
    }
}

/// Only what there is.
fn record(record: &JobRecord, payload: bool) -> Value {
    let envelope = &record.envelope;
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        let nothing = matches!(&value, Value::Null) || value.as_array().is_some_and(Vec::is_empty);
        if !nothing {
            out.insert(name.to_owned(), value);
        }
    };
    put("job", json!(record.job.to_string()));
    put("id", json!(record.job.id));
    put("queue", json!(record.job.queue));
    put("kind", json!(envelope.kind.as_str()));
    put("state", json!(record.state));
    put("parked", json!(record.parked.as_ref().map(|key| &*key.0)));
    put("priority", json!(envelope.priority.level()));
    put("attempt", json!(record.attempt));
    put("started_count", json!(record.started_count));
    put("worker", json!(record.worker));
    put("lease_ends", json!(record.lease_ends));
    put("submitted_at", json!(record.submitted_at));
    put("due_at", json!(record.due_at));
    put("started_at", json!(record.started_at));
    put("finished_at", json!(record.finished_at));
    put("expires_at", json!(envelope.expires_at));
    put("unique_key", json!(envelope.unique.as_ref().map(|unique| unique.key.as_str())));
    put("cancel_requested", json!(record.cancel_requested));
    put("progress", json!(record.progress.as_deref().map(bytes)));
    put("error", json!(record.error));
    put("history", record.history.iter().map(past).collect());
    put("logs", record.logs.iter().map(|line| bytes(line)).collect());
    if payload {
        put("payload", bytes(&envelope.payload));
        put("result", json!(record.result.as_deref().map(bytes)));
    }
    Value::Object(out)
}

fn past(past: &PastFailure) -> Value {
    json!({"attempt": past.attempt, "at": past.at, "error": past.error})
}

/// JSON as JSON, other text as a string, anything else as `{"base64": …}`.
fn bytes(bytes: &[u8]) -> Value {
    match (serde_json::from_slice(bytes), std::str::from_utf8(bytes)) {
        (Ok(value), _) => value,
        (Err(_), Ok(text)) => json!(text),
        (Err(_), Err(_)) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        assert_eq!(bytes(b"{\"to\":1}"), json!({"to": 1}));
        assert_eq!(bytes(b"plain"), json!("plain"));
        assert_eq!(bytes(b"\xff\x00"), json!({"base64": "/wA="}));
    }
}
