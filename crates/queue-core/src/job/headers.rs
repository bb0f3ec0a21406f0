//! What rides along for those who need it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{JobId, RetryPolicy};
use crate::error::{Error, ErrorCode, Result};

/// The parsed headers of an envelope. A member that is not set takes no room on the wire.
///
/// Canonical: members in the order below, maps sorted by key, no white space.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// The job's own retry policy; absent, the queue's holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Ties together what belongs to one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The job that this one follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The workflow it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<JobId>,
    /// W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// What the job waits in line for.
    #[serde(skip_serializing_if = "LimitKeys::is_empty")]
    pub keys: LimitKeys,
    /// How long it may take from submission to completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sla: Option<SlaClass>,
    /// Only a worker that has all of these may run it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// For which project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Words to find it by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The application's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Keys under which jobs share something: an order, a limit, a breaker, a fair share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitKeys {
    /// Jobs of one ordering key run one after the other where the provider can order by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering: Option<Arc<str>>,
    /// At most so many at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Arc<str>>,
    /// At most so many in a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Arc<str>>,
    /// The dependency whose circuit breaker holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Arc<str>>,
    /// Whose fair share it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// Which partition of its queue it is in; see [`crate::QueueSpec::partitions`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<Arc<str>>,
}

impl LimitKeys {
    /// Whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How long a job may take from its submission to its completion: see [`SlaClass::target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SlaClass {
    /// 3 s.
    Urgent,
    /// 10 s.
    High,
    /// 30 s.
    Medium,
    /// 60 s.
    Low,
}

/// W3C trace context, carried as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// The `traceparent` header.
    pub traceparent: String,
    /// The `tracestate` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

/// Headers as they travel: JSON, at most 64 KiB, empty where nothing is set.
///
/// They are passed on as they came, so a member that only a newer version knows survives a retry on an older one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawHeaders(Bytes);

impl RawHeaders {
    /// The most bytes headers may take.
    pub const MAX: usize = 64 << 10;

    /// Encodes headers canonically.
    ///
    /// # Errors
    /// `VALIDATION` where the retry policy is nonsense, `PAYLOAD_TOO_LARGE` beyond [`RawHeaders::MAX`].
    pub fn encode(headers: &Headers) -> Result<Self> {
        if *headers == Headers::default() {
            return Ok(Self::default());
        }
        if let Some(retry) = &headers.retry {
            retry.validate()?;
        }
        let json = serde_json::to_vec(headers)
            .map_err(|error| Error::new(ErrorCode::Internal, "headers cannot be encoded").caused_by(error))?;
        Self::from_wire(Bytes::from(json))
    }

    /// Takes bytes off the wire without parsing them.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE` beyond [`RawHeaders::MAX`].
    pub fn from_wire(bytes: Bytes) -> Result<Self> {
        if bytes.len() > Self::MAX {
            return Err(Error::new(ErrorCode::PayloadTooLarge, "headers (tags, metadata, keys) exceed 64 KiB"));
        }
        Ok(Self(bytes))
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The partition that they name, if any, without parsing what names none.
    pub(super) fn partition(&self) -> Option<Arc<str>> {
        #[derive(Deserialize)]
        struct Only {
            #[serde(default)]
            keys: OnlyKeys,
        }
        #[derive(Default, Deserialize)]
        struct OnlyKeys {
            #[serde(default)]
            partition: Option<Arc<str>>,
        }
        let text = std::str::from_utf8(&self.0).ok()?;
        // A foreign writer may have escaped the letters.
        if !text.contains("partition") && !text.contains("\\u") {
            return None;
        }
        serde_json::from_str::<Only>(text).ok()?.keys.partition
    }

    /// Parses them; empty bytes are the default.
    ///
    /// # Errors
    /// `UNDECODABLE` where they are not a JSON object of this shape.
    pub fn parse(&self) -> Result<Headers> {
        if self.0.is_empty() {
            return Ok(Headers::default());
        }
        serde_json::from_slice(&self.0)
            .map_err(|error| Error::new(ErrorCode::Undecodable, "the headers are not readable").caused_by(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_takes_no_room() {
        assert!(RawHeaders::encode(&Headers::default()).unwrap().is_empty());
        assert_eq!(RawHeaders::default().parse().unwrap(), Headers::default());
    }

    #[test]
    fn a_newer_member_is_ignored_and_kept() {
        let raw = RawHeaders::from_wire(Bytes::from_static(br#"{"project":"p","from_the_future":[1]}"#)).unwrap();
        assert_eq!(raw.parse().unwrap().project.as_deref(), Some("p"));
        assert!(std::str::from_utf8(raw.as_bytes()).unwrap().contains("from_the_future"));
    }

    #[test]
    fn the_partition_is_found_however_it_was_written() {
        let named =
            |text: &'static str| RawHeaders::from_wire(Bytes::from_static(text.as_bytes())).unwrap().partition();
        assert_eq!(RawHeaders::default().partition(), None);
        assert_eq!(named(r#"{"keys":{"partition":"bulk"}}"#).as_deref(), Some("bulk"));
        assert_eq!(named(r#"{"keys":{"tenant":"a","p\u0061rtition":"bulk"},"tags":["x"]}"#).as_deref(), Some("bulk"));
        assert_eq!(named(r#"{"tags":["partition"],"project":"partition"}"#), None);
        assert_eq!(named(r#"{"keys":{"partition"#), None);
        let all =
            Headers { keys: LimitKeys { partition: Some("ü".into()), ..LimitKeys::default() }, ..Headers::default() };
        assert_eq!(RawHeaders::encode(&all).unwrap().partition().as_deref(), Some("ü"));
    }

    #[test]
    fn nonsense_is_undecodable_and_too_much_is_refused() {
        let raw = RawHeaders::from_wire(Bytes::from_static(b"{")).unwrap();
        assert_eq!(raw.parse().unwrap_err().code(), ErrorCode::Undecodable);
        let huge = Headers { project: Some("x".repeat(RawHeaders::MAX)), ..Headers::default() };
        assert_eq!(RawHeaders::encode(&huge).unwrap_err().code(), ErrorCode::PayloadTooLarge);
    }
}
