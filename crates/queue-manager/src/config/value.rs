//! Values as people write them: each key is one text, number or truth value, in a file and in a variable alike.

use std::{fmt, time::Duration};

use queue_core::{
    Priority,
    job::{Backoff, JobKind, SlaClass},
    provider::{Durability, ProviderUrl},
    queue_spec::{Order, Tracking},
};
use serde::{Deserializer, de};

use super::parse::{backoff, duration, size};

/// What a key can hold.
pub(crate) trait Value: Sized {
    /// How it is written, for the reference.
    const SHAPE: &'static str;

    /// Reads it. The error is a sentence that says what was expected, and repeats no secret.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes it as it would be read, without credentials.
    fn show(&self) -> String;
}

/// For `#[serde(deserialize_with)]`: takes a text, a number or a truth value and reads it as text.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Value>(deserializer: D) -> Result<T, D::Error> {
    struct Scalar;
    impl de::Visitor<'_> for Scalar {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one value")
        }
        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_f64<E>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_bool<E>(self, truth: bool) -> Result<String, E> {
            Ok(truth.to_string())
        }
    }
    let text = deserializer.deserialize_any(Scalar)?;
    T::read(text.trim()).map_err(de::Error::custom)
}

impl Value for Duration {
    const SHAPE: &'static str = "duration";

    fn read(text: &str) -> Result<Self, String> {
        duration(text)
    }

    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Size(pub u64);

impl Value for Size {
    const SHAPE: &'static str = "size";

    fn read(text: &str) -> Result<Self, String> {
        size(text).map(Self)
    }

    fn show(&self) -> String {
        match self.0 {
            bytes if bytes > 0 && bytes % (1 << 20) == 0 => format!("{}MiB", bytes >> 20),
            bytes if bytes > 0 && bytes % (1 << 10) == 0 => format!("{}KiB", bytes >> 10),
            bytes => bytes.to_string(),
        }
    }
}

macro_rules! number {
    ($type:ty, $shape:literal) => {
        impl Value for $type {
            const SHAPE: &'static str = $shape;

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("{text:?} is not {}", concat!("a ", $shape)))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    };
}

impl Value for bool {
    const SHAPE: &'static str = "`true` or `false`";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

number!(u32, "whole number");
number!(u64, "whole number");
number!(usize, "whole number");
number!(f64, "number");

/// `none`, or the value.
impl<T: Value> Value for Option<T> {
    const SHAPE: &'static str = T::SHAPE;

    fn read(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(None) } else { T::read(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Value::show)
    }
}

impl Value for ProviderUrl {
    const SHAPE: &'static str = "URL";

    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.message().to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Priority {
    const SHAPE: &'static str = "1 to 15, or `low`, `normal`, `high`, `urgent`";

    fn read(text: &str) -> Result<Self, String> {
        let named = match text {
            "low" => Some(Self::LOW),
            "normal" => Some(Self::NORMAL),
            "high" => Some(Self::HIGH),
            "urgent" => Some(Self::URGENT),
            _ => text.parse().ok().and_then(|level| Self::new(level).ok()),
        };
        named.ok_or_else(|| format!("{text:?} is not a priority; write 1 to 15, or low, normal, high, urgent"))
    }

    fn show(&self) -> String {
        self.level().to_string()
    }
}

impl Value for JobKind {
    const SHAPE: &'static str = "name";

    fn read(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.message().to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Tracking {
    const SHAPE: &'static str = "`full` or `off`";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "off" => Ok(Self::Off),
            _ => Err(format!("{text:?} is not a tracking; write full or off")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Full => "full".to_owned(),
            Self::Off => "off".to_owned(),
        }
    }
}

impl Value for SlaClass {
    const SHAPE: &'static str = "`urgent` (3s), `high` (10s), `medium` (30s) or `low` (60s)";

    fn read(text: &str) -> Result<Self, String> {
        let all = [Self::Urgent, Self::High, Self::Medium, Self::Low];
        let found = all.into_iter().find(|class| class.show() == text);
        found.ok_or_else(|| format!("{text:?} is not an SLA class; write urgent, high, medium or low"))
    }

