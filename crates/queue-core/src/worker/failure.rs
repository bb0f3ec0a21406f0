//! How a handler says that it did not succeed.

use std::{any::Any, error::Error as StdError, fmt, time::Duration};

use crate::{
    error::{Error, ErrorCode},
    job::JobError,
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// What a handler returns instead of a result.
///
/// Every `std::error::Error` converts into it with `?`: a [`JobError`] and a [`crate::Error`] as retryable as they say, any
/// other as a retryable `HANDLER_FAILED`.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// Try again by the policy, if the error is retryable.
    Retry(JobError),
    /// Try again after this delay; it spends an attempt.
    RetryAfter(Duration, JobError),
    /// Start again after this delay; it spends no attempt.
    Snooze(Duration),
    /// The job is not wanted any more. Of a handler that the stop of its worker told to stop it means no more than that it
    /// did: the job is released, and runs elsewhere.
    Cancel,
    /// Another attempt cannot help: dead.
    Never(JobError),
}

impl Failure {
    /// A retryable failure with a message.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry(JobError::new(ErrorCode::HandlerFailed, message))
    }

    /// A failure that no other attempt can mend.
    pub fn never(message: impl Into<String>) -> Self {
        Self::Never(JobError::new(ErrorCode::HandlerFailed, message).permanent())
    }

    /// What a layer's error stands for; a failure that passed through it comes out as it was.
    pub(super) fn from_boxed(error: BoxError) -> Self {
        match error.downcast::<Boxed>() {
            Ok(boxed) => boxed.0,
            Err(other) => Self::Retry(JobError::new(ErrorCode::HandlerFailed, chain(&*other))),
        }
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        if let Some(job_error) = any.downcast_ref::<JobError>() {
            return Self::Retry(job_error.clone());
        }
        if let Some(ours) = any.downcast_ref::<Error>() {
            return Self::Retry(JobError::new(ours.code(), ours.to_string()));
        }
        Self::Retry(JobError::new(ErrorCode::HandlerFailed, chain(&error)))
    }
}

/// An error and its causes on one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// `Failure` is no `std::error::Error`, so that every such error can convert into it; inside a boxed error it travels as this.
#[derive(Debug)]
struct Boxed(Failure);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Failure::Retry(error) | Failure::RetryAfter(_, error) | Failure::Never(error) => error.fmt(f),
            Failure::Snooze(after) => write!(f, "snoozed for {after:?}"),
            Failure::Cancel => f.write_str("cancelled by its handler"),
        }
    }
}

impl StdError for Boxed {}

impl From<Failure> for BoxError {
    fn from(failure: Failure) -> Self {
        Box::new(Boxed(failure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn any_error_converts_with_its_causes() {
        let failure = Failure::from(Outer(std::io::Error::other("inner")));
        let expected = Failure::Retry(JobError::new(ErrorCode::HandlerFailed, "outer: inner"));
        assert_eq!(failure, expected);
    }

    #[test]
    fn our_own_errors_keep_code_and_retryability() {
        let permanent = JobError::custom("NO_SUCH_USER", "gone").permanent();
        assert_eq!(Failure::from(permanent.clone()), Failure::Retry(permanent));
        let Failure::Retry(error) = Failure::from(Error::new(ErrorCode::Validation, "bad")) else { panic!() };
        assert_eq!((error.code.as_ref(), error.retryable), ("VALIDATION", false));
    }

    #[test]
    fn a_failure_survives_a_layer_that_boxes_errors() {
        let snooze = Failure::Snooze(Duration::from_secs(3));
        assert_eq!(Failure::from_boxed(snooze.clone().into()), snooze);
        let foreign = Failure::from_boxed(Box::new(std::io::Error::other("x")));
        assert!(matches!(foreign, Failure::Retry(_)));
    }
}
