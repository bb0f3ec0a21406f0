//! Between the slot and the handler: who comes under a limit asks for room first.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Failure, handler::JobResult, held::Held, pool::Pool};
use crate::{
    clock::{Env, Random},
    config::defaults,
    error::{Error, ErrorCode, Result},
    job::JobError,
    limit::{Ask, Grant, Holder, Limit, LimitRules, Need, RunEnd},
    provider::{Disposition, ParkKey, ReleaseReason},
};

/// A limiter that does not answer a release keeps nobody's settlement longer than that; it is told again later.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);
/// While the limiter does not answer jobs come back after this at first, and after the longest at last.
const FIRST_AWAY: Duration = Duration::from_secs(1);
const LONGEST_AWAY: Duration = Duration::from_secs(30);

/// What a run holds of its limits. Dropped without being given back, it is given back a little later.
#[derive(Debug)]
pub(super) struct Permit<'p> {
    pool: &'p Pool,
    ask: Option<Ask>,
    end: RunEnd,
}

/// Lets a delivery through, with a permit where it comes under a limit; `Err`: it has to wait, in this way.
pub(super) async fn admit<'p>(
    rules: &LimitRules,
    pool: &'p Pool,
    held: &Held,
) -> std::result::Result<Option<Box<Permit<'p>>>, Disposition> {
    let scheduler = &pool.setup.scheduler;
    let needs = rules.needs(&pool.setup.spec.name, &held.delivery.envelope);
    if needs.is_empty() {
        return Ok(None);
    }
    let mut knock =
        match scheduler.lines().knock(&needs, &pool.setup.spec.name, held.batch, || pool.env().clock.monotonic()) {
            Ok(knock) => knock,
            Err(index) => return Err(wait(pool, &needs[index], None)),
        };
    let ask = Ask { holder: Holder::from(held.delivery.receipt), needs };
    match acquire(pool, &ask).await {
        Grant::Granted => {
            if let Some(knock) = &mut knock {
                knock.granted = true;
            }
            scheduler.detours().answered();
            held.limited.store(true, Ordering::Relaxed);
            Ok(Some(Box::new(Permit { pool, ask: Some(ask), end: RunEnd::Unused })))
        }
        Grant::Refused { need, retry_after } => {
            scheduler.detours().answered();
            Err(wait(pool, ask.needs.get(need).unwrap_or(&ask.needs[0]), retry_after))
        }
        Grant::Unknown(error) => {
            tracing::warn!(queue = %pool.setup.spec.name, job = %ask.holder.job, %error, "the limiter does not answer");
            // It may have been granted all the same.
            owe(pool, ask, RunEnd::Unused);
            let after = scheduler.detours().away(pool.env());
            Err(Disposition::Release { after, reason: ReleaseReason::Limited })
        }
    }
}

async fn acquire(pool: &Pool, ask: &Ask) -> Grant {
    let patience = pool.lease() / defaults::HEARTBEATS_PER_LEASE;
    let timeout = || Grant::Unknown(Error::new(ErrorCode::Timeout, "no answer in time").at("acquire"));
    let missing = || Grant::Unknown(Error::new(ErrorCode::Internal, "the limiter gave no answer").at("acquire"));
    tokio::select! {
        biased;
        mut grants = pool.setup.scheduler.limiter().acquire(std::slice::from_ref(ask), pool.lease()) => {
            grants.pop().unwrap_or_else(missing)
        }
        // In an async block the timer is made at its first poll: an answer that is there at once pays nothing for it.
        () = async { tokio::time::sleep(patience).await } => timeout(),
    }
}

/// How a job waits for this need: parked, where somebody can unpark it.
fn wait(pool: &Pool, need: &Need, retry_after: Option<Duration>) -> Disposition {
    let scheduler = &pool.setup.scheduler;
    if pool.parks() {
        return Disposition::Park { key: need.key.clone(), at_most: defaults::PARK_AT_MOST };
    }
    let env = pool.env();
    let after = scheduler.detours().turn(need, retry_after, env.clock.monotonic(), &*env.random);
    Disposition::Release { after, reason: ReleaseReason::Limited }
}

fn owe(pool: &Pool, ask: Ask, how: RunEnd) {
    let until = pool.env().clock.monotonic().saturating_add(pool.lease());
    pool.setup.scheduler.lines().owe(ask, how, until);
}

impl Pool {
    /// Whether a job can wait for a key until it is unparked.
    pub(super) fn parks(&self) -> bool {
        let provider = self.setup.scheduler.provider();
        provider.job_store().is_some() && provider.capabilities(Some(&self.setup.spec)).park.is_supported()
    }
}

