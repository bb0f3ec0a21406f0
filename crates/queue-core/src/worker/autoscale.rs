//! How many slots a queue should have: pure, from what was seen to one step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    config::{defaults, millis},
    error::{Error, ErrorCode, Result},
};

/// How the slots of a queue follow its load; see [`super::WorkerBuilder::scale`].
///
/// The queue is looked at once an [`interval`](Self::interval). Slots are added while more than [`up_depth`](Self::up_depth)
/// jobs are ready, or the oldest of them waits longer than [`up_wait`](Self::up_wait). Idle ones are removed after
/// [`down_looks`](Self::down_looks) looks in a row found fewer than [`down_depth`](Self::down_depth), though not within
/// [`cooldown`](Self::cooldown) of the last addition, so that a load which comes and goes does not make the pool flap. Jobs that
/// are parked or whose time has not come count for nothing; while the queue is paused nothing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Scaling {
    /// Never fewer slots than these; at least 1.
    pub min: usize,
    /// Never more.
    pub max: usize,
    /// So many at the start.
    pub initial: usize,
    /// Whether they follow the load at all; else they stay as at the start, and nothing is asked of the provider.
    pub auto: bool,
    /// Add slots while more jobs than these are ready.
    pub up_depth: u64,
    /// So many at a time.
    pub up_step: usize,
    /// Add slots while the oldest ready job waits longer than this; `None`: waits do not matter.
    #[serde(with = "millis::option")]
    pub up_wait: Option<Duration>,
    /// Remove slots while fewer jobs than these are ready; at most `up_depth`.
    pub down_depth: u64,
    /// So many at a time.
    pub down_step: usize,
    /// After so many looks in a row that found fewer; at least 1.
    pub down_looks: u32,
    /// No slot is removed for so long after some were added.
    #[serde(with = "millis")]
    pub cooldown: Duration,
    /// How often the queue is looked at.
    #[serde(with = "millis")]
    pub interval: Duration,
}

impl Scaling {
    /// From `min` to `max` slots, `min` at the start, and the defaults for the rest.
    #[must_use]
    pub fn new(min: usize, max: usize) -> Self {
        Self { min, max, initial: min, ..Self::default() }
    }

    /// For a developer's machine: 2 slots that stay 2 (1 to 5 once [`auto`](Self::auto) is set).
    #[must_use]
    pub fn dev() -> Self {
        Self { min: 1, max: 5, initial: 2, auto: false, ..Self::default() }
    }

    /// For little traffic: 5 to 20 slots, 10 at the start; up above 50 ready jobs, down below 5.
    #[must_use]
    pub fn low_traffic() -> Self {
        Self { min: 5, max: 20, initial: 10, up_depth: 50, down_depth: 5, ..Self::default() }
    }

    /// For much traffic: 10 to 50 slots, 20 at the start; up by 5 above 100 ready jobs, down by 2 below 10.
    #[must_use]
    pub fn high_traffic() -> Self {
        Self { min: 10, max: 50, initial: 20, up_step: 5, down_step: 2, ..Self::default() }
    }

    /// Always so many slots.
    pub(super) fn fixed(slots: usize) -> Self {
        Self { min: slots, max: slots, initial: slots, auto: false, ..Self::default() }
    }

    /// Whether there is anything to decide.
    pub(super) fn is_fixed(&self) -> bool {
        !self.auto || self.min == self.max
    }

    /// What a pool may grow to.
    pub(super) fn most(&self) -> usize {
        if self.is_fixed() { self.initial } else { self.max }
    }

    /// Whether it can be followed.
    ///
    /// # Errors
    /// `CONFIG`, naming the field.
    pub fn check(&self) -> Result<()> {
        match self.fault() {
            Some((field, why)) => Err(Error::new(ErrorCode::Config, format!("scaling.{field}: {why}")).at("worker")),
            None => Ok(()),
        }
    }

    /// The field for which it cannot, and what it would have to be.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let wrong = [
            (self.min == 0, "min", "at least one slot"),
            (self.max < self.min, "max", "at least `min`"),
            (self.initial < self.min || self.initial > self.max, "initial", "from `min` to `max`"),
            (self.up_step == 0, "up_step", "at least 1"),
            (self.down_step == 0, "down_step", "at least 1"),
            (self.down_depth > self.up_depth, "down_depth", "at most `up_depth`, else the pool flaps"),
            (self.down_looks == 0, "down_looks", "at least 1"),
            (self.up_wait.is_some_and(|wait| wait.is_zero()), "up_wait", "longer than zero, or none"),
            (self.interval < SHORTEST_INTERVAL, "interval", "at least 10 ms"),
        ];
        wrong.into_iter().find_map(|(wrong, field, why)| wrong.then_some((field, why)))
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

