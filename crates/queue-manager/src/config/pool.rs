//! How worker pools grow and shrink, as a file says.

use std::time::Duration;

use queue_core::worker::Scaling;

use super::{positive, section::section, value::Value};

section! {
    /// How the slots of a worker follow the load of its queues, for queues that it works on by
    /// `worker().scale(queue, manager.scaling())`. What is `none` is as the preset has it; without a preset, as said below.
    PoolConfig {
        /// A set of values for the keys below, which win over it one by one. `dev`: 2 slots that stay 2. `low-traffic`: 5 to 20, 10
        /// at the start, up above 50 jobs, down below 5. `high-traffic`: 10 to 50, 20 at the start, up by 5 above 100 jobs, down by
        /// 2 below 10.
        preset: Option<PoolPreset> = None,
        /// Whether the slots follow the load at all; else they stay as at the start. Else `true`.
        auto: Option<bool> = None,
        /// Never fewer slots than these; else 1.
        #[validate(range(min = 1, max = 100_000, message = "between 1 and 100000"))]
        min: Option<usize> = None,
        /// Never more; else 50.
        #[validate(range(min = 1, max = 100_000, message = "between 1 and 100000"))]
        max: Option<usize> = None,
        /// So many at the start; else 10, within `min` and `max`.
        #[validate(range(min = 1, message = "at least 1"))]
        initial: Option<usize> = None,
        /// Slots are added while more jobs than these are ready; else 100.
        up_depth: Option<u64> = None,
        /// So many at a time; else 2.
        #[validate(range(min = 1, message = "at least 1"))]
        up_step: Option<usize> = None,
        /// Slots are added while the oldest ready job waits longer than this; else 10 s.
        #[validate(custom(function = "positive"))]
        up_wait: Option<Duration> = None,
        /// Slots are removed while fewer jobs than these are ready; else 10.
        down_depth: Option<u64> = None,
        /// So many at a time; else 1.
        #[validate(range(min = 1, message = "at least 1"))]
        down_step: Option<usize> = None,
        /// After so many looks in a row that found fewer; else 3.
        #[validate(range(min = 1, message = "at least 1"))]
        down_looks: Option<u32> = None,
        /// No slot is removed for so long after some were added; else 1 min.
        cooldown: Option<Duration> = None,
        /// How often the queue is looked at; else 5 s.
        #[validate(custom(function = "positive"))]
        interval: Option<Duration> = None,
        /// A slot that blocks its thread is reported within that time, and another takes its place. This key and the next hold for
        /// every worker.
        #[validate(custom(function = "positive"))]
        health_interval: Duration = Duration::from_secs(60),
        /// How long a slot may give no sign of life before it is taken for blocked; at most two thirds of `health_interval`.
        /// `none` is 30 s, or half of `health_interval` where that is less.
        #[validate(custom(function = "positive"))]
        heartbeat: Option<Duration> = None,
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
    /// What the preset and the keys over it come to.
    #[must_use]
    pub fn scaling(&self) -> Scaling {
        let mut scaling = match self.preset {
            None => Scaling::default(),
            Some(PoolPreset::Dev) => Scaling::dev(),
            Some(PoolPreset::LowTraffic) => Scaling::low_traffic(),
            Some(PoolPreset::HighTraffic) => Scaling::high_traffic(),
        };
        let set = |value: &mut usize, own: Option<usize>| *value = own.unwrap_or(*value);
        set(&mut scaling.min, self.min);
        // A bound that is given alone moves the other with it.
        scaling.max = self.max.unwrap_or(scaling.max.max(scaling.min));
        scaling.min = self.min.unwrap_or(scaling.min.min(scaling.max));
        scaling.initial = self.initial.unwrap_or(scaling.initial.clamp(scaling.min, scaling.max.max(scaling.min)));
        set(&mut scaling.up_step, self.up_step);
        set(&mut scaling.down_step, self.down_step);
        scaling.auto = self.auto.unwrap_or(scaling.auto);
        scaling.up_depth = self.up_depth.unwrap_or(scaling.up_depth.max(self.down_depth.unwrap_or(0)));
        scaling.down_depth = self.down_depth.unwrap_or(scaling.down_depth.min(scaling.up_depth));
        scaling.up_wait = self.up_wait.or(scaling.up_wait);
        scaling.down_looks = self.down_looks.unwrap_or(scaling.down_looks);
        scaling.cooldown = self.cooldown.unwrap_or(scaling.cooldown);
        scaling.interval = self.interval.unwrap_or(scaling.interval);
        scaling
    }

    /// What contradicts itself, by itself or with the preset.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        let preset = self.preset.map(|preset| preset.show());
        let beside = preset.map(|name| format!(" (of the preset `{name}`, where `pool` does not give it)"));
        let own = self.own_contradiction().map(|(key, why)| (key, why.to_owned()));
        // What is left unsaid fits whatever is said, so the field at fault is a key that was given.
        own.or_else(|| {
            let (key, why) = self.scaling().fault()?;
            Some((key, format!("it must be {why}{}", beside.unwrap_or_default())))
        })
    }

    /// Of the keys that are given, whatever the preset.
    fn own_contradiction(&self) -> Option<(&'static str, &'static str)> {
        let above = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a > b);
        let wide = |slots: Option<usize>| slots.map(|slots| slots as u64);
        let (min, max, initial) = (wide(self.min), wide(self.max), wide(self.initial));
        if above(min, max) {
            Some(("min", "it must be at most `pool.max`"))
        } else if above(min, initial) || above(initial, max) {
            Some(("initial", "it must be between `pool.min` and `pool.max`"))
        } else if above(self.down_depth, self.up_depth) {
            Some(("down_depth", "it must be at most `pool.up_depth`, or the pool would swing"))
        } else if self.heartbeat.is_some_and(|beat| beat.saturating_mul(3) > self.health_interval.saturating_mul(2)) {
            Some(("heartbeat", "it must be at most two thirds of `pool.health_interval`"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_win_over_the_preset_and_whatever_is_given_alone_fits() {
        assert_eq!(PoolConfig::default().scaling(), Scaling::default());
        let preset = |preset| PoolConfig { preset: Some(preset), ..PoolConfig::default() };
        assert_eq!(preset(PoolPreset::Dev).scaling(), Scaling::dev());
        assert_eq!(preset(PoolPreset::LowTraffic).scaling(), Scaling::low_traffic());
        let high = PoolConfig { up_step: Some(7), auto: Some(false), ..preset(PoolPreset::HighTraffic) }.scaling();
        assert_eq!((high.min, high.max, high.up_step, high.down_step, high.auto), (10, 50, 7, 2, false));
        let of = |change: fn(&mut PoolConfig)| {
            let mut pool = PoolConfig::default();
            change(&mut pool);
            pool.scaling()
        };
        for scaling in [
            of(|pool| pool.min = Some(60)),
            of(|pool| pool.max = Some(4)),
            of(|pool| pool.initial = Some(50)),
            of(|pool| pool.down_depth = Some(500)),
            of(|pool| pool.up_depth = Some(3)),
        ] {
            scaling.check().unwrap();
        }
        assert_eq!(of(|pool| pool.max = Some(4)).initial, 4);
    }

    #[test]
    fn a_pool_does_not_contradict_itself() {
        let pool = PoolConfig::default();
        assert_eq!(pool.contradiction(), None);
        let seconds = Duration::from_secs;
        for (bad, key) in [
            (PoolConfig { min: Some(3), max: Some(2), ..pool.clone() }, "min"),
            (PoolConfig { initial: Some(3), max: Some(2), ..pool.clone() }, "initial"),
            (PoolConfig { initial: Some(3), min: Some(4), ..pool.clone() }, "initial"),
            (PoolConfig { down_depth: Some(6), up_depth: Some(5), ..pool.clone() }, "down_depth"),
            (PoolConfig { heartbeat: Some(seconds(41)), ..pool.clone() }, "heartbeat"),
            (PoolConfig { initial: Some(51), ..pool.clone() }, "initial"),
            (PoolConfig { initial: Some(9), preset: Some(PoolPreset::HighTraffic), ..pool.clone() }, "initial"),
            (PoolConfig { initial: Some(6), preset: Some(PoolPreset::Dev), ..pool.clone() }, "initial"),
            (PoolConfig { interval: Some(Duration::from_millis(9)), ..pool.clone() }, "interval"),
        ] {
            assert_eq!(bad.contradiction().unwrap().0, key);
        }
        let good = PoolConfig {
            min: Some(2),
            initial: Some(2),
            max: Some(2),
            down_depth: Some(5),
            up_depth: Some(5),
            heartbeat: Some(seconds(40)),
            ..pool
        };
        assert_eq!(good.contradiction(), None);
    }
}
