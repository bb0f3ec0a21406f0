//! What proves a provider.

pub mod models;
