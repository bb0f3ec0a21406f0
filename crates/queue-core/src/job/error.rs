//! Why a job failed, as it is remembered.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;

/// Why an attempt failed. It is kept with the job, so it must hold no secret.
///
/// Each text is cut to its limit when the error is made: code 64 bytes, message 4 KiB, detail 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobError {
    /// A stable word to filter by: one of [`ErrorCode`]'s, or the application's own.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// More for people: a stack, the tail of a program's stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl JobError {
    const MAX_CODE: usize = 64;
    const MAX_MESSAGE: usize = 4 << 10;
    const MAX_DETAIL: usize = 16 << 10;

    /// A failure under one of the library's codes, retryable as that code is.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code.as_str()),
            message: cut(message.into(), Self::MAX_MESSAGE),
            retryable: code.is_retryable(),
            detail: None,
        }
    }

    /// A retryable failure under the application's own code.
    pub fn custom(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Owned(cut(code.into(), Self::MAX_CODE)),
            message: cut(message.into(), Self::MAX_MESSAGE),
            retryable: true,
            detail: None,
        }
    }

    /// The same failure, never to be retried.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.retryable = false;
        self
    }

    /// Adds what a person debugging it wants to see.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(cut(detail.into(), Self::MAX_DETAIL));
        self
    }
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit.saturating_sub('…'.len_utf8())));
        text.push('…');
    }
    text
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for JobError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_on_a_character() {
        let error = JobError::custom("é".repeat(64), "ü".repeat(4 << 10)).with_detail("x".repeat(1 << 20));
        assert!(error.code.len() <= 64 && error.code.ends_with('…'));
        assert!(error.message.len() <= 4 << 10);
        assert!(error.detail.unwrap().len() <= 16 << 10);
        assert_eq!(JobError::custom("A", "short").message, "short");
    }
}
