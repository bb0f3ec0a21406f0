//! What proves a provider.

pub mod faults;
pub mod models;
pub mod testing;
