//! Many seeds, on every core.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::{
    run::{Outcome, simulate},
    world::World,
};

/// Which seeds, where.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// How many.
    pub seeds: u64,
    /// The first; the others follow.
    pub first: u64,
    /// Seeds take turns in these.
    pub worlds: Vec<Arc<dyn World>>,
    /// Stop at the first that fails.
    pub stop_at_first: bool,
    /// How many threads.
    pub threads: usize,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Tally {
    /// Seeds that were run.
    pub seeds: u64,
    /// Of these, by world.
    pub by_world: BTreeMap<&'static str, u64>,
    /// Those that failed, with their traces, by seed.
    pub failures: Vec<Outcome>,
    /// Virtual time of all seeds together, in seconds.
    pub virtual_secs: f64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worlds: Vec<String> = self.by_world.iter().map(|(world, seeds)| format!("{world} {seeds}")).collect();
        write!(
            f,
            "{} seeds ({}), {:.0} s of virtual time, {} failed",
            self.seeds,
            worlds.join(", "),
            self.virtual_secs,
            self.failures.len()
        )
    }
}

impl Campaign {
    /// As many seeds from `first` on, on all cores.
    #[must_use]
    pub fn new(worlds: Vec<Arc<dyn World>>, first: u64, seeds: u64) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { seeds, first, worlds, stop_at_first: false, threads }
    }

    /// The world of a seed.
    pub(super) fn world(&self, seed: u64) -> &Arc<dyn World> {
        &self.worlds[usize::try_from(seed % self.worlds.len() as u64).unwrap_or(0)]
    }

    /// Runs them. What fails is run again, with a trace; should it not fail again in the same way, that is a failure too: of
    /// the simulation.
    #[must_use]
    pub fn run(&self) -> Tally {
        if self.worlds.is_empty() {
            return Tally::default();
        }
        let next = AtomicU64::new(0);
        let halt = AtomicBool::new(false);
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.seeds || halt.load(Ordering::Relaxed) {
                            break;
                        }
                        let outcome = self.one(self.first.wrapping_add(number));
                        halt.fetch_or(!outcome.is_clean() && self.stop_at_first, Ordering::Relaxed);
                        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.seeds += 1;
                        tally.virtual_secs += outcome.virtual_time.as_secs_f64();
                        *tally.by_world.entry(outcome.world).or_default() += 1;
                        if !outcome.is_clean() {
                            tally.failures.push(outcome);
                        }
                    }
                });
            }
        });
        let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        tally.failures.sort_by_key(|outcome| outcome.seed);
        tally
    }

    fn one(&self, seed: u64) -> Outcome {
        let world = self.world(seed);
        let outcome = simulate(world, seed, false);
        if outcome.is_clean() {
            return outcome;
        }
        let mut again = simulate(world, seed, true);
        if again.digest != outcome.digest || again.wrongs != outcome.wrongs {
            again.wrongs.push("it did not replay: the first time it was".to_owned());
            again.wrongs.extend(outcome.wrongs);
        }
        again
    }
}