impl Default for Scaling {
    /// 1 to 50 slots, 10 at the start; up by 2 above 100 ready jobs, down by 1 below 10.
    fn default() -> Self {
        Self {
            min: 1,
            max: 50,
            initial: 10,
            auto: true,
            up_depth: 100,
            up_step: 2,
            up_wait: Some(defaults::SCALE_UP_WAIT),
            down_depth: 10,
            down_step: 1,
            down_looks: 3,
            cooldown: defaults::SCALE_COOLDOWN,
            interval: defaults::SCALE_INTERVAL,
        }
    }
}

/// What a look at the queue and its slots found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// On the local monotonic clock.
    pub(super) now: Duration,
    /// Jobs that could be claimed.
    pub(super) ready: u64,
    /// How long the oldest of them has waited.
    pub(super) oldest: Option<Duration>,
    pub(super) paused: bool,
    pub(super) slots: usize,
    /// Of these, without a job.
    pub(super) idle: usize,
}

/// What former looks left behind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct History {
    /// Looks in a row that found too little.
    quiet: u32,
    /// When slots were added last.
    grown: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Stay,
    Up(usize),
    Down(usize),
}

impl History {
    /// A look that saw nothing: nobody knows whether the load is low.
    pub(super) fn blind(&mut self) {
        self.quiet = 0;
    }

