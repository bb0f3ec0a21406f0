//! Names and patterns that a configuration gives.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use queue_core::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize, de};

use super::value::Value;

/// What a configuration calls a provider: 1 to 64 lower-case letters, digits, `-` and `_`, but not `none`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ProviderName(Arc<str>);

impl ProviderName {
    /// The provider of the section `[provider]`.
    pub const DEFAULT: &'static str = "default";

    /// Takes a name.
    ///
    /// # Errors
    /// `CONFIG`, saying what a name looks like.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) || text == "none" {
            let rule = "it has 1 to 64 lower-case letters, digits, `-` and `_`, and is not `none`";
            let shown: String = text.chars().take(40).collect();
            return Err(Error::new(ErrorCode::Config, format!("{shown:?} is no name of a provider: {rule}")));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ProviderName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for ProviderName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ProviderName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProviderName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ProviderName {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(text).map_err(|error| de::Error::custom(error.message()))
    }
}

impl Value for ProviderName {
    const SHAPE: &'static str = "name of a provider";

    fn read(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.message().to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A text in which each `*` stands for any number of characters, dots included. Everything else stands for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Takes a pattern.
    ///
    /// # Errors
    /// `VALIDATION` where it is empty, longer than 240 bytes, or holds white space: no name has any.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let refuse = |what: &str| {
            let message = format!("{text:?} {what}; write a name, in which `*` stands for anything, such as reports.*");
            Err(Error::new(ErrorCode::Validation, message).at("match"))
        };
        match text {
            "" => refuse("is no pattern"),
            _ if text.len() > 240 => refuse("is longer than 240 bytes"),
            _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => refuse("holds white space"),
            _ => Ok(Self(text.into())),
        }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches every text.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// What every text that it matches begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.split_once('*').map_or(&*self.0, |(prefix, _)| prefix)
    }

    /// Whether the text is one it stands for.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((prefix, rest)) = self.0.split_once('*') else { return *self.0 == *text };
        let Some(mut text) = text.strip_prefix(prefix) else { return false };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The earliest place of each part leaves the most for those behind it.
        for part in middle.split('*') {
            match text.find(part) {
                Some(at) => text = &text[at + part.len()..],
                None => return false,
            }
        }
        text.ends_with(suffix)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl Value for Pattern {
    const SHAPE: &'static str = "name, with `*` for anything";

    fn read(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.message().to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_the_rest_for_itself() {
        for (pattern, good, bad) in [
            ("mail", &["mail"][..], &["mail.in", "e-mail", ""][..]),
            ("events.*", &["events.", "events.a", "events.a.b"], &["events", "my.events.a"]),
            ("*", &["", "anything.at.all"], &[]),
            ("*.nightly", &["a.nightly", ".nightly"], &["nightly", "a.nightly.b"]),
            ("a*b*c", &["abc", "a-b-c", "abcbc", "aXbYbZc"], &["ac", "acb", "abcd"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*ab*ab*", &["abab", "xabyabz"], &["ab", "aab"]),
            ("report?", &["report?"], &["reports"]),
            ("ü*é", &["üé", "ü✓é"], &["u", "ü"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            for text in good {
                assert!(pattern.matches(text) && text.starts_with(pattern.prefix()), "{pattern} {text}");
            }
            for text in bad {
                assert!(!pattern.matches(text), "{pattern} {text}");
            }
        }
        assert!(Pattern::new("**").unwrap().is_any() && !Pattern::new("*a").unwrap().is_any());
        for bad in ["", "a b", &"x".repeat(241)] {
            assert_eq!(Pattern::new(bad).unwrap_err().code(), ErrorCode::Validation);
        }
    }

    #[test]
    fn a_provider_has_a_name_that_a_variable_can_say() {
        for good in ["default", "bulk-2", "a_b"] {
            assert_eq!(ProviderName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "none", "Bulk", "a b", "a.b", "ü", &"x".repeat(65)] {
            assert_eq!(ProviderName::new(bad).unwrap_err().code(), ErrorCode::Config);
        }
    }
}
