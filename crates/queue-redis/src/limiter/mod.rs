//! Limits that count for all processes.

mod scripts;
#[cfg(test)]
mod tests;
mod watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::BufMut;
use futures_core::stream::BoxStream;
use queue_core::{
    Result,
    event::{BreakerEvent, BreakerState},
    limit::{Ask, Grant, Holder, Limit, Limiter, Need, Room, RunEnd},
    store::{StoreScope, Watched},
};
use redis::Script;

use crate::{
    fault,
    link::{items, number},
    provider::{BATCH, Shared},
};

/// Counts in Redis, on its clock, for every process that names the same server and prefix: each question is one script, which takes all
/// that a run comes under or none of it.
///
/// It keeps about 300 bytes for a key that counts something, a sliding window 150 more for each start it remembers, up to 1,000, or for
/// each of 1,000 slices of a larger one; and about 300 for a run that is under way. What a new key would not differ from goes by itself. What
/// a dead process held is given back when its lease ends.
#[derive(Debug)]
pub(crate) struct RedisLimiter {
    shared: Arc<Shared>,
    base: String,
}

impl RedisLimiter {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let base = shared.layout.limits();
        Self { shared, base }
    }

    async fn run(&self, script: &Script, arguments: &[Vec<u8>], operation: &'static str) -> Result<Vec<i64>> {
        self.shared.open(operation)?;
        let answer = self.shared.link.run(script, &self.base, arguments).await;
        let broken = |what| fault::broken(what, operation);
        let answer = items(answer.map_err(|error| fault::of(&error, operation))?).map_err(broken)?;
        let numbers: Result<_, _> = answer.iter().map(number).collect();
        numbers.map_err(broken)
    }

    /// As [`RedisLimiter::run`], of a script that says nothing.
    async fn tell(&self, script: &Script, arguments: &[Vec<u8>], operation: &'static str) -> Result<()> {
        self.shared.open(operation)?;
        let answer = self.shared.link.run(script, &self.base, arguments).await;
        answer.map(drop).map_err(|error| fault::of(&error, operation))
    }
}

#[async_trait]
impl Limiter for RedisLimiter {
    fn scope(&self) -> StoreScope {
        StoreScope::Shared
    }

    async fn acquire(&self, asks: &[Ask], lease: Duration) -> Vec<Grant> {
        let mut grants = Vec::with_capacity(asks.len());
        for part in asks.chunks(BATCH) {
            let mut arguments = vec![micros(lease).max(1).to_string().into_bytes()];
            for ask in part {
                let mut argument = holder(&ask.holder);
                ask.needs.iter().for_each(|need| write_need(need, &mut argument));
                arguments.push(argument);
            }
            match self.run(&scripts::ACQUIRE, &arguments, "acquire").await {
                Err(error) => grants.extend(part.iter().map(|_| Grant::Unknown(error.clone()))),
                Ok(answers) => {
                    let mut answers = answers.chunks_exact(2).map(grant);
                    let missing = || Grant::Unknown(fault::broken("an answer is missing", "acquire"));
                    grants.extend(part.iter().map(|_| answers.next().unwrap_or_else(missing)));
                }
            }
        }
        grants
    }

    async fn renew(&self, holders: &[Holder], lease: Duration) -> Result<()> {
        for part in holders.chunks(BATCH) {
            let mut arguments = vec![micros(lease).max(1).to_string().into_bytes()];
            arguments.extend(part.iter().map(holder));
            self.tell(&scripts::RENEW, &arguments, "renew").await?;
        }
        Ok(())
    }

    async fn release(&self, ended: &[(Ask, RunEnd)]) -> Result<()> {
        for part in ended.chunks(BATCH) {
            let end = |(ask, how): &(Ask, RunEnd)| {
                let mut end = holder(&ask.holder);
                end.put_u8(match how {
                    RunEnd::Succeeded => 1,
                    RunEnd::Failed => 2,
                    RunEnd::Undecided => 3,
                    RunEnd::Unused => 4,
                });
                end
            };
            let arguments: Vec<_> = part.iter().map(end).collect();
            self.tell(&scripts::RELEASE, &arguments, "release").await?;
        }
        Ok(())
    }

    async fn room(&self, needs: &[Need]) -> Vec<Result<Room>> {
        let mut rooms = Vec::with_capacity(needs.len());
        for part in needs.chunks(BATCH) {
            let packed = |need: &Need| {
                let mut argument = Vec::with_capacity(64);
                write_need(need, &mut argument);
                argument
            };
            let arguments: Vec<_> = part.iter().map(packed).collect();
            match self.run(&scripts::ROOM, &arguments, "room").await {
                Err(error) => rooms.extend(part.iter().map(|_| Err(error.clone()))),
                Ok(answers) => {
                    let mut answers = answers.chunks_exact(3).map(read_room);
                    let missing = || Err(fault::broken("an answer is missing", "room"));
                    rooms.extend(part.iter().map(|_| answers.next().map_or_else(missing, Ok)));
                }
            }
        }
        rooms
    }

    fn watch(&self) -> BoxStream<'static, Watched<BreakerEvent>> {
        watch::watch(Arc::clone(&self.shared), format!("{}e", self.base))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn holder(holder: &Holder) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.put_slice(holder.job.as_bytes());
    out.put_u64_le(holder.epoch);
    out
}

fn write_need(need: &Need, out: &mut Vec<u8>) {
    // Beyond what a double holds no time is told apart, and none needs be.
    let time = |duration: Duration| (micros(duration).max(1) as f64).min(1e15);
    let (sort, numbers): (u8, [f64; 5]) = match need.limit {
        Limit::TokenBucket { rate, per, burst } => (1, [f64::from(rate.max(1)), time(per), f64::from(burst), 0.0, 0.0]),
        Limit::SlidingWindow { max, per } => (2, [f64::from(max), time(per), 0.0, 0.0, 0.0]),
        Limit::Concurrency { max } => (3, [f64::from(max), 0.0, 0.0, 0.0, 0.0]),
        Limit::Breaker(policy) => {
            let (failures, probes) = (f64::from(policy.failures), f64::from(policy.probes));
            (4, [failures, time(policy.within), policy.share, time(policy.open_for), probes])
        }
        // A sort that this version does not know holds nobody back.
        _ => (3, [f64::from(u32::MAX), 0.0, 0.0, 0.0, 0.0]),
    };
    let key = need.key.0.as_bytes();
    let key = &key[..key.len().min(usize::from(u16::MAX))];
    out.put_u16_le(u16::try_from(key.len()).unwrap_or(u16::MAX));
    out.put_slice(key);
    out.put_u8(sort);
    numbers.into_iter().for_each(|number| out.put_f64_le(number));
}

fn wait(micros: i64) -> Option<Duration> {
    u64::try_from(micros).ok().map(Duration::from_micros)
}

fn grant(answer: &[i64]) -> Grant {
    match usize::try_from(answer[0]).ok().and_then(|refused| refused.checked_sub(1)) {
        None => Grant::Granted,
        Some(need) => Grant::Refused { need, retry_after: wait(answer[1]) },
    }
}

fn read_room(answer: &[i64]) -> Room {
    let breaker = state(answer[2]);
    Room { free: u32::try_from(answer[0]).unwrap_or(0), next: wait(answer[1]).filter(|_| answer[0] == 0), breaker }
}

/// As the scripts number them.
fn state(number: i64) -> Option<BreakerState> {
    match number {
        1 => Some(BreakerState::Closed),
        2 => Some(BreakerState::Open),
        3 => Some(BreakerState::HalfOpen),
        _ => None,
    }
}
