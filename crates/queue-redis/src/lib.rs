//! The Redis provider: jobs, leases and records in one place, changed atomically by scripts.
//!
//! Every transition of a job is one script call, for a whole batch; the scripts are the readable files in `src/scripts`, and
//! what they keep stands at the top of `prelude.lua`. Needs Redis 7.0 or later.

mod admin;
mod client;
mod coalesce;
mod consumer;
mod events;
mod factory;
mod fault;
mod follow_ups;
mod indexes;
mod layout;
mod lead;
mod limiter;
mod link;
mod mend;
mod position;
mod print;
mod provider;
mod record;
mod scripts;
mod shards;
mod specs;
mod spool;
mod store;
mod tasks;
mod tracking;
mod upkeep;
mod wake;
mod walk;

pub use client::{
    Address, ClientEvent, ClientOptions, ClientStats, FailoverMode, Finding, Login, PoolOptions, RedisClusterClient,
    Role, Servers, Severity, Tls,
};
pub use factory::register;
pub use indexes::Index;
pub use provider::{RedisOptions, RedisProvider};
pub use spool::SpoolStatus;
pub use tracking::RedisTracking;

pub(crate) const SCHEME: &str = "redis";