    fn show(&self) -> String {
        match self {
            Self::Urgent => "urgent",
            Self::High => "high",
            Self::Medium => "medium",
            _ => "low",
        }
        .to_owned()
    }
}

impl Value for Order {
    const SHAPE: &'static str = "`strict` or `aged:DURATION`";

    fn read(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "strict" => Ok(Self::Strict),
            Some(("aged", bound)) => Ok(Self::Aged { bound: Duration::read(bound)? }),
            _ => Err(format!("{text:?} is not an order; write strict or aged:10m")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Aged { bound } => format!("aged:{}", bound.show()),
            _ => "strict".to_owned(),
        }
    }
}

impl Value for Backoff {
    const SHAPE: &'static str = "`none`, `fixed:DURATION`, `exp:SHORTEST..LONGEST` or `list:DURATION,…`";

    fn read(text: &str) -> Result<Self, String> {
        backoff(text)
    }

    fn show(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Fixed { base } => format!("fixed:{}", base.show()),
            Self::Exponential { base, cap, .. } => format!("exp:{}..{}", base.show(), cap.show()),
            Self::Custom(delays) => {
                format!("list:{}", delays.iter().map(Value::show).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Value for Durability {
    const SHAPE: &'static str = "`relaxed`, `interval:DURATION`, `synced` or `replicated:COUNT:DURATION`";

    fn read(text: &str) -> Result<Self, String> {
        let shape =
            || format!("{text:?} is not a durability; write relaxed, interval:1s, synced or replicated:2:500ms");
        match text.split_once(':') {
            None if text == "relaxed" => Ok(Self::Relaxed),
            None if text == "synced" => Ok(Self::Synced),
            Some(("interval", every)) => Ok(Self::Interval(Duration::read(every)?)),
            Some(("replicated", rest)) => {
                let (replicas, timeout) = rest.split_once(':').ok_or_else(shape)?;
                let replicas = replicas.parse().map_err(|_| shape())?;
                Ok(Self::Replicated { replicas, timeout: Duration::read(timeout)? })
            }
            _ => Err(shape()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Interval(every) => format!("interval:{}", every.show()),
            Self::Replicated { replicas, timeout } => format!("replicated:{replicas}:{}", timeout.show()),
            Self::Relaxed | Self::Synced => self.as_str().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: Value + PartialEq + fmt::Debug>(texts: &[&str], bad: &[&str]) {
        for text in texts {
            assert_eq!(T::read(text).unwrap().show(), *text);
        }
        for text in bad {
            assert!(T::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        round::<Duration>(&["500ms", "2s", "1m 30s", "7days", "0s"], &["2", "-2s", "", "99y", "two"]);
        round::<Size>(&["0", "17", "64KiB", "1088KiB", "1MiB"], &["", "-1", "-1MiB", "1XiB"]);
        round::<Option<Duration>>(&["none", "2s"], &["None"]);
        round::<u64>(&["0", "18446744073709551615"], &["-1", "1.5", "many"]);
        round::<Priority>(&["1", "15"], &["0", "16", "-1", "HIGH"]);
        assert_eq!(Priority::read("urgent"), Ok(Priority::URGENT));
        round::<JobKind>(&["mail.send"], &["", "a b"]);
        round::<bool>(&["true", "false"], &["yes", "1", ""]);
        round::<SlaClass>(&["urgent", "high", "medium", "low"], &["", "LOW", "3s"]);
        round::<Tracking>(&["full", "off"], &["true"]);
        round::<Order>(&["strict", "aged:10m"], &["aged", "aged:", "fair"]);
        let bad = ["", "fixed", "fixed:2", "exp:1s", "exp:2s..1s", "list:", "linear:1s"];
        round::<Backoff>(&["none", "fixed:2s", "exp:1s..30s", "list:1s,10s"], &bad);
        let bad = ["", "interval", "replicated:2", "replicated:999:1s", "synced:1s"];
        round::<Durability>(&["relaxed", "interval:1s", "synced", "replicated:2:500ms"], &bad);
    }

    #[test]
    fn a_url_is_shown_without_credentials() {
        assert_eq!(ProviderUrl::read("redis://:hunter2@host").unwrap().show(), "redis://***@host");
        assert!(!ProviderUrl::read("hunter2").unwrap_err().contains("hunter2"));
    }
}