    /// What to do now.
    pub(super) fn decide(&mut self, scaling: &Scaling, seen: &Seen) -> Step {
        if seen.paused {
            self.quiet = 0;
            return Step::Stay;
        }
        let waits = seen.ready > 0 && scaling.up_wait.zip(seen.oldest).is_some_and(|(most, oldest)| oldest > most);
        if seen.ready > scaling.up_depth || waits {
            self.quiet = 0;
            return match scaling.up_step.min(scaling.max.saturating_sub(seen.slots)) {
                0 => Step::Stay,
                more => {
                    self.grown = Some(seen.now);
                    Step::Up(more)
                }
            };
        }
        if seen.ready >= scaling.down_depth {
            self.quiet = 0;
            return Step::Stay;
        }
        self.quiet = self.quiet.saturating_add(1);
        let warm = self.grown.is_some_and(|grown| seen.now.saturating_sub(grown) < scaling.cooldown);
        if self.quiet < scaling.down_looks || warm {
            return Step::Stay;
        }
        match scaling.down_step.min(seen.slots.saturating_sub(scaling.min)).min(seen.idle) {
            0 => Step::Stay,
            fewer => Step::Down(fewer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// As the documents say it, and waits of more than 60 s.
    fn scaling() -> Scaling {
        Scaling { min: 2, max: 9, initial: 4, up_wait: Some(secs(60)), ..Scaling::default() }
    }

    /// A look at ready jobs, at slots, and at how many of these are idle, 5 s after the last.
    fn look(number: u64, ready: u64, slots: usize, idle: usize) -> Seen {
        Seen { now: secs(1_000 + number * 5), ready, oldest: None, paused: false, slots, idle }
    }

    #[test]
    fn one_look_at_much_is_enough_to_grow() {
        let waited = |ready, seconds, slots| Seen { oldest: Some(secs(seconds)), ..look(0, ready, slots, 0) };
        let table = [
            (look(0, 100, 4, 0), Step::Stay),
            (look(0, 101, 4, 0), Step::Up(2)),
            (look(0, 1_000_000, 4, 4), Step::Up(2)),
            (look(0, 101, 8, 0), Step::Up(1)),
            (look(0, 101, 9, 0), Step::Stay),
            (look(0, 101, 10, 0), Step::Stay),
            (Seen { paused: true, ..look(0, 101, 4, 0) }, Step::Stay),
            (waited(1, 60, 4), Step::Stay),
            (waited(1, 61, 4), Step::Up(2)),
            (waited(1, 61, 9), Step::Stay),
            // What waits is parked.
            (waited(0, 61, 4), Step::Stay),
        ];
        for (seen, step) in table {
            assert_eq!(History::default().decide(&scaling(), &seen), step, "{seen:?}");
        }
        let no_waits = Scaling { up_wait: None, ..scaling() };
        assert_eq!(History::default().decide(&no_waits, &waited(1, 9_999, 4)), Step::Stay);
    }

    #[test]
    fn only_looks_in_a_row_shrink_it_and_only_by_idle_slots_down_to_the_least() {
        let run = |scaling: Scaling, looks: &[Seen]| {
            let mut history = History::default();
            looks.iter().map(|seen| history.decide(&scaling, seen)).collect::<Vec<_>>()
        };
        use Step::{Down, Stay};
        let quiet = |number| look(number, 9, 4, 4);
        assert_eq!(run(scaling(), &[quiet(1), quiet(2), quiet(3), quiet(4)]), [Stay, Stay, Down(1), Down(1)]);
        let not_quiet = look(3, 10, 4, 4);
        let broken = [quiet(1), quiet(2), not_quiet, quiet(4), quiet(5), quiet(6)];
        assert_eq!(run(scaling(), &broken), [Stay, Stay, Stay, Stay, Stay, Down(1)]);
        let paused = Seen { paused: true, ..quiet(3) };
        let held_back = [quiet(1), quiet(2), paused, quiet(4), quiet(5), quiet(6)];
        assert_eq!(run(scaling(), &held_back), [Stay, Stay, Stay, Stay, Stay, Down(1)]);

        let at_once = Scaling { down_looks: 1, down_step: 3, ..scaling() };
        for (slots, idle, step) in [(9, 9, Down(3)), (9, 2, Down(2)), (9, 0, Stay), (4, 4, Down(2)), (2, 2, Stay)] {
            assert_eq!(run(at_once, &[look(1, 0, slots, idle)]), [step], "{idle} of {slots} idle");
        }
        // More than it may have: a neighbour died while it was replaced.
        assert_eq!(run(at_once, &[look(1, 0, 1, 1)]), [Stay]);
    }

    #[test]
    fn nothing_is_removed_soon_after_something_was_added() {
        let scaling = Scaling { down_looks: 1, cooldown: secs(30), ..scaling() };
        let mut history = History::default();
        assert_eq!(history.decide(&scaling, &look(0, 101, 4, 0)), Step::Up(2));
        for number in 1..6 {
            assert_eq!(history.decide(&scaling, &look(number, 0, 6, 6)), Step::Stay, "after {} s", number * 5);
        }
        assert_eq!(history.decide(&scaling, &look(6, 0, 6, 6)), Step::Down(1));
    }

    #[test]
    fn a_look_that_saw_nothing_is_no_sign_of_quiet() {
        let mut history = History::default();
        for number in 0..20 {
            assert_eq!(history.decide(&scaling(), &look(number, 0, 4, 4)), Step::Stay);
            if number % 2 == 1 {
                history.blind();
            }
        }
    }

    #[test]
    fn presets_and_defaults_are_sound_and_what_is_not_names_its_field() {
        for scaling in [Scaling::default(), Scaling::new(1, 1), Scaling::dev(), Scaling::low_traffic()] {
            scaling.check().unwrap();
        }
        Scaling::high_traffic().check().unwrap();
        assert!(Scaling::dev().is_fixed() && Scaling::fixed(7).is_fixed() && !Scaling::low_traffic().is_fixed());
        assert_eq!((Scaling::dev().most(), Scaling::low_traffic().most()), (2, 20));
        let wrong = |field: &str, change: fn(&mut Scaling)| {
            let mut scaling = Scaling::default();
            change(&mut scaling);
            let error = scaling.check().unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config);
            assert!(error.message().starts_with(&format!("scaling.{field}:")), "{error}");
        };
        wrong("min", |scaling| scaling.min = 0);
        wrong("max", |scaling| (scaling.min, scaling.max) = (3, 2));
        wrong("initial", |scaling| scaling.initial = 51);
        wrong("initial", |scaling| (scaling.min, scaling.initial) = (2, 1));
        wrong("up_step", |scaling| scaling.up_step = 0);
        wrong("down_step", |scaling| scaling.down_step = 0);
        wrong("down_depth", |scaling| scaling.down_depth = 101);
        wrong("down_looks", |scaling| scaling.down_looks = 0);
        wrong("up_wait", |scaling| scaling.up_wait = Some(Duration::ZERO));
        wrong("interval", |scaling| scaling.interval = Duration::from_millis(9));
    }
}
