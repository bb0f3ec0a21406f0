//! How bad it gets: which faults a seed brings, and how often.

use std::time::Duration;

use super::{bias::Climate, dice::Dice};

/// The chances of faults, drawn once a seed. Some seeds have none: what must hold exactly is best seen in the calm.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    /// A call that travels for some milliseconds, each way.
    pub(super) slow: f64,
    /// A call that travels for longer than leases last.
    pub(super) stall: f64,
    /// How long that is at most.
    pub(super) longest_stall: Duration,
    /// A request that does not arrive.
    pub(super) refused: f64,
    /// A call that is carried out and not answered.
    pub(super) lost: f64,
    /// A request that arrives twice.
    pub(super) twice: f64,
    /// The share of lives that end with a crash at a numbered call.
    pub(super) doomed: f64,
    /// How many calls a doomed life makes at most.
    pub(super) last_call: u64,
    /// Times without the broker, or without the store.
    pub(super) outages: u64,
    /// Restarts of the broker, in worlds whose broker can.
    pub(super) restarts: u64,
    /// Times at which the broker refuses the next publishes, those of successors and dead letters included.
    pub(super) refusals: u64,
    /// Jumps of the wall clock.
    pub(super) jumps: u64,
    /// Times without the store alone.
    pub(super) store_outages: u64,
    /// Times at which the transport loses what waits in it.
    pub(super) losses: u64,
    /// A queue is cut off for good.
    pub(super) cut: bool,
}

impl Weather {
    /// No faults at all.
    #[must_use]
    pub(super) fn calm() -> Self {
        Self {
            slow: 0.0,
            stall: 0.0,
            longest_stall: Duration::ZERO,
            refused: 0.0,
            lost: 0.0,
            twice: 0.0,
            doomed: 0.0,
            last_call: 0,
            outages: 0,
            restarts: 0,
            refusals: 0,
            jumps: 0,
            store_outages: 0,
            losses: 0,
            cut: false,
        }
    }

    /// Whether nothing goes wrong: no lease is lost then, whatever handlers do.
    #[must_use]
    pub(super) fn is_calm(&self) -> bool {
        self.stall + self.refused + self.lost + self.doomed == 0.0
            && self.outages + self.restarts + self.refusals + self.jumps + self.store_outages + self.losses == 0
            && !self.cut
    }

    /// The same in every seed, but for numbers.
    #[must_use]
    pub(super) fn of(climate: Climate, dice: &Dice, lease: Duration) -> Self {
        let longest_stall = lease * 2;
        match climate {
            Climate::Fair => Self { slow: 0.3, longest_stall, ..Self::calm() },
            Climate::Stalling => Self {
                slow: 0.5,
                stall: 0.08,
                longest_stall,
                refused: 0.06,
                lost: 0.08,
                twice: 0.05,
                refusals: dice.between(2, 6),
                ..Self::calm()
            },
            Climate::Stormy => Self::stormy(dice, longest_stall),
        }
    }

    fn stormy(dice: &Dice, longest_stall: Duration) -> Self {
        Self {
            slow: 0.5,
            stall: 0.03,
            longest_stall,
            refused: 0.06,
            lost: 0.08,
            twice: 0.08,
            doomed: 0.9,
            last_call: 120,
            outages: dice.below(3),
            restarts: dice.below(3),
            refusals: dice.below(4),
            jumps: dice.below(3),
            ..Self::calm()
        }
    }

    /// What a seed brings.
    #[must_use]
    pub(super) fn draw(dice: &Dice, lease: Duration) -> Self {
        let longest_stall = lease * 2;
        match dice.below(10) {
            0 => Self::calm(),
            1 | 2 => Self { slow: 0.3, longest_stall, ..Self::calm() },
            3..=5 => Self {
                slow: 0.3,
                stall: 0.005,
                longest_stall,
                refused: 0.02,
                lost: 0.03,
                twice: 0.03,
                doomed: 0.4,
                last_call: 250,
                outages: dice.below(2),
                restarts: dice.below(2),
                refusals: dice.below(3),
                jumps: dice.below(2),
                ..Self::calm()
            },
            _ => Self::stormy(dice, longest_stall),
        }
    }
}

/// How long something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lag {
    None,
    /// Others have their turn so often.
    Yield(u8),
    Sleep(Duration),
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    pub(super) before: Lag,
    pub(super) after: Lag,
    pub(super) refused: bool,
    pub(super) lost: bool,
    pub(super) twice: bool,
}

impl Fate {
    pub(super) const PLAIN: Self =
        Self { before: Lag::None, after: Lag::None, refused: false, lost: false, twice: false };

    pub(super) fn draw(dice: &Dice, weather: &Weather) -> Self {
        let lag = || {
            if dice.chance(weather.stall) {
                Lag::Sleep(dice.millis(100, weather.longest_stall.as_millis().try_into().unwrap_or(100)))
            } else if dice.chance(weather.slow) {
                Lag::Sleep(dice.millis(1, 60))
            } else {
                // Also in the calm: tasks interleave at every call.
                match dice.below(4) {
                    0 => Lag::Yield(1),
                    1 => Lag::Yield(2),
                    _ => Lag::None,
                }
            }
        };
        Self {
            before: lag(),
            after: lag(),
            refused: dice.chance(weather.refused),
            lost: dice.chance(weather.lost),
            twice: dice.chance(weather.twice),
        }
    }
}

impl Lag {
    pub(super) async fn pass(self) {
        match self {
            Self::None => {}
            Self::Yield(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Self::Sleep(time) => tokio::time::sleep(time).await,
        }
    }
}
