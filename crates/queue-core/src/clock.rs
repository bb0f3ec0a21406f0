//! Time and randomness, as inputs.
//!
//! Everything in this workspace reads the clock and draws random numbers through an [`Env`], so that a test can run a day
//! in a millisecond and replay what it saw. Only this file may touch the system's clock.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;

use crate::job::Timestamp;

/// The source of time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall-clock time, for what people and other machines see. May jump.
    fn now(&self) -> Timestamp {
        self.read().0
    }

    /// Both times at once: reading a clock is what a small operation pays most for.
    fn read(&self) -> (Timestamp, Duration);

    /// Time since an arbitrary start, for leases and timeouts. Never goes back. It must advance together with
    /// `tokio::time`, on which everything sleeps.
    fn monotonic(&self) -> Duration;
}

/// The source of randomness: ids and jitter. Not for secrets.
pub trait Random: Debug + Send + Sync + 'static {
    /// 64 uniform bits.
    fn next_u64(&self) -> u64;

    /// Uniform in `0.0..1.0`, with the 53 bits a double holds.
    fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The time and randomness that a scheduler, a worker and an in-process provider share.
#[derive(Debug, Clone)]
pub struct Env {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The random numbers.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The real clock and the operating system's randomness.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock::new()), random: Arc::new(SystemRandom) }
    }

    /// A clock that starts at `start` and follows `tokio::time` (so a paused runtime pauses it), with random numbers
    /// drawn from `seed`. Must be called inside the runtime it follows.
    #[must_use]
    pub fn seeded(start: Timestamp, seed: u64) -> Self {
        Self { clock: Arc::new(TokioClock::new(start)), random: Arc::new(SeededRandom::new(seed)) }
    }

    /// Wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::system()
    }
}

/// The machine's clock.
///
/// Wall-clock time is monotonic time plus an offset that is read anew every second, so that one system call gives both; a
/// jump of the wall clock shows within that second.
#[derive(Debug)]
pub struct SystemClock {
    start: tokio::time::Instant,
    /// Wall-clock milliseconds at monotonic zero, and the monotonic second in which that was read.
    offset: AtomicU64,
    read_in: AtomicU64,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        let start = tokio::time::Instant::now();
        Self { start, offset: AtomicU64::new(wall_millis()), read_in: AtomicU64::new(0) }
    }

    fn offset(&self, since_start: Duration) -> u64 {
        let second = since_start.as_secs();
        if self.read_in.load(Ordering::Relaxed) != second {
            let offset = wall_millis().saturating_sub(millis(since_start));
            self.offset.store(offset, Ordering::Relaxed);
            self.read_in.store(second, Ordering::Relaxed);
        }
        self.offset.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_millis() -> u64 {
    millis(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn read(&self) -> (Timestamp, Duration) {
        let since_start = self.monotonic();
        (Timestamp::from_millis(self.offset(since_start) + millis(since_start)), since_start)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that only moves with `tokio::time`.
#[derive(Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
    wall: Timestamp,
}

impl TokioClock {
    /// A clock that shows `wall` now.
    #[must_use]
    pub fn new(wall: Timestamp) -> Self {
        Self { start: tokio::time::Instant::now(), wall }
    }
}

impl Clock for TokioClock {
    fn read(&self) -> (Timestamp, Duration) {
        let since_start = self.start.elapsed();
        (self.wall + since_start, since_start)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A generator that the operating system seeds, one a thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[allow(clippy::disallowed_methods, reason = "the one place that draws from the system")]
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same seed, from any thread.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seeded_env_follows_paused_time_and_replays() {
        let env = Env::seeded(Timestamp::from_millis(1_000), 7);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(env.now(), Timestamp::from_millis(3_601_000));
        assert_eq!(env.clock.monotonic(), Duration::from_secs(3_600));

        let draw = |random: &dyn Random| (0..4).map(|_| random.next_u64()).collect::<Vec<_>>();
        assert_eq!(draw(&SeededRandom::new(7)), draw(&SeededRandom::new(7)));
        assert_ne!(draw(&SeededRandom::new(7)), draw(&SeededRandom::new(8)));
        // The reference sequence for seed 0, so that a replay survives a change of this file.
        assert_eq!(SeededRandom::new(0).next_u64(), 0xE220_A839_7B1D_CDAF);
    }

    #[tokio::test]
    async fn the_system_clock_shows_the_wall_clock() {
        let clock = SystemClock::new();
        let off = |clock: &SystemClock| clock.now().as_millis().abs_diff(wall_millis());
        assert!(off(&clock) <= 2, "{} ms", off(&clock));
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert!(off(&clock) <= 2, "{} ms", off(&clock));
    }

    #[test]
    fn fractions_stay_below_one() {
        #[derive(Debug)]
        struct Ones;
        impl Random for Ones {
            fn next_u64(&self) -> u64 {
                u64::MAX
            }
        }
        assert!(Ones.fraction() < 1.0);
    }
}
