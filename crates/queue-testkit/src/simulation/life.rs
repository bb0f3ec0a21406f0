//! One life of one process: from its start to its crash or its end.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use queue_core::{Env, clock::SeededRandom};
use tokio::sync::Notify;

use super::{Sim, dice::Dice, weather::Fate};

/// One life of one process. Everything that leaves the process passes a wire that belongs to it, and a dead one's wires are
/// never answered again.
#[derive(Debug, Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    sim: Sim,
    name: String,
    number: u64,
    env: Env,
    dice: Dice,
    calls: AtomicU64,
    doom: Option<Doom>,
    dead: AtomicBool,
    died: Notify,
    sever: Mutex<Option<Sever>>,
    full: Mutex<Option<Gauge>>,
}

type Sever = Box<dyn Fn() + Send>;
type Gauge = Box<dyn Fn() -> bool + Send>;

/// Which call is the last.
#[derive(Debug, Clone, Copy)]
struct Doom {
    call: u64,
    side: Side,
}

/// Of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// It has not left the process.
    Before,
    /// It was carried out, and the answer was not heard.
    After,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Life {
    pub(super) fn begin(sim: &Sim, process: &str, generation: u64) -> Self {
        let dice = sim.dice(process, generation);
        let weather = sim.weather();
        let doomed = dice.chance(weather.doomed) && sim.is_stormy();
        let side = if dice.chance(0.5) { Side::Before } else { Side::After };
        let call = dice.below(weather.last_call);
        let random = Arc::new(SeededRandom::new(dice.bits()));
        let inner = Inner {
            name: format!("{process}.{generation}"),
            number: sim.next_life(),
            env: Env { clock: Arc::clone(&sim.env().clock), random },
            dice,
            calls: AtomicU64::new(0),
            doom: doomed.then_some(Doom { call, side }),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            sever: Mutex::default(),
            full: Mutex::default(),
            sim: sim.clone(),
        };
        sim.note(&inner.name, 1, || "begins".to_owned());
        Self(Arc::new(inner))
    }

    /// The run it is part of.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.0.sim
    }

    /// The process and which life of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// No other life of the run has it.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// The shared time, and randomness of its own.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.0.env
    }

    pub(super) fn dice(&self) -> &Dice {
        &self.0.dice
    }

    /// What cuts its connections, as the operating system does for a process that is gone. Called once, at its end.
    pub fn on_death(&self, sever: impl Fn() + Send + 'static) {
        *self.0.sever.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(sever));
    }

    /// Where a layer keeps a bounded number of settlements for later: whether it has as many as it may. While it has, nothing
    /// may be given out.
    pub fn full_when(&self, full: impl Fn() -> bool + Send + 'static) {
        *self.0.full.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(full));
    }

    pub(super) fn is_full(&self) -> bool {
        let full = self.0.full.lock().unwrap_or_else(PoisonError::into_inner);
        full.as_ref().is_some_and(|full| full())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Acquire)
    }

    /// Ends it as `kill -9` does.
    pub(super) fn die(&self, how: &str) {
        if !self.0.dead.swap(true, Ordering::AcqRel) {
            self.0.sim.note(&self.0.name, 2, || format!("CRASHES {how}"));
            self.bury();
        }
    }

    /// It came to its end in good order. What it could not give back the end of its connections does.
    pub(super) fn exit(&self) {
        if !self.0.dead.swap(true, Ordering::AcqRel) {
            self.bury();
        }
    }

    fn bury(&self) {
        self.0.sim.judge(|shadow, at| shadow.life_ended(at, self.0.number));
        let sever = self.0.sever.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sever) = sever {
            sever();
        }
        self.0.died.notify_one();
    }

    /// Waits for its death.
    pub(super) async fn death(&self) {
        if !self.is_dead() {
            self.0.died.notified().await;
        }
    }

    /// The number of the next call.
    pub(super) fn next_call(&self) -> u64 {
        self.0.calls.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn fate(&self) -> Fate {
        if self.0.sim.is_stormy() { Fate::draw(&self.0.dice, self.0.sim.weather()) } else { Fate::PLAIN }
    }

    /// Passes one side of a call: who is dead, or dies here, never returns.
    pub(super) async fn pass(&self, call: u64, side: Side, what: &str) {
        let doomed = self.0.doom.is_some_and(|doom| doom.call == call && doom.side == side);
        if doomed && self.0.sim.is_stormy() {
            let side = if side == Side::Before { "before" } else { "after" };
            self.die(&format!("{side} call {call} ({what})"));
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
