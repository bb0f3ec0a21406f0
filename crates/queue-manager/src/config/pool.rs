//! How worker pools grow and shrink, as a file says.

use std::time::Duration;

use super::{positive, section::section, value::Value};

section! {
    /// How many slots a worker has for each of its queues, and when it adds and removes some. Where nothing here is said, a worker
    /// has as many as the program asks for. What is `none` is as the preset has it, else as said below.
    PoolConfig {
        /// A set of values for the keys below, which win over it one by one.
        preset: Option<PoolPreset> = None,
        /// Never fewer slots than this; else 1.
        #[validate(range(min = 1, message = "at least 1"))]
        min: Option<usize> = None,
        /// Never more; else what the program asks for.
        #[validate(range(min = 1, max = 100_000, message = "between 1 and 100000"))]
        max: Option<usize> = None,
        /// So many in the beginning; else `min`.
        #[validate(range(min = 1, message = "at least 1"))]
        initial: Option<usize> = None,
        /// Slots are added when so many jobs wait; else 100.
        #[validate(range(min = 1, message = "at least 1"))]
        up_at: Option<u64> = None,
        /// Slots are added when the oldest waiting job has waited that long, however few there are.
        #[validate(custom(function = "positive"))]
        up_after: Option<Duration> = None,
        /// So many at a time; else 2.
        #[validate(range(min = 1, message = "at least 1"))]
        up_by: Option<usize> = None,
        /// Idle slots are removed when no more jobs wait than this; else 10.
        down_at: Option<u64> = None,
        /// So many at a time; else 1.
        #[validate(range(min = 1, message = "at least 1"))]
        down_by: Option<usize> = None,
        /// How often slots that do not answer are looked for and replaced.
        #[validate(custom(function = "positive"))]
        health_interval: Duration = Duration::from_secs(60),
        /// A slot that gives no sign of life for so long does not answer.
        #[validate(custom(function = "positive"))]
        heartbeat: Duration = Duration::from_secs(30),
    }
}

/// Values of a pool that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolPreset {
    /// A programmer's machine.
    Dev,
    /// A service with little to do.
    LowTraffic,
    /// A service with much to do.
    HighTraffic,
}

impl Value for PoolPreset {
    const SHAPE: &'static str = "`dev`, `low-traffic` or `high-traffic`";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "dev" => Ok(Self::Dev),
            "low-traffic" => Ok(Self::LowTraffic),
            "high-traffic" => Ok(Self::HighTraffic),
            _ => Err(format!("{text:?} is not a preset; write dev, low-traffic or high-traffic")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Dev => "dev",
            Self::LowTraffic => "low-traffic",
            Self::HighTraffic => "high-traffic",
        }
        .to_owned()
    }
}

impl PoolConfig {
    /// What contradicts itself.
    pub(super) fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        let above = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a > b);
        let wide = |slots: Option<usize>| slots.map(|slots| slots as u64);
        let (min, max, initial) = (wide(self.min), wide(self.max), wide(self.initial));
        if above(min, max) {
            Some(("min", "it must be at most `pool.max`"))
        } else if above(min, initial) || above(initial, max) {
            Some(("initial", "it must be between `pool.min` and `pool.max`"))
        } else if above(self.down_at.map(|at| at.saturating_add(1)), self.up_at) {
            Some(("down_at", "it must be below `pool.up_at`, or the pool would swing"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_does_not_contradict_itself() {
        let pool = PoolConfig::default();
        assert_eq!(pool.contradiction(), None);
        for (bad, key) in [
            (PoolConfig { min: Some(3), max: Some(2), ..pool.clone() }, "min"),
            (PoolConfig { initial: Some(3), max: Some(2), ..pool.clone() }, "initial"),
            (PoolConfig { initial: Some(3), min: Some(4), ..pool.clone() }, "initial"),
            (PoolConfig { down_at: Some(5), up_at: Some(5), ..pool.clone() }, "down_at"),
        ] {
            assert_eq!(bad.contradiction().unwrap().0, key);
        }
        let good =
            PoolConfig { min: Some(2), initial: Some(2), max: Some(2), down_at: Some(4), up_at: Some(5), ..pool };
        assert_eq!(good.contradiction(), None);
    }
}
