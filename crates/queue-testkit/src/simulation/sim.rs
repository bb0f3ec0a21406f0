//! What all parts of one run share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use queue_core::{Env, Timestamp, clock::SeededRandom};

use super::{
    clock::JumpingClock,
    dice::Dice,
    shadow::{At, Shadow},
    trace::Trace,
    weather::Weather,
};

/// One run: its seed, its time, its notes and its judge. A clone is the same run.
#[derive(Debug, Clone)]
pub struct Sim(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seed: u64,
    env: Env,
    clock: Arc<JumpingClock>,
    trace: Trace,
    shadow: Mutex<Shadow>,
    weather: Weather,
    storm: AtomicBool,
    away: AtomicBool,
    store_away: AtomicBool,
    lives: AtomicU64,
}

/// When every simulation begins: 2023-11-14.
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

impl Sim {
    pub(super) fn new(seed: u64, weather: Weather, shadow: Shadow, traced: bool) -> Self {
        let clock = Arc::new(JumpingClock::new(START));
        let random = Arc::new(SeededRandom::new(Dice::of(seed, "broker", 0).bits()));
        let env = Env { clock: Arc::clone(&clock) as Arc<dyn queue_core::Clock>, random };
        Self(Arc::new(Inner {
            seed,
            env,
            clock,
            trace: Trace::new(traced),
            shadow: Mutex::new(shadow),
            weather,
            storm: AtomicBool::new(true),
            away: AtomicBool::new(false),
            store_away: AtomicBool::new(false),
            lives: AtomicU64::new(0),
        }))
    }

    /// The seed of the run.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The time and randomness of the broker. Processes share its time and have randomness of their own.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.0.env
    }

    /// A stream of decisions of this run.
    #[must_use]
    pub fn dice(&self, name: &str, number: u64) -> Dice {
        Dice::of(self.0.seed, name, number)
    }

    pub(super) fn clock(&self) -> &JumpingClock {
        &self.0.clock
    }

    pub(super) fn weather(&self) -> &Weather {
        &self.0.weather
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// A number that no other life of this run has.
    pub(super) fn next_life(&self) -> u64 {
        self.0.lives.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether faults strike.
    pub(super) fn is_stormy(&self) -> bool {
        self.0.storm.load(Ordering::Relaxed)
    }

    pub(super) fn end_storm(&self) {
        self.0.storm.store(false, Ordering::Relaxed);
    }

    /// Whether nothing can be reached.
    pub(super) fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    pub(super) fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    /// Whether the store alone cannot be reached.
    pub(super) fn is_store_away(&self) -> bool {
        self.0.store_away.load(Ordering::Relaxed)
    }

    pub(super) fn set_store_away(&self, away: bool) {
        self.0.store_away.store(away, Ordering::Relaxed);
        self.judge(|shadow, at| shadow.store_is_away(at, away));
    }

    pub(super) fn note(&self, who: &str, code: u64, what: impl FnOnce() -> String) {
        self.0.trace.note(self.0.env.clock.monotonic(), who, code, what);
    }

    /// Tells the judge; what it finds wrong is noted at once.
    pub(super) fn judge<R>(&self, tell: impl FnOnce(&mut Shadow, At) -> R) -> R {
        let (wall, mono) = self.0.env.clock.read();
        let at = At { mono, wall, latest: self.0.clock.latest() };
        let mut shadow = self.0.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shadow.wrongs().len();
        let told = tell(&mut shadow, at);
        for wrong in &shadow.wrongs()[before..] {
            self.note("JUDGE", 666, || wrong.clone());
        }
        told
    }
}
