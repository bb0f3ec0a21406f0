//! What may be set, and why it is as it is by default.

use std::{sync::Arc, time::Duration};

use queue_core::config::defaults;

/// How a [`super::Tracked`] behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The provider's name in the store: several may share one. `None`: the transport's scheme. Processes that serve the same
    /// broker must agree on it, for each sweeps only what bears its name.
    pub name: Option<Arc<str>>,
    /// How long a staged job is left to its publisher before the sweep publishes it. Default: 30 s.
    pub stage_lease: Duration,
    /// A store that has not answered in that time is away. Default: 5 s.
    pub store_timeout: Duration,
    /// How often a store that is away is asked whether it is back. Default: 1 s.
    pub probe_every: Duration,
    /// The longest lease of any consumer of the store: dead leases are not swept until the store has answered for so long,
    /// for their holders could not say that they live. Default: 30 s.
    pub longest_lease: Duration,
    /// How many settlements wait for a store that is away, over all consumers; beyond that nothing is fetched. Default: 1,000.
    pub max_buffered: usize,
    /// How long a copy goes back for that may not run now, at most: a parked job's old copy is looked at again, and dropped once
    /// it is outdated. Default: 60 s.
    pub busy_at_most: Duration,
    /// How long a copy goes back for while the store does not answer, or when its worker lost it. Default: 1 s.
    pub release_delay: Duration,
    /// Whether a delayed retry is a change of visibility, where each message has its own lease and the delay is at most 15
    /// minutes: one call instead of two. It counts against what the broker allows to be in flight. Default: true.
    pub retry_in_place: bool,
    /// How long the transport must be found empty before what is pending is published again. Default: 60 s.
    pub reconcile_after: Duration,
    /// How many jobs one round of the sweep takes. Default: 500.
    pub sweep_batch: usize,
    /// How often the switches of a queue are read: a pause is obeyed after this. Default: 500 ms.
    pub control_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            stage_lease: defaults::STAGE_LEASE,
            store_timeout: Duration::from_secs(5),
            probe_every: Duration::from_secs(1),
            longest_lease: defaults::LEASE,
            max_buffered: 1_000,
            busy_at_most: Duration::from_secs(60),
            release_delay: Duration::from_secs(1),
            retry_in_place: true,
            reconcile_after: Duration::from_secs(60),
            sweep_batch: 500,
            control_every: Duration::from_millis(500),
        }
    }
}

/// The longest retry that is made in place.
pub(super) const IN_PLACE_AT_MOST: Duration = Duration::from_secs(15 * 60);
/// So that a copy which may not run never spins between the broker and this process.
pub(super) const BUSY_AT_LEAST: Duration = Duration::from_millis(50);
/// How often the lease of what waits for the store is extended: several times in the shortest lease.
pub(super) const EXTENSIONS_PER_LEASE: u32 = defaults::HEARTBEATS_PER_LEASE;
