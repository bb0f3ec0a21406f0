//! How each line ended, as one row of NDJSON.

use std::time::Duration;

use bytes::Bytes;
use queue_core::{JobId, job::JobError};
use queue_process::result_json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The program exited with 0.
    Completed,
    /// Its attempts are spent, or it is never to be retried.
    Dead,
    /// The line is not a job, or the provider refused it.
    Invalid,
    /// An earlier line has its unique key.
    Duplicate,
    /// Somebody cancelled it.
    Cancelled,
    /// Its time to live passed before it was started.
    Expired,
    /// The run ended first.
    Aborted,
}

impl Status {
    /// Every status, in the order of the summary.
    pub const ALL: [Self; 7] =
        [Self::Completed, Self::Dead, Self::Invalid, Self::Duplicate, Self::Cancelled, Self::Expired, Self::Aborted];

    /// The word for it in results and summary.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Invalid => "invalid",
            Self::Duplicate => "duplicate",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Aborted => "aborted",
        }
    }
}

/// A line that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The job's id; `None` where it never became one.
    pub id: Option<JobId>,
    /// The line's number, from 1.
    pub line: u64,
    /// How it ended.
    pub status: Status,
    /// How often it was started.
    pub attempts: u32,
    /// What the program wrote, as JSON.
    pub result: Option<Bytes>,
    /// Why it did not complete.
    pub error: Option<JobError>,
    /// From its submission (or, where it has a delay, from when it was due) to its first start.
    pub wait: Duration,
    /// All its attempts together.
    pub run: Duration,
}

impl Row {
    /// A line that was never run.
    #[must_use]
    pub fn not_run(line: u64, status: Status, error: JobError) -> Self {
        let nothing = Duration::ZERO;
        Self { id: None, line, status, attempts: 0, result: None, error: Some(error), wait: nothing, run: nothing }
    }

    /// As one line of JSON, without its line break. Times are whole milliseconds.
    ///
    /// # Errors
    /// Never for rows this crate makes; serde's.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Wire<'a> {
            id: Option<JobId>,
            line: u64,
            status: Status,
            attempts: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a JobError>,
            wait_ms: u64,
            run_ms: u64,
        }
        // One line whatever a provider hands back; JSON that is on one line already is not copied.
        let json = self.result.as_ref().map(result_json);
        serde_json::to_vec(&Wire {
            id: self.id,
            line: self.line,
            status: self.status,
            attempts: self.attempts,
            result: json.as_deref().map(serde_json::from_slice).transpose()?,
            error: self.error.as_ref(),
            wait_ms: millis(self.wait),
            run_ms: millis(self.run),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use queue_core::error::ErrorCode;

    use super::*;

    fn json(row: &Row) -> String {
        String::from_utf8(row.to_json().unwrap()).unwrap()
    }

    #[test]
    fn rows_have_the_documented_shape() {
        let mut row = Row {
            id: Some(JobId::from_bytes([7; 16])),
            line: 12,
            status: Status::Completed,
            attempts: 2,
            result: Some(Bytes::from_static(b"{\"total\": 1.50}")),
            error: None,
            wait: Duration::from_micros(1_999),
            run: Duration::from_secs(3),
        };
        assert_eq!(
            json(&row),
            "{\"id\":\"07070707-0707-0707-0707-070707070707\",\"line\":12,\"status\":\"completed\",\"attempts\":2,\
             \"result\":{\"total\": 1.50},\"wait_ms\":1,\"run_ms\":3000}"
        );
        row.result = Some(Bytes::from_static(b"[\n1]"));
        assert!(json(&row).contains("\"result\":[1],"));
        row.result = Some(Bytes::from_static(b"no JSON"));
        assert!(json(&row).contains("\"result\":\"no JSON\","));

        let error = JobError::new(ErrorCode::Validation, "a\nb");
        assert_eq!(
            json(&Row::not_run(3, Status::Invalid, error)),
            "{\"id\":null,\"line\":3,\"status\":\"invalid\",\"attempts\":0,\
             \"error\":{\"code\":\"VALIDATION\",\"message\":\"a\\nb\",\"retryable\":false},\"wait_ms\":0,\"run_ms\":0}"
        );
    }

    #[test]
    fn the_words_are_the_same_in_json_and_in_the_summary() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
