//! How jobs are claimed: with one call, with several at once, or from shards in turn.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, Result,
    job::Envelope,
    provider::{Delivery, Lease, Receipt},
};
use redis::Value;
use tokio::time::Instant;

use super::{Claimed, Out, RedisConsumer, doze::HEEDED};
use crate::{SCHEME, fault, link, provider::BATCH, record, scripts, shards, specs::Known};

/// Claims under way at once while the queue is full of work: the server has one while the answer of another is read.
const CLAIMS: usize = 3;

impl RedisConsumer {
    /// Claims at once, and sees to it that the marker is set for what comes later.
    pub(super) async fn look(&self, room: usize, left: Duration) -> Result<Claimed> {
        let asked = Instant::now();
        let claimed = self.claim(room, if left.is_zero() { Duration::ZERO } else { HEEDED }).await?;
        if !left.is_zero() {
            self.looked.note(asked, &claimed);
        }
        Ok(claimed)
    }

    /// As many jobs as there is room for: with one call, or with several at once where there is plenty.
    async fn claim(&self, room: usize, sleep: Duration) -> Result<Claimed> {
        if self.known.count() > 1 {
            return Box::pin(self.claim_in_turn(room, sleep)).await;
        }
        let known = &self.known;
        if room <= BATCH || !self.plenty.load(Ordering::Relaxed) {
            let most = room.min(BATCH);
            let claimed = self.claim_once(known, most, sleep).await?;
            let full = matches!(&claimed, Claimed::Jobs(jobs) if jobs.len() == most);
            self.plenty.store(full, Ordering::Relaxed);
            return Ok(claimed);
        }
        // Full ones: to claim a few costs as many commands, and the rest of the room is for the next.
        let calls = (room / BATCH).min(CLAIMS);
        let parts = (0..calls).map(|_| self.claim_once(known, BATCH, Duration::ZERO));
        // They are answered in the order in which they were sent.
        let parts = futures_util::future::join_all(parts).await;
        let (mut jobs, mut failed) = (Vec::new(), None);
        for part in parts {
            match part {
                Ok(Claimed::Jobs(more)) => jobs.extend(more),
                Ok(Claimed::Nothing { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        self.plenty.store(jobs.len() == calls * BATCH, Ordering::Relaxed);
        match failed {
            // What was claimed is claimed, whatever became of the rest.
            _ if !jobs.is_empty() => Ok(Claimed::Jobs(jobs)),
            Some(error) => Err(error),
            None => self.claim_once(known, BATCH, sleep).await,
        }
    }

    /// The shards are asked one after the other, or some at once, until one has something; each time another is the first. A shard whose
    /// server is away keeps nobody from the others.
    async fn claim_in_turn(&self, room: usize, sleep: Duration) -> Result<Claimed> {
        let mut order = &self.turns.order(&self.known)[..];
        let (mut next, mut is_first, mut answered) = (None, true, false);
        let mut failed: Option<Error> = None;
        while !order.is_empty() {
            let (width, share) = shards::width(room, order.len(), is_first, BATCH);
            let (asked, rest) = order.split_at(width);
            let claims =
                futures_util::future::join_all(asked.iter().map(|shard| self.claim_shard(shard, share, sleep)));
            let mut jobs = Vec::new();
            for (shard, claimed) in asked.iter().zip(claims.await) {
                match claimed {
                    Ok(Claimed::Jobs(more)) => {
                        jobs.extend(more);
                        self.turns.served(shard);
                    }
                    Ok(Claimed::Nothing { next: due }) => {
                        answered = true;
                        next = next.into_iter().chain(due).min();
                    }
                    // That the queue is gone is told before all else.
                    Err(error) if failed.as_ref().is_none_or(|one| one.code() != ErrorCode::NotFound) => {
                        failed = Some(error)
                    }
                    Err(_) => {}
                }
            }
            if !jobs.is_empty() {
                return Ok(Claimed::Jobs(jobs));
            }
            (order, is_first) = (rest, false);
        }
        match failed {
            Some(error) if !answered || error.code() == ErrorCode::NotFound => Err(error),
            Some(_) => Ok(Claimed::Nothing { next: next.into_iter().chain([shards::AWAY]).min() }),
            None => Ok(Claimed::Nothing { next }),
        }
    }

    /// The same as `claim_once`, but a server that did not answer the last time is given little time to show that it is there.
    async fn claim_shard(&self, shard: &Known, most: usize, sleep: Duration) -> Result<Claimed> {
        const PROBE: Duration = Duration::from_millis(100);
        let away = || Error::new(ErrorCode::Unavailable, "a shard's server is away").at("fetch").by(SCHEME);
        match self.turns.may_be_away(shard) {
            None => {}
            Some(false) => return Err(away().on(&shard.spec.name)),
            Some(true) => {
                let probe = redis::cmd("HGET").arg(format!("{}n", shard.base)).arg("born").take();
                let probe = tokio::time::timeout(PROBE, self.shared.link.ask(&probe)).await;
                if !matches!(probe, Ok(Ok(_))) {
                    self.turns.went(shard);
                    return Err(away().on(&shard.spec.name));
                }
            }
        }
        let claimed = self.claim_once(shard, most, sleep).await;
        match &claimed {
            Err(error) if matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Timeout) => {
                if !self.turns.went(shard) {
                    return claimed;
                }
                tracing::warn!(queue = %shard.spec.name, shard = shard.place, %error, "a shard does not answer");
            }
            _ => self.turns.came_back(shard),
        }
        claimed
    }

    pub(super) fn claim_arguments(&self, known: &Known, most: usize, sleep: Duration) -> [String; 6] {
        [
            most.to_string(),
            record::millis(self.lease).to_string(),
            self.worker.chars().take(60).collect(),
            known.tracked().to_owned(),
            record::millis(sleep).to_string(),
            known.born.to_string(),
        ]
    }

    async fn claim_once(&self, known: &Known, most: usize, sleep: Duration) -> Result<Claimed> {
        let asked = Instant::now();
        let arguments = self.claim_arguments(known, most, sleep);
        let answer = self.shared.link.run(&scripts::CLAIM, &known.base, &arguments).await;
        if answer.as_ref().is_err_and(fault::is_stale) {
            self.shared.specs.forget_stale(known);
        }
        let answer = answer.map_err(|error| fault::of(&error, "fetch").on(&known.spec.name))?;
        self.claimed(known, answer, asked)
    }

    /// Reads what a claim found that was made no earlier than `asked`.
    pub(super) fn claimed(&self, known: &Known, answer: Value, asked: Instant) -> Result<Claimed> {
        let broken = |what| fault::broken(what, "fetch").on(&known.spec.name);
        let mut answer = link::items(answer).map_err(broken)?.into_iter();
        let next = link::number(&answer.next().unwrap_or_default()).map_err(broken)?;
        let how = answer.next();
        let (paused, folded) = (how == Some(Value::Int(1)), how == Some(Value::Int(2)));
        let mut epoch = link::number(&answer.next().unwrap_or_default()).map_err(broken)?.unsigned_abs();
        let claims = answer.next().map_or_else(|| Ok(Bytes::new()), link::bytes).map_err(broken)?;
        let mut claims = record::Reader(claims);
        let together = if folded { epoch } else { 0 };
        let (mut jobs, found) = (Vec::with_capacity(answer.len()), answer.len() > 0);
        for row in answer {
            epoch += 1;
            let claim = match folded {
                true => record::Claim { id: claims.id().map_err(broken)?, epoch, past: None },
                false => record::read_claim(&mut claims, epoch).map_err(broken)?,
            };
            let row = link::bytes(row).map_err(broken)?;
            let out = Out { end: asked + self.lease, size: u32::try_from(row.len()).unwrap_or(0), together };
            match record::read(claim.id, row) {
                Ok(submitted) => jobs.push(self.delivery(known.place, claim, submitted.envelope, asked, out)),
                Err(what) => {
                    tracing::error!(job = %claim.id, what, "a record cannot be read; it is looked at again in a minute")
                }
            }
        }
        if !jobs.is_empty() {
            return Ok(Claimed::Jobs(jobs));
        }
        // Behind what cannot be read there may be more, and nobody was told that this one sleeps.
        let next = if found { Some(0) } else { u64::try_from(next).ok().filter(|_| !paused) };
        let next = next.map(Duration::from_millis);
        Ok(Claimed::Nothing { next })
    }

    /// When time has something to do, as a claim tells whatever it found, but for its own leases.
    pub(super) fn due(answer: &Value) -> Option<Instant> {
        let Value::Array(items) = answer else { return None };
        let millis = u64::try_from(link::number(items.first()?).ok()?).ok()?;
        Instant::now().checked_add(Duration::from_millis(millis))
    }

    fn delivery(&self, place: u16, claim: record::Claim, envelope: Envelope, asked: Instant, out: Out) -> Delivery {
        self.out().insert((claim.id, claim.epoch), out);
        let first = || record::Past { attempt: envelope.attempt, started: envelope.deliveries, redelivered: false };
        let past = claim.past.unwrap_or_else(first);
        Delivery {
            place,
            receipt: Receipt { id: claim.id, slot: u64::from(place), epoch: claim.epoch },
            lease: Lease { remaining: Some(self.lease.saturating_sub(asked.elapsed())), cancel: None },
            attempt: past.attempt,
            started_before: past.started,
            redelivered: past.redelivered,
            envelope,
        }
    }
}
