//! Who runs first.

use serde::{Deserialize, Serialize, de};

use crate::error::{Error, ErrorCode, Result};

/// 1 to 15; a higher one runs first.
///
/// Exact on memory and Redis; other brokers keep the four bands 1–4, 5–9, 10–14 and 15, as their capabilities say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The lowest level.
    pub const MIN: Self = Self(1);
    /// The highest level.
    pub const MAX: Self = Self(15);
    /// Background work.
    pub const LOW: Self = Self(1);
    /// The default.
    pub const NORMAL: Self = Self(5);
    /// Before the rest.
    pub const HIGH: Self = Self(10);
    /// Before everything; CRITICAL elsewhere.
    pub const URGENT: Self = Self(15);

    /// A level from 1 to 15.
    ///
    /// # Errors
    /// `VALIDATION` outside that range.
    pub fn new(level: u8) -> Result<Self> {
        match level {
            1..=15 => Ok(Self(level)),
            _ => Err(Error::new(ErrorCode::Validation, format!("priority {level} is not between 1 and 15"))),
        }
    }

    /// The level, 1 to 15.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }

    /// The band that stands for it where a broker has no exact levels: 0 (1–4), 1 (5–9), 2 (10–14), 3 (15).
    #[must_use]
    pub const fn band(self) -> u8 {
        match self.0 {
            0..=4 => 0,
            5..=9 => 1,
            10..=14 => 2,
            _ => 3,
        }
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::NORMAL
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Self::new(u8::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_bands() {
        let bands: Vec<u8> = (1..=15).map(|level| Priority::new(level).unwrap().band()).collect();
        assert_eq!(bands, [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]);
        assert!(Priority::new(0).is_err());
        assert!(Priority::new(16).is_err());
        assert!(serde_json::from_str::<Priority>("16").is_err());
        assert_eq!(serde_json::to_string(&Priority::HIGH).unwrap(), "10");
    }
}
