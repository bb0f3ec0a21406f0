//! Who is told when a queue needs a look.

mod filter;

pub use filter::EventFilter;
