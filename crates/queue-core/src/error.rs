//! One error type for every provider, with a stable code and its retryability.

use std::{borrow::Cow, fmt, sync::Arc};

use crate::job::QueueName;

/// The result of every fallible operation of this workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $retryable:literal;)*) => {
        /// What went wrong, in one stable word: the same in Rust, in events, in `--json` output and over REST.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable spelling, for logs, JSON and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Whether the same call may succeed later without being changed.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }
        }
    };
}

codes! {
    /// The input breaks a rule that it names; the same input never succeeds.
    Validation = "VALIDATION", false;
    /// A configuration value is missing, unknown or contradictory.
    Config = "CONFIG", false;
    /// Credentials are missing or wrong.
    Authentication = "AUTHENTICATION", false;
    /// The credentials do not allow this operation.
    Denied = "DENIED", false;
    /// The provider cannot do this; the message says what to do instead.
    Unsupported = "UNSUPPORTED", false;
    /// No such queue, job or provider.
    NotFound = "NOT_FOUND", false;
    /// It exists already with other properties, or changed in the meantime.
    Conflict = "CONFLICT", false;
    /// The unique key is held by another job.
    Duplicate = "DUPLICATE", false;
    /// The queue has reached its `max_len`.
    QueueFull = "QUEUE_FULL", true;
    /// The encoded job is larger than the queue or the broker takes.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", false;
    /// The job may run longer than the broker lets a delivery stay unacknowledged.
    ExceedsMaxHold = "EXCEEDS_MAX_HOLD", false;
    /// The delay is longer than the provider can hold.
    DelayTooLong = "DELAY_TOO_LONG", false;
    /// No queue takes what was published.
    Unroutable = "UNROUTABLE", false;
    /// The broker or the store cannot be reached, or refuses work for now.
    Unavailable = "UNAVAILABLE", true;
    /// No answer came in time; whether it happened is not known.
    Timeout = "TIMEOUT", true;
    /// Another worker holds, or has finished, the job.
    LeaseLost = "LEASE_LOST", false;
    /// The consumer, worker or scheduler was closed.
    Closed = "CLOSED", false;
    /// The job was cancelled.
    Cancelled = "CANCELLED", false;
    /// The job's time to live passed before it was started.
    Expired = "EXPIRED", false;
    /// A rate limit was reached.
    RateLimited = "RATE_LIMITED", true;
    /// A quota is used up.
    QuotaExceeded = "QUOTA_EXCEEDED", false;
    /// A circuit breaker is open.
    CircuitOpen = "CIRCUIT_OPEN", true;
    /// Something the handler called failed.
    ExternalService = "EXTERNAL_SERVICE_ERROR", true;
    /// The handler returned an error.
    HandlerFailed = "HANDLER_FAILED", true;
    /// The handler panicked.
    HandlerPanicked = "HANDLER_PANICKED", true;
    /// No handler is registered for the job's kind in the worker that got it; another worker may have one.
    NoHandler = "NO_HANDLER", true;
    /// The job was started and lost its worker too often: it is taken for the cause.
    Poison = "POISON", false;
    /// The bytes are not an envelope this version can read.
    Undecodable = "UNDECODABLE", false;
    /// The envelope belongs to another job store than this consumer's.
    ForeignStore = "FOREIGN_STORE", false;
    /// Another process has the store open.
    StoreInUse = "STORE_IN_USE", true;
    /// A defect of this library; please report it.
    Internal = "INTERNAL", false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error with its code, where it happened, and what to do about it.
///
/// Cheap to clone. It never carries a payload, and never a URL with credentials.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    code: ErrorCode,
    message: Cow<'static, str>,
    operation: Option<&'static str>,
    provider: Option<&'static str>,
    queue: Option<QueueName>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a message that tells the reader what to do.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            code,
            message: message.into(),
            operation: None,
            provider: None,
            queue: None,
            source: None,
        }))
    }

    /// The refusal of an operation that `provider` does not have.
    pub fn unsupported(provider: &'static str, operation: &'static str, instead: &'static str) -> Self {
        Self::new(ErrorCode::Unsupported, format!("{provider} cannot do `{operation}`: {instead}"))
            .at(operation)
            .by(provider)
    }

    /// Names the operation that failed.
    #[must_use]
    pub fn at(self, operation: &'static str) -> Self {
        self.edit(|inner| inner.operation = Some(operation))
    }

    /// Names the provider that failed.
    #[must_use]
    pub fn by(self, provider: &'static str) -> Self {
        self.edit(|inner| inner.provider = Some(provider))
    }

    /// Names the queue concerned.
    #[must_use]
    pub fn on(self, queue: &QueueName) -> Self {
        self.edit(|inner| inner.queue = Some(queue.clone()))
    }

    /// Keeps the cause for `std::error::Error::source`.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(source.into()))
    }

    /// The builders above run before the error is shared; on a shared one they change nothing.
    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.code.is_retryable()
    }

    /// The explanation, without the code and the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The operation that failed, where it is known.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The provider's scheme, where one was involved.
    #[must_use]
    pub fn provider(&self) -> Option<&'static str> {
        self.0.provider
    }

    /// The queue concerned, where there is one.
    #[must_use]
    pub fn queue(&self) -> Option<&QueueName> {
        self.0.queue.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)?;
        let places = [
            ("operation", self.0.operation),
            ("provider", self.0.provider),
            ("queue", self.0.queue.as_ref().map(QueueName::as_str)),
        ];
        let mut separator = " (";
        for (label, place) in places {
            if let Some(place) = place {
                write!(f, "{separator}{label} {place}")?;
                separator = ", ";
            }
        }
        if separator == ", " { f.write_str(")") } else { Ok(()) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_code_message_and_place() {
        let error = Error::unsupported("kafka", "purge", "delete the topic").on(&QueueName::from_static("mail"));
        assert_eq!(
            error.to_string(),
            "UNSUPPORTED: kafka cannot do `purge`: delete the topic (operation purge, provider kafka, queue mail)"
        );
        assert!(!error.is_retryable());
    }

    #[test]
    fn codes_are_distinct_and_upper_case() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{code}");
        }
    }
}
