//! Who is told when a queue needs a look.

mod condition;
mod filter;
mod judge;
mod rules;
mod window;

pub use filter::EventFilter;
