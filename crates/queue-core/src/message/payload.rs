//! What can be sent: the application's own types, and bytes.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use validator::{Validate, ValidationErrors};

use crate::{
    error::{Error, ErrorCode, Result},
    job::{ContentType, Envelope, Job, JobError, JobKind, misfit, rules},
};

/// A type that travels as a message, in JSON, with the kind by which it is told apart.
///
/// Every [`Job`] is one already: published to a topic, it runs in the workers of each subscribed queue.
///
/// ```
/// use queue_core::message::Message;
/// use serde::{Deserialize, Serialize};
/// use validator::{Validate, ValidationErrors};
///
/// #[derive(Serialize, Deserialize)]
/// enum Login {
///     Succeeded { user: String },
///     Refused { address: String },
/// }
///
/// impl Message for Login {
///     const KIND: &'static str = "user.login";
/// }
///
/// #[derive(Serialize, Deserialize, Validate)]
/// struct Signup {
///     #[validate(email)]
///     email: String,
/// }
///
/// impl Message for Signup {
///     const KIND: &'static str = "user.signup";
///
///     fn check(&self) -> Result<(), ValidationErrors> {
///         self.validate()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    note = "implement `queue_core::message::Message` for it, or send a `RawMessage`"
)]
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// What it is. Keep it stable: messages that wait carry it.
    const KIND: &'static str;

    /// Its own rules, checked before it is sent and when it is received: for a type that implements [`Validate`],
    /// `self.validate()`. Without rules, everything that decodes is good.
    ///
    /// # Errors
    /// The rules it breaks.
    fn check(&self) -> Result<(), ValidationErrors> {
        Ok(())
    }
}

impl<J: Job> Message for J {
    const KIND: &'static str = <J as Job>::KIND;

    fn check(&self) -> Result<(), ValidationErrors> {
        Validate::validate(self)
    }
}

/// Whatever can be sent and received: a [`Message`], a [`RawMessage`], or a type with an encoding of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as a message",
    note = "implement `queue_core::message::Message` for it, or send a `RawMessage`"
)]
pub trait Payload: Sized + Send + 'static {
    /// The kind it travels under. `None`: whatever each one says, and all kinds are received.
    fn kind() -> Option<&'static str>;

    /// As it travels.
    ///
    /// # Errors
    /// `VALIDATION` where it breaks its own rules or cannot be encoded.
    fn to_raw(&self) -> Result<RawMessage>;

    /// As it was before it travelled.
    ///
    /// # Errors
    /// What is kept with the dead letter. One that is marked retryable is delivered again by the retry policy.
    fn from_raw(raw: RawMessage) -> Result<Self, JobError>;
}

impl<M: Message> Payload for M {
    fn kind() -> Option<&'static str> {
        Some(<M as Message>::KIND)
    }

    fn to_raw(&self) -> Result<RawMessage> {
        self.check().map_err(|errors| Error::new(ErrorCode::Validation, broken(&errors)).at("send"))?;
        RawMessage::json(<M as Message>::KIND, self)
    }

    fn from_raw(raw: RawMessage) -> Result<Self, JobError> {
        let invalid = |message: String| JobError::new(ErrorCode::Validation, message);
        let message: M = serde_json::from_slice(&raw.payload)
            .map_err(|error| invalid(format!("the payload is no {}: {}", <M as Message>::KIND, misfit(&error))))?;
        message.check().map_err(|errors| invalid(broken(&errors)))?;
        Ok(message)
    }
}

fn broken(errors: &ValidationErrors) -> String {
    format!("the message breaks its own rules: {}", rules(errors))
}

/// Bytes with a kind and a content type.
#[derive(Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// What it is.
    pub kind: JobKind,
    /// How it is to be read.
    pub content_type: ContentType,
    /// Opaque here.
    pub payload: Bytes,
}

impl RawMessage {
    /// Bytes of any sort.
    ///
    /// # Errors
    /// `VALIDATION` for what is no kind.
    pub fn new(kind: impl AsRef<str>, content_type: ContentType, payload: impl Into<Bytes>) -> Result<Self> {
        Ok(Self { kind: JobKind::new(kind)?, content_type, payload: payload.into() })
    }

    /// Any value as JSON.
    ///
    /// # Errors
    /// `VALIDATION` for what is no kind, or cannot be encoded.
    pub fn json<T: Serialize + ?Sized>(kind: impl AsRef<str>, value: &T) -> Result<Self> {
        let json = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorCode::Validation, format!("the message cannot be encoded: {error}")).at("send")
        })?;
        Self::new(kind, ContentType::Json, json)
    }

    /// Reads it as JSON.
    ///
    /// # Errors
    /// `VALIDATION`: where it does not fit, never what stands there.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.payload).map_err(|error| {
            let message = format!("the message of kind {} cannot be read: {}", self.kind, misfit(&error));
            Error::new(ErrorCode::Validation, message).at("receive")
        })
    }

    pub(super) fn of(envelope: &Envelope) -> Self {
        Self {
            kind: envelope.kind.clone(),
            content_type: envelope.content_type.clone(),
            payload: envelope.payload.clone(),
        }
    }
}

impl Payload for RawMessage {
    fn kind() -> Option<&'static str> {
        None
    }

    fn to_raw(&self) -> Result<RawMessage> {
        Ok(self.clone())
    }

    fn from_raw(raw: RawMessage) -> Result<Self, JobError> {
        Ok(raw)
    }
}

/// Shows the size of the payload, never the payload.
impl std::fmt::Debug for RawMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawMessage")
            .field("kind", &self.kind)
            .field("content_type", &self.content_type.as_str())
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}