impl Permit<'_> {
    /// The handler is about to run: until it has said more, its end says nothing.
    pub(super) fn begun(&mut self) {
        self.end = RunEnd::Undecided;
    }

    /// The handler returned by itself.
    pub(super) fn returned(&mut self, result: &JobResult) {
        self.end = end_of(result);
    }

    /// Gives back what it holds, and tells breakers how the run went.
    pub(super) async fn give_back(mut self: Box<Self>, held: &Held) {
        held.limited.store(false, Ordering::Relaxed);
        let Some(ask) = self.ask.take() else { return };
        let scheduler = &self.pool.setup.scheduler;
        let ended = [(ask, self.end)];
        let told: Result<()> = tokio::select! {
            biased;
            told = scheduler.limiter().release(&ended) => told,
            () = async { tokio::time::sleep(RELEASE_PATIENCE).await } => {
                Err(Error::new(ErrorCode::Timeout, "no answer in time").at("release"))
            }
        };
        let [(ask, _)] = ended;
        match told {
            Ok(()) => scheduler.lines().freed(&ask.needs, || scheduler.env().clock.monotonic()),
            // Dropped with it, it is told again later.
            Err(error) => {
                tracing::debug!(job = %ask.holder.job, %error, "the limiter did not take a release");
                self.ask = Some(ask);
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(ask) = self.ask.take() {
            owe(self.pool, ask, self.end);
        }
    }
}

/// What a run says of what it depends on. Errors that another attempt cannot help speak against the job; a rate limit or an
/// open circuit that the handler met itself says that its dependency was not reached, not that it is broken.
fn end_of(result: &JobResult) -> RunEnd {
    const SAY_NOTHING: [ErrorCode; 3] = [ErrorCode::RateLimited, ErrorCode::CircuitOpen, ErrorCode::NoHandler];
    let speaks = |error: &JobError| error.retryable && SAY_NOTHING.iter().all(|code| code.as_str() != error.code);
    match result {
        Ok(_) => RunEnd::Succeeded,
        Err(Failure::Retry(error) | Failure::RetryAfter(_, error)) if speaks(error) => RunEnd::Failed,
        Err(_) => RunEnd::Undecided,
    }
}

/// Keeps what running jobs hold.
pub(super) async fn renew(pool: &Pool) {
    if pool.setup.scheduler.limits().is_none() {
        return;
    }
    let limited = |held: &Arc<Held>| held.limited.load(Ordering::Relaxed);
    let holders: Vec<Holder> =
        pool.in_hand().iter().filter(|held| limited(held)).map(|held| held.delivery.receipt.into()).collect();
    if holders.is_empty() {
        return;
    }
    let patience = pool.lease() / defaults::HEARTBEATS_PER_LEASE;
    let renewed = tokio::time::timeout(patience, pool.setup.scheduler.limiter().renew(&holders, pool.lease())).await;
    let late = |_| Err(Error::new(ErrorCode::Timeout, "no answer in time").at("renew"));
    if let Err(error) = renewed.unwrap_or_else(late) {
        tracing::warn!(queue = %pool.setup.spec.name, %error, "what running jobs hold of their limits was not renewed");
    }
}

/// When jobs come again that a limit holds and that nobody can unpark.
#[derive(Debug, Default)]
pub(crate) struct Detours {
    /// Until when turns are given, by key.
    given: Mutex<HashMap<ParkKey, Duration>>,
    /// Since when the limiter does not answer, in nanoseconds plus one; 0 while it does.
    away_since: AtomicU64,
}

/// So many keys are remembered before those whose turns have passed are dropped.
const MANY: usize = 1_024;

impl Detours {
    /// Each job gets a turn of its own, as far apart as the limit lets runs begin: they come in their order, and not all at once.
    fn turn(&self, need: &Need, retry_after: Option<Duration>, now: Duration, random: &dyn Random) -> Duration {
        let between = match need.limit {
            Limit::TokenBucket { rate, per, .. } => per / rate.max(1),
            Limit::SlidingWindow { max, per } => per / max.max(1),
            // How long others run is not known: so many ask in a second, however many wait.
            Limit::Concurrency { .. } | Limit::Breaker(_) => Duration::from_millis(10),
        };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= MANY {
            given.retain(|_, until| *until > now);
        }
        let first = now.saturating_add(retry_after.unwrap_or(between));
        let turn = given.get(&need.key).map_or(first, |until| first.max(until.saturating_add(between)));
        let after = turn.saturating_sub(now);
        if after > defaults::LIMITED_DELAY_MAX {
            // Beyond that no turn is kept: whoever comes meanwhile gets the next one.
            return defaults::LIMITED_DELAY_MAX.mul_f64(0.5 + random.fraction() / 2.0);
        }
        given.insert(need.key.clone(), turn);
        after.max(defaults::LIMITED_DELAY_MIN).saturating_add(between.min(FIRST_AWAY).mul_f64(random.fraction() / 2.0))
    }

    /// How long a job stays away while the limiter does not answer: as long again as it has been silent.
    fn away(&self, env: &Env) -> Duration {
        let now = env.clock.monotonic();
        let stamp = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        let since = self.away_since.compare_exchange(0, stamp, Ordering::Relaxed, Ordering::Relaxed);
        let silent = now.saturating_sub(Duration::from_nanos(since.map_or_else(|since| since - 1, |_| stamp - 1)));
        silent.clamp(FIRST_AWAY, LONGEST_AWAY).mul_f64(0.5 + env.random.fraction() / 2.0)
    }

    fn answered(&self) {
        if self.away_since.load(Ordering::Relaxed) != 0 {
            self.away_since.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
