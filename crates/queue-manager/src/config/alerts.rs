//! When somebody is told, and how.

use std::{fmt, sync::Arc, time::Duration};

use queue_core::{QueueName, job::Backoff};
use url::Url;
use validator::ValidationError;

use super::{positive, queue::some_delays, section::section, value::Value};
use crate::alerts::EventFilter;

section! {
    /// When somebody is told that a queue needs a look. Each alert is told once when it begins, and again only when it has
    /// cleared in between, or still lasts after `repeat`. Every process that enables them tells its own: enable them in one.
    AlertsConfig {
        /// Whether the queues are watched.
        enabled: bool = false,
        /// How often the statistics are asked for: one call per provider.
        #[validate(custom(function = "positive"))]
        every: Duration = Duration::from_secs(10),
        /// How long an alert lasts before it is told again; `none` is never.
        #[validate(custom(function = "positive_or_none"))]
        repeat: Option<Duration> = Some(Duration::from_secs(3600)),
        /// An alert has cleared where its number has fallen to this share of the threshold.
        #[validate(range(min = 0.0, max = 1.0, message = "a share between 0.0 and 1.0"))]
        clear_at: f64 = 0.8,
        /// More waiting jobs (pending, scheduled, retrying) are a backlog; `none` is no such alert, here and below.
        backlog: Option<u64> = Some(10_000),
        /// More dead jobs are too many.
        dead_letters: Option<u64> = Some(100),
        /// More that die within `dead_letter_growth_within` are too many.
        dead_letter_growth: Option<u64> = Some(50),
        /// See `dead_letter_growth`.
        #[validate(custom(function = "positive"))]
        dead_letter_growth_within: Duration = Duration::from_secs(300),
        /// Jobs that have waited longer while nobody took one make the queue unhealthy.
        #[validate(custom(function = "positive_or_none"))]
        unhealthy_after: Option<Duration> = Some(Duration::from_secs(300)),
        /// More that are submitted within `flood_within` are a flood.
        flood: Option<u64> = None,
        /// See `flood`.
        #[validate(custom(function = "positive"))]
        flood_within: Duration = Duration::from_secs(60),
        /// Whether jobs that take longer than their SLA class allows are told. It listens to the events of all jobs.
        sla: bool = true,
        /// Without a late job for that long, the alert has cleared.
        #[validate(custom(function = "positive"))]
        sla_quiet: Duration = Duration::from_secs(60),
    }
    sections {
        /// Where they are posted.
        webhook: WebhookConfig,
    }
    named {
        /// What differs for single queues, by name.
        queues: QueueName => QueueAlertsConfig as "NAME",
    }
}

section! {
    /// What differs for the queue `NAME`, which need not be declared. What is left out is inherited from `[alerts]`.
    QueueAlertsConfig {
        /// As `alerts.backlog`.
        backlog: Override<Option<u64>> = Override::Inherit,
        /// As `alerts.dead_letters`.
        dead_letters: Override<Option<u64>> = Override::Inherit,
        /// As `alerts.dead_letter_growth`.
        dead_letter_growth: Override<Option<u64>> = Override::Inherit,
        /// As `alerts.dead_letter_growth_within`.
        #[validate(custom(function = "own_positive"))]
        dead_letter_growth_within: Override<Duration> = Override::Inherit,
        /// As `alerts.unhealthy_after`.
        #[validate(custom(function = "own_positive_or_none"))]
        unhealthy_after: Override<Option<Duration>> = Override::Inherit,
        /// As `alerts.flood`.
        flood: Override<Option<u64>> = Override::Inherit,
        /// As `alerts.flood_within`.
        #[validate(custom(function = "own_positive"))]
        flood_within: Override<Duration> = Override::Inherit,
        /// As `alerts.sla`.
        sla: Override<bool> = Override::Inherit,
    }
}

section! {
    /// Where events are posted as JSON. It needs the Cargo feature `webhook`, and `alerts.enabled`.
    WebhookConfig {
        /// An address of HTTP or HTTPS; `none` posts nothing. Shown as its origin only: the rest often holds a credential.
        url: Option<WebhookUrl> = None,
        /// Signs each request (HMAC-SHA256, as Standard Webhooks do). With `whsec_` in front it is read as base64. Never shown.
        secret: Option<Secret> = None,
        /// The `Authorization` header, such as `Bearer …`. Never shown.
        authorization: Option<Secret> = None,
        /// Which events: names separated by commas, a family as `alert:*`, everything as `*`.
        events: EventFilter = EventFilter::alerts(),
        /// How long one attempt may take.
        #[validate(custom(function = "positive"))]
        timeout: Duration = Duration::from_secs(5),
        /// How often one event is tried in all.
        #[validate(range(min = 1, message = "at least 1: it counts attempts"))]
        attempts: u32 = 5,
        /// How long to wait between attempts.
        #[validate(custom(function = "some_delays"))]
        backoff: Backoff = Backoff::Exponential {
            base: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_secs(30),
        },
        /// How many events may wait for it; beyond, the oldest are dropped and counted.
        #[validate(range(min = 1, message = "at least 1"))]
        buffer: usize = 1_000,
    }
}

