//! The whole system under a seed: processes, a broker, and everything that may go wrong between them.
//!
//! One seed is one run: a [`World`] opens a broker, and several processes submit, run, cancel and redrive jobs on it with the
//! real scheduler, worker and maintenance, each through a wire of its own. The wire draws from the seed what becomes of every
//! call: it is slow, stalls, does not arrive, arrives twice, is carried out and not answered; and at a numbered call the process
//! dies, before it or after. All that a process does to the world leaves it through a call, so that this is a crash at every
//! await point of the process, as far as anybody else can tell. Beside that the broker restarts, refuses and is away, and the
//! wall clock is set. Then the faults end, everything has to come to its end, and a judge that has seen every call compares the
//! provider with a plain model of what was asked of it: at each step, and in the end.
//!
//! Everything runs on one thread, in paused time, so a seed replays to the last letter. `docs/book/simulation.md` says how to
//! run it and how to read what it finds.
//!
//! ```
//! use std::sync::Arc;
//! use queue_testkit::simulation::{MemoryWorld, World, simulate};
//!
//! let world: Arc<dyn World> = Arc::new(MemoryWorld::new());
//! let outcome = simulate(&world, 7, false);
//! assert!(outcome.is_clean(), "{outcome}");
//! ```

mod bias;
mod campaign;
mod clock;
mod console;
mod dice;
mod life;
mod plan;
mod plants;
mod promises;
mod roles;
mod run;
mod script;
mod shadow;
mod sim;
mod trace;
mod weather;
mod wire;
mod witness;
mod words;
mod world;

pub use bias::{Bias, Climate};
pub use campaign::{Campaign, Tally};
pub use console::perform;
pub use dice::Dice;
pub use life::Life;
pub use plants::Weed;
pub use promises::Promises;
pub use run::{Outcome, simulate};
pub use sim::Sim;
pub use world::{Backend, Graft, MemoryWorld, ModelWorld, Plant, Soil, World, worlds};
