//! What a world promises, and so what the judge may demand of it.

use std::time::Duration;

/// See each field. [`Promises::strict`] and [`Promises::bare`] are where worlds begin.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Promises {
    /// Jobs have records: they can be looked up, cancelled and told of, and unique keys are kept.
    pub records: bool,
    /// Every call is one step, carried out when it is answered. Otherwise what a dead process asked for last may or may not
    /// have happened, and a lease may end a little before or after the time the caller was told.
    pub atomic: bool,
    /// Jobs are claimed by priority, then first in, first out.
    pub ordered: bool,
    /// What a consumer holds may be taken away without a fault: others join and leave.
    pub rebalances: bool,
    /// Marked starts are counted exactly.
    pub counts_starts: bool,
    /// Publishing an id twice is one job.
    pub dedup: bool,
    /// A broker can be restarted.
    pub restarts: bool,
    /// A restart ends every lease: the broker is killed and knows what its disk knows. A refusal is its disk's.
    pub restart_ends_leases: bool,
    /// While a handler may believe in its lease, no other runs the same job. Not where the answer to a fetch travels beyond the
    /// provider: how long it took nobody there knows.
    pub exclusive: bool,
    /// Nothing goes wrong but that the store alone is away at times: what a process asked for while its lease stood is carried
    /// out, publishing goes on, and fetching does not.
    pub steady: bool,
    /// Nothing goes wrong, and nobody parks or redrives: each attempt is published once beneath a layer.
    pub thrifty: bool,
    /// A pause is obeyed within that time.
    pub pauses_within: Duration,
    /// How much earlier than a caller was told a lease may end.
    pub slack: Duration,
    /// An idle consumer gets what is due within that time.
    pub wakes_within: Duration,
}

impl Promises {
    /// All of it: a provider in which jobs and records change in one step.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            records: true,
            atomic: true,
            ordered: true,
            rebalances: false,
            counts_starts: true,
            dedup: true,
            restarts: false,
            restart_ends_leases: false,
            exclusive: false,
            steady: false,
            thrifty: false,
            pauses_within: Duration::ZERO,
            slack: Duration::ZERO,
            wakes_within: Duration::from_millis(1_500),
        }
    }

    /// A transport without records.
    #[must_use]
    pub fn bare() -> Self {
        Self {
            records: false,
            ordered: false,
            counts_starts: false,
            dedup: false,
            restarts: true,
            wakes_within: Duration::from_secs(15),
            ..Self::strict()
        }
    }

    /// A layer that pairs a transport with a store: many steps a call.
    #[must_use]
    pub fn layered() -> Self {
        Self {
            records: true,
            atomic: false,
            dedup: true,
            exclusive: true,
            // Longer than any stall: what the process was told may be that old.
            slack: Duration::from_secs(60),
            pauses_within: Duration::from_secs(30),
            wakes_within: Duration::from_secs(240),
            ..Self::bare()
        }
    }
}
