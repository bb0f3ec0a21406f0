//! The whole system under a seed: processes, a broker, and everything that may go wrong between them.
mod campaign;
mod clock;
mod console;
mod dice;
mod life;
mod plan;
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

pub use campaign::{Campaign, Tally};
pub use console::perform;
pub use dice::Dice;
pub use life::Life;
pub use promises::Promises;
pub use run::{Outcome, simulate};
pub use sim::Sim;
pub use world::{Backend, Graft, MemoryWorld, ModelWorld, Plant, Soil, World, worlds};
