//! What the soaks of all providers share: worker processes, producers, the judge, and what is shown of it.
//!
//! A soak brings its servers ([`blow::World`]), what it does to them ([`blow::Blow`]), and the phases in which it does so.
#![allow(dead_code, reason = "each soak uses a part of it")]

pub(crate) mod blow;
pub(crate) mod fleet;
pub(crate) mod judge;
pub(crate) mod leases;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod node;
pub(crate) mod phase;
pub(crate) mod producers;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod scene;
pub(crate) mod show;
pub(crate) mod stop;
mod tap;
pub(crate) mod worker;

pub(crate) use self::log::now;
