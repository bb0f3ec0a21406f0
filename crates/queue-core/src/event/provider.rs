//! Whether providers answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::job::Timestamp;

/// A provider, or the store that it is paired with, began to answer or ceased to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProviderEvent {
    /// When it was seen.
    pub at: Timestamp,
    /// Which: its name in the configuration.
    pub provider: Arc<str>,
    /// What was seen.
    pub to: ProviderStatus,
    /// What it answered, or that it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// Whether a provider answers, and the store that it is paired with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProviderStatus {
    /// It does.
    Up,
    /// It does not.
    Down,
    /// The store that it is paired with does not: publishing goes on, what runs goes on, nothing new is claimed.
    StoreAway,
    /// The store answers again.
    StoreBack,
}

impl ProviderEvent {
    /// An event.
    #[must_use]
    pub fn new(at: Timestamp, provider: Arc<str>, to: ProviderStatus, error: Option<String>) -> Self {
        Self { at, provider, to, error }
    }
}

impl ProviderStatus {
    /// The name on the wire of the live-event interfaces.
    #[must_use]
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Up => "provider:up",
            Self::Down => "provider:down",
            Self::StoreAway => "provider:store-away",
            Self::StoreBack => "provider:store-back",
        }
    }
}