fn positive_or_none(duration: &Option<Duration>) -> Result<(), ValidationError> {
    duration.as_ref().map_or(Ok(()), positive)
}

fn own_positive(own: &Override<Duration>) -> Result<(), ValidationError> {
    own.set().map_or(Ok(()), positive)
}

fn own_positive_or_none(own: &Override<Option<Duration>>) -> Result<(), ValidationError> {
    own.set().map_or(Ok(()), positive_or_none)
}

/// What a queue says for itself, or leaves to the section above it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Override<T> {
    /// The section above counts.
    #[default]
    Inherit,
    /// This counts.
    Set(T),
}

impl<T: Clone> Override<T> {
    /// What counts, if the section above says `inherited`.
    #[must_use]
    pub fn or(&self, inherited: &T) -> T {
        self.set().unwrap_or(inherited).clone()
    }

    fn set(&self) -> Option<&T> {
        match self {
            Self::Inherit => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<T: Value> Value for Override<T> {
    const SHAPE: &'static str = T::SHAPE;

    fn read(text: &str) -> Result<Self, String> {
        if text == "inherit" { Ok(Self::Inherit) } else { T::read(text).map(Self::Set) }
    }

    fn show(&self) -> String {
        match self {
            Self::Inherit => "inherit".to_owned(),
            Self::Set(value) => value.show(),
        }
    }
}

impl Value for EventFilter {
    const SHAPE: &'static str = "names of events";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: queue_core::Error| error.message().to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// An address to post to. Shown as its origin, for path and query of such addresses are often the credential.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

impl WebhookUrl {
    /// Checks and takes an address of HTTP or HTTPS.
    ///
    /// # Errors
    /// `CONFIG`; the message repeats nothing of the address.
    pub fn parse(text: impl AsRef<str>) -> queue_core::Result<Self> {
        Self::read(text.as_ref())
            .map_err(|message| queue_core::Error::new(queue_core::ErrorCode::Config, message).at("configure"))
    }

    /// The whole address, with whatever is secret in it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }
}

impl Value for WebhookUrl {
    const SHAPE: &'static str = "URL";

    fn read(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("this is not an address of HTTP: {error}"))?;
        match url.scheme() {
            "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
                Err("an address does not hold a name and password; write them as `authorization`".to_owned())
            }
            "http" | "https" => Ok(Self(url)),
            _ => Err("the address begins with http:// or https://".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = if self.0.path() == "/" && self.0.query().is_none() { "/" } else { "/***" };
        write!(f, "{}{hidden}", self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a text.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Value for Secret {
    const SHAPE: &'static str = "text";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a secret is not empty".to_owned()) } else { Ok(Self::new(text)) }
    }

    fn show(&self) -> String {
        "***".to_owned()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_wins_also_where_it_says_none() {
        let read = |text: &str| Override::<Option<u64>>::read(text).unwrap();
        assert_eq!(read("inherit").or(&Some(3)), Some(3));
        assert_eq!(read("none").or(&Some(3)), None);
        assert_eq!(read("5").or(&Some(3)), Some(5));
        assert!(Override::<Option<u64>>::read("many").is_err());
        assert_eq!((read("inherit").show(), read("none").show()), ("inherit".to_owned(), "none".to_owned()));
    }

    #[test]
    fn an_address_shows_its_origin_only() {
        for (text, shown) in [
            ("https://hooks.example/T0/hunter2", "https://hooks.example/***"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://h/?token=hunter2", "https://h/***"),
        ] {
            let url = WebhookUrl::read(text).unwrap();
            assert_eq!((url.show(), format!("{url:?}")), (shown.to_owned(), format!("\"{shown}\"")));
        }
        for bad in ["hunter2", "ftp://h/hunter2", "https://me:hunter2@h/", "https://", "file:///hunter2"] {
            let error = WebhookUrl::read(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
