//! Something that begins, lasts and clears, and is told once.

use std::time::Duration;

/// Where a number is against its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Beyond it.
    Over,
    /// Not beyond it any more, and not far enough below to say that it is over.
    Between,
    /// Far enough below.
    Under,
}

impl Level {
    /// The number clears at `clear_at` of the threshold, a share: so one that swings around the threshold is told once.
    #[allow(clippy::cast_precision_loss, reason = "thresholds are far below 2^53")]
    pub(super) fn of(value: u64, threshold: u64, clear_at: f64) -> Self {
        if value > threshold {
            Self::Over
        } else if value as f64 <= threshold as f64 * clear_at {
            Self::Under
        } else {
            Self::Between
        }
    }
}

/// See [`Condition::change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// To be told: it begins, or has lasted long enough to be told again.
    Tell,
    /// It was told, and is over.
    Clear,
    /// Nothing to say.
    None,
}

/// Whether it was told, and when.
#[derive(Debug, Default)]
pub(super) struct Condition {
    told: Option<Duration>,
}

impl Condition {
    /// Whether it would be told, were it over.
    pub(super) fn asks(&self, now: Duration, repeat: Option<Duration>) -> bool {
        self.told.is_none_or(|told| repeat.is_some_and(|repeat| now.saturating_sub(told) >= repeat))
    }

    /// What is to be said, now that it is at this level.
    pub(super) fn change(&mut self, level: Level, now: Duration, repeat: Option<Duration>) -> Change {
        match (self.told, level) {
            (Some(_), Level::Under) => {
                self.told = None;
                Change::Clear
            }
            (None, Level::Over) => {
                self.told = Some(now);
                Change::Tell
            }
            (Some(_), Level::Over) if self.asks(now, repeat) => {
                self.told = Some(now);
                Change::Tell
            }
            _ => Change::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_is_told_when_it_begins_and_again_only_when_it_cleared() {
        let mut condition = Condition::default();
        let mut change = |value| condition.change(Level::of(value, 100, 0.8), Duration::ZERO, Some(HOUR));
        let seen = [0, 100, 101, 500, 90, 101, 81, 80, 101].map(&mut change);
        use Change::{Clear, None, Tell};
        assert_eq!(seen, [None, None, Tell, None, None, None, None, Clear, Tell]);
    }

    #[test]
    fn what_lasts_is_told_again_after_the_repeat_only_while_it_is_over() {
        let mut condition = Condition::default();
        let mut at = |hours: u32, level| condition.change(level, HOUR * hours, Some(2 * HOUR));
        assert_eq!(at(1, Level::Over), Change::Tell);
        assert_eq!(at(2, Level::Over), Change::None);
        assert_eq!(at(4, Level::Between), Change::None);
        assert_eq!(at(4, Level::Over), Change::Tell);
        assert_eq!(at(5, Level::Over), Change::None);
        let mut never = Condition::default();
        assert_eq!(never.change(Level::Over, Duration::ZERO, None), Change::Tell);
        assert_eq!(never.change(Level::Over, 1_000 * HOUR, None), Change::None);
    }

    #[test]
    fn a_threshold_of_zero_clears_at_zero() {
        assert_eq!(Level::of(1, 0, 0.8), Level::Over);
        assert_eq!(Level::of(0, 0, 0.8), Level::Under);
        assert_eq!(Level::of(0, 10, 0.0), Level::Under);
        assert_eq!(Level::of(10, 10, 1.0), Level::Under);
    }
}
