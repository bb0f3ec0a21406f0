//! What a world wants more of than its seeds bring. Some mistakes show only in company: a full buffer, a second thought, a
//! parked job. A world that is bent towards them shows in a few seeds what others show in thousands.

use std::time::Duration;

use queue_core::job::{Unique, UniqueKey};

use super::{dice::Dice, plan::Plan, weather::Weather};

/// See each field. By default a seed brings what it brings.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Bias {
    /// Always this weather.
    pub climate: Option<Climate>,
    /// How long leases last.
    pub lease: Option<Duration>,
    /// So many workers.
    pub workers: Option<u64>,
    /// So many processes that take jobs without a worker.
    pub hands: Option<u64>,
    /// So many processes that meddle.
    pub operators: Option<u64>,
    /// Every job that is not delayed has one of a few unique keys.
    pub keys: bool,
    /// Every queue has room for so many.
    pub room: Option<u64>,
    /// Jobs are tried so often, with so long a pause.
    pub tries: Option<(u32, Duration)>,
    /// The share of calls that take longer than leases.
    pub stall: Option<f64>,
    /// The share of requests that do not arrive.
    pub refused: Option<f64>,
    /// The share of answers that are lost.
    pub lost: Option<f64>,
    /// So often a broker refuses the next few publishes.
    pub refusals: Option<u64>,
    /// Who submits takes a refusal for an answer.
    pub takes_no: bool,
    /// Hands park most jobs, for so long. Whoever is still parked when nothing goes wrong any more is let go.
    pub parks: Option<Duration>,
    /// Hands change their minds before they are answered, mostly about jobs that they gave back.
    pub second_thoughts: bool,
    /// Follow-ups of hands are larger than any queue takes.
    pub oversized: bool,
    /// Follow-ups of hands do not say which store they belong to, as those of other clients.
    pub unstamped: bool,
    /// The store alone is away, at times.
    pub store_outages: bool,
    /// The transport loses what waits in it, at times.
    pub losses: bool,
    /// From some moment on the last queue cannot be reached by any message.
    pub cut: bool,
}

/// What weather there is in every seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Climate {
    /// Calls are slow, and nothing else.
    Fair,
    /// Calls stall, do not arrive and are not answered, and nobody dies.
    Stalling,
    /// Everything that may go wrong, and often.
    Stormy,
}

/// The largest job of a queue where some are too large.
pub(super) const LARGEST: usize = 4 << 10;
/// What a job is parked under.
pub(super) const PARKED_BY_HAND: &str = "hand";

impl Bias {
    /// Bends a plan. Draws from a stream of its own: what a seed brings beside it stays.
    pub(super) fn bend(&self, seed: u64, plan: &mut Plan) {
        let dice = Dice::of(seed, "bias", 0);
        plan.lease = self.lease.unwrap_or(plan.lease);
        plan.workers = self.workers.unwrap_or(plan.workers);
        plan.hands = self.hands.unwrap_or(plan.hands);
        plan.operators = self.operators.unwrap_or(plan.operators);
        if let Some(climate) = self.climate {
            plan.weather = Weather::of(climate, &dice, plan.lease);
        }
        plan.weather.stall = self.stall.unwrap_or(plan.weather.stall);
        plan.weather.refused = self.refused.unwrap_or(plan.weather.refused);
        plan.weather.lost = self.lost.unwrap_or(plan.weather.lost);
        plan.weather.refusals = self.refusals.unwrap_or(plan.weather.refusals);
        plan.weather.store_outages = if self.store_outages { dice.between(1, 3) } else { 0 };
        plan.weather.losses = if self.losses { dice.between(1, 3) } else { 0 };
        plan.weather.cut = self.cut;
        for spec in &mut plan.queues {
            if self.oversized {
                spec.max_encoded_len = LARGEST;
            }
            spec.max_len = self.room.or(spec.max_len);
            if let Some((times, pause)) = self.tries {
                spec.retry = queue_core::RetryPolicy::fixed(times, pause);
            }
        }
        for (number, job) in (0..).zip(&mut plan.jobs) {
            let options = &mut job.job.options;
            if self.tries.is_some() {
                options.retry = None;
            }
            if self.keys {
                let key = UniqueKey::new(format!("key-{}", number % 3)).ok();
                options.unique = key.map(|key| Unique { key, window: None });
            }
        }
    }
}
