//! Everything that a seed decides, as streams of their own: what one part draws does not move what another part draws.

use std::time::Duration;

use queue_core::clock::{Random, SeededRandom};

/// One stream of decisions.
#[derive(Debug)]
pub struct Dice(SeededRandom);

impl Dice {
    /// The stream of a seed that goes by that name and number.
    #[must_use]
    pub fn of(seed: u64, name: &str, number: u64) -> Self {
        // FNV-1a: all it must do is to tell names apart, for ever in the same way.
        let named = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        let mixed = SeededRandom::new(seed ^ named.rotate_left(17) ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self(SeededRandom::new(mixed.next_u64()))
    }

    /// 64 uniform bits.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..n`; zero for zero.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.bits() % n }
    }

    /// Uniform in `low..=high`.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Whether something with this probability happens.
    #[must_use]
    pub fn chance(&self, probability: f64) -> bool {
        // Drawn also where it is certain, so that a change of weather does not move the rest of the stream.
        self.0.fraction() < probability
    }

    /// Whole milliseconds: timers count in them.
    #[must_use]
    pub fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// One of these; they must not be none.
    #[must_use]
    pub fn pick<T: Copy>(&self, all: &[T]) -> T {
        let at = usize::try_from(self.below(all.len() as u64)).unwrap_or(0);
        all[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_replay_and_are_told_apart() {
        let draw = |dice: Dice| (0..8).map(|_| dice.below(1_000)).collect::<Vec<_>>();
        assert_eq!(draw(Dice::of(7, "wire", 1)), draw(Dice::of(7, "wire", 1)));
        let others = [Dice::of(8, "wire", 1), Dice::of(7, "plan", 1), Dice::of(7, "wire", 2)];
        for other in others {
            assert_ne!(draw(Dice::of(7, "wire", 1)), draw(other));
        }
    }
}
