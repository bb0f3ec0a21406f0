//! Names, checked once and shared after.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, de, ser};

use crate::error::{Error, ErrorCode, Result};

macro_rules! shared_name {
    ($name:ident, $what:literal, $check:ident) => {
        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// `VALIDATION`, naming the rule that is broken.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                match $check(text) {
                    Ok(()) => Ok(Self(Arc::from(text))),
                    Err(rule) => {
                        let shown: String = text.chars().take(40).collect();
                        Err(Error::new(ErrorCode::Validation, format!("{} {shown:?} {rule}", $what)))
                    }
                }
            }

            /// A name known at compile time.
            ///
            /// # Panics
            /// Where the literal breaks the rules; do not give it input.
            #[must_use]
            #[allow(clippy::panic, reason = "a literal of the program, not input")]
            pub fn from_static(text: &'static str) -> Self {
                match Self::new(text) {
                    Ok(name) => name,
                    Err(error) => panic!("{error}"),
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(text).map_err(de::Error::custom)
            }
        }
    };
}

/// A queue's name: 1 to 120 bytes of UTF-8 without white space or control characters.
///
/// Providers map it to what their broker allows, reversibly.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Arc<str>);
shared_name!(QueueName, "queue name", check_name);

/// What a job is, and so which handler runs it: `email.send`. The same rules as a queue's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKind(Arc<str>);
shared_name!(JobKind, "job kind", check_name);

fn check_name(text: &str) -> std::result::Result<(), &'static str> {
    match text {
        "" => Err("is empty"),
        _ if text.len() > 120 => Err("is longer than 120 bytes"),
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Err("holds white space or a control character")
        }
        _ => Ok(()),
    }
}

/// The media type of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ContentType {
    /// `application/json`, the default.
    #[default]
    Json,
    /// `text/plain; charset=utf-8`.
    Text,
    /// `application/octet-stream`.
    Bytes,
    /// Another, at most 120 bytes.
    Other(Arc<str>),
}

impl ContentType {
    /// Takes a media type as it is written.
    ///
    /// # Errors
    /// `VALIDATION` where it is empty, longer than 120 bytes or holds control characters.
    pub fn parse(text: &str) -> Result<Self> {
        for known in [Self::Json, Self::Text, Self::Bytes] {
            if known.as_str() == text {
                return Ok(known);
            }
        }
        if text.is_empty() || text.len() > 120 || text.contains(char::is_control) {
            let message = "a content type has 1 to 120 bytes and no control characters";
            return Err(Error::new(ErrorCode::Validation, message));
        }
        Ok(Self::Other(Arc::from(text)))
    }

    /// As it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Bytes => "application/octet-stream",
            Self::Other(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_no_broker_can_carry() {
        for good in ["a", "ünïcode-✓", "with/slash:colon*star{brace}", &"x".repeat(120)] {
            assert_eq!(QueueName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "line\nbreak", "nul\0", "tab\t", "\u{2028}", &"x".repeat(121)] {
            let error = QueueName::new(bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Validation);
            assert!(error.to_string().len() < 200, "the message quotes at most 40 characters");
        }
    }

    #[test]
    fn content_types_round_trip() {
        for text in ["application/json", "text/plain; charset=utf-8", "application/octet-stream", "image/png"] {
            assert_eq!(ContentType::parse(text).unwrap().as_str(), text);
        }
        assert!(ContentType::parse("").is_err());
    }
}
