//! How long a job may take from its submission to its completion.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::SlaClass;

impl SlaClass {
    /// How long a job of the class may take from its submission to its completion, delays it asked for included.
    #[must_use]
    pub const fn target(self) -> Duration {
        Duration::from_secs(match self {
            Self::Urgent => 3,
            Self::High => 10,
            Self::Medium => 30,
            Self::Low => 60,
        })
    }

    /// Whether a job that took so long kept to it.
    #[must_use]
    pub fn compliance(self, actual: Duration) -> SlaCompliance {
        SlaCompliance { met: actual <= self.target(), actual_ms: u64::try_from(actual.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Whether a job kept to its SLA class. On the wire: `{"met": true, "actualMs": 1234}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlaCompliance {
    /// It did.
    pub met: bool,
    /// From submission to completion, in milliseconds.
    pub actual_ms: u64,
}
