//! One consumer of one queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes};
use queue_core::{
    Error, ErrorCode, Result,
    job::{Envelope, JobId},
    provider::{
        Beat, BeatOutcome, CloseReport, ConsumeOptions, Consumer, Delivery, Disposition, Lease, Receipt, Rejection,
        SettleOutcome, Settlement,
    },
    store::JobRecord,
};
use redis::Value;
use tokio::{sync::Notify, time::Instant};

use crate::{
    SCHEME, fault, link,
    print::{print, written},
    provider::{BATCH, Shared},
    record, scripts,
    shards::{self, Turns},
    specs::Known,
};

use self::doze::{HEEDED, Looked};

mod doze;

/// Claims under way at once while the queue is full of work: the server has one while the answer of another is read.
const CLAIMS: usize = 3;
/// A wait beyond it is as good as endless, and cannot overflow the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Fetch leases straight from the queue, so that nothing is buffered here. Dropped without being closed it leaves its leases to end by
/// themselves, as a killed worker does.
#[derive(Debug)]
pub(crate) struct RedisConsumer {
    shared: Arc<Shared>,
    known: Known,
    worker: Arc<str>,
    lease: Duration,
    demand: AtomicUsize,
    closed: AtomicBool,
    /// Whether the last claim found as much as it asked for, so that there is more.
    plenty: AtomicBool,
    /// Which shard is asked first.
    turns: Turns,
    looked: Looked,
    /// Demand, room or closing changed.
    changed: Notify,
    out: Mutex<HashMap<(JobId, u64), Out>>,
}

/// What was given out.
#[derive(Debug)]
struct Out {
    /// The end of its lease as it is known here.
    end: Instant,
    /// Bytes of its record.
    size: u32,
}

/// What a claim found.
enum Claimed {
    Jobs(Vec<Delivery>),
    Nothing { next: Option<Duration> },
}

impl RedisConsumer {
    pub(crate) fn new(shared: Arc<Shared>, known: Known, options: ConsumeOptions) -> Self {
        Self {
            shared,
            known,
            worker: options.worker,
            lease: options.lease,
            demand: AtomicUsize::new(options.outstanding),
            closed: AtomicBool::new(false),
            plenty: AtomicBool::new(false),
            turns: Turns::default(),
            looked: Looked::default(),
            changed: Notify::new(),
            out: Mutex::default(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    fn out(&self) -> std::sync::MutexGuard<'_, HashMap<(JobId, u64), Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deliveries that are out and whose lease may stand.
    fn outstanding(&self) -> usize {
        let now = Instant::now();
        let mut out = self.out();
        out.retain(|_, out| out.end > now);
        out.len()
    }

    fn ended(&self, receipt: Receipt) {
        self.out().remove(&(receipt.id, receipt.epoch));
        self.changed.notify_waiters();
    }

    fn all_ended(&self, receipts: impl Iterator<Item = Receipt>) {
        {
            let mut out = self.out();
            for receipt in receipts {
                out.remove(&(receipt.id, receipt.epoch));
            }
        }
        self.changed.notify_waiters();
    }

    /// Claims at once, and sees to it that the marker is set for what comes later.
    async fn look(&self, room: usize, left: Duration) -> Result<Claimed> {
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
        let calls = room.div_ceil(BATCH).min(CLAIMS);
        let parts = (0..calls).map(|call| self.claim_once(known, BATCH.min(room - call * BATCH), Duration::ZERO));
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
        self.plenty.store(jobs.len() == room.min(calls * BATCH), Ordering::Relaxed);
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

    fn claim_arguments(&self, known: &Known, most: usize, sleep: Duration) -> [String; 6] {
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
    fn claimed(&self, known: &Known, answer: Value, asked: Instant) -> Result<Claimed> {
        let broken = |what| fault::broken(what, "fetch").on(&known.spec.name);
        let mut answer = link::items(answer).map_err(broken)?.into_iter();
        let next = link::number(&answer.next().unwrap_or_default()).map_err(broken)?;
        let paused = answer.next() == Some(Value::Int(1));
        let mut epoch = link::number(&answer.next().unwrap_or_default()).map_err(broken)?.unsigned_abs();
        let claims = answer.next().map_or_else(|| Ok(Bytes::new()), link::bytes).map_err(broken)?;
        let mut claims = record::Reader(claims);
        let (mut jobs, found) = (Vec::with_capacity(answer.len()), answer.len() > 0);
        for row in answer {
            epoch += 1;
            let claim = record::read_claim(&mut claims, epoch).map_err(broken)?;
            let row = link::bytes(row).map_err(broken)?;
            let size = row.len();
            match record::read(claim.id, row) {
                Ok(submitted) => jobs.push(self.delivery(known.place, claim, submitted.envelope, asked, size)),
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

    fn delivery(&self, place: u16, claim: record::Claim, envelope: Envelope, asked: Instant, size: usize) -> Delivery {
        let size = u32::try_from(size).unwrap_or(0);
        self.out().insert((claim.id, claim.epoch), Out { end: asked + self.lease, size });
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

    async fn settle_all(&self, shard: &Known, batch: &[Settlement]) -> Vec<SettleOutcome> {
        // Sent one behind the other: the server has the next while the answer of one is on its way.
        let parts = batch.chunks(BATCH).map(|part| self.settle_part(shard, part));
        futures_util::future::join_all(parts).await.concat()
    }

    async fn beat_all(&self, shard: &Known, beats: &[Beat]) -> Vec<BeatOutcome> {
        let mut outcomes = Vec::with_capacity(beats.len());
        for part in beats.chunks(BATCH) {
            outcomes.extend(self.beat_part(shard, part).await);
        }
        outcomes
    }

    async fn settle_part(&self, shard: &Known, part: &[Settlement]) -> Vec<SettleOutcome> {
        // Boxed, so that the compiler need not look through all of it.
        match Box::pin(self.settle_once(shard, part, false)).await {
            Some(outcomes) => outcomes,
            // With the queues of the follow-ups as they are now.
            None => Box::pin(self.settle_once(shard, part, true)).await.unwrap_or_default(),
        }
    }

    /// Nothing where the queue of a follow-up was dropped since it was known, unless it is the last try.
    async fn settle_once(&self, shard: &Known, part: &[Settlement], last: bool) -> Option<Vec<SettleOutcome>> {
        let mut outcomes: Vec<Option<SettleOutcome>> = vec![None; part.len()];
        let mut arguments = vec![self.known.tracked().as_bytes().to_vec(), Vec::new()];
        let mut follow_ups = 0;
        let mut sent = Vec::with_capacity(part.len());
        let all_completed = self.completed_arguments(part);
        let is_usual = all_completed.is_some();
        if let Some(packed) = all_completed {
            arguments.push(packed);
            sent.extend(0..part.len());
        }
        let others = if is_usual { &[][..] } else { part };
        for (index, settlement) in others.iter().enumerate() {
            match self.settle_arguments(settlement).await {
                Ok((more, with)) => {
                    arguments.extend(more);
                    follow_ups += with;
                    sent.push(index);
                }
                Err(refusal) => outcomes[index] = Some(refusal),
            }
        }
        if !sent.is_empty() {
            if !is_usual {
                arguments[1] = follow_ups.to_string().into_bytes();
            }
            let durability = self.known.spec.durability;
            let answer = self.shared.link.run_assured(&scripts::SETTLE, &shard.base, &arguments, durability).await;
            let stale = answer.as_ref().is_err_and(fault::is_stale);
            if stale && !last {
                part.iter()
                    .flat_map(|settlement| &settlement.then)
                    .for_each(|next| self.shared.specs.forget(&next.queue));
                return None;
            }
            match answer.map_err(|error| fault::of(&error, "settle").on(&self.known.spec.name)) {
                // All of them.
                Ok(Value::Int(_)) => {
                    self.all_ended(sent.iter().map(|index| part[*index].receipt));
                    for index in &sent {
                        outcomes[*index] = Some(SettleOutcome::Settled);
                    }
                }
                Ok(answer) => {
                    let answers = link::items(answer).unwrap_or_default();
                    for (index, answer) in sent.iter().zip(answers) {
                        outcomes[*index] = Some(self.settled(part[*index].receipt, answer));
                    }
                }
                Err(error) => {
                    let outcome = match stale {
                        true => SettleOutcome::NotSettled { then_index: None, error },
                        false => SettleOutcome::Unknown(error),
                    };
                    for index in &sent {
                        outcomes[*index] = Some(outcome.clone());
                    }
                }
            }
        }
        let missing = || SettleOutcome::Unknown(fault::broken("an answer is missing", "settle"));
        Some(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect())
    }

    fn settled(&self, receipt: Receipt, answer: Value) -> SettleOutcome {
        let outcome = match link::bytes(answer).as_deref() {
            Ok(b"S") => SettleOutcome::Settled,
            Ok(b"A") => SettleOutcome::AlreadySettled,
            Ok(b"C") => SettleOutcome::Conflict,
            Ok(b"L") => SettleOutcome::LeaseLost,
            _ => return SettleOutcome::Unknown(fault::broken("an unknown answer", "settle")),
        };
        self.ended(receipt);
        outcome
    }

    /// As `settle.lua` takes them where all are completed without follow-ups; nothing where one is not.
    fn completed_arguments(&self, part: &[Settlement]) -> Option<Vec<u8>> {
        let is_usual =
            |one: &Settlement| one.then.is_empty() && matches!(one.disposition, Disposition::Complete { .. });
        if !part.iter().all(is_usual) {
            return None;
        }
        let mut packed = Vec::with_capacity(part.len() * 40);
        let mut without_result = None;
        let out = self.out();
        for Settlement { receipt, disposition, .. } in part {
            let (code, after, value) = written(disposition);
            let print = match value.is_empty() {
                true => *without_result.get_or_insert_with(|| print(code, after, &value, disposition)),
                false => print(code, after, &value, disposition),
            };
            packed.put_slice(receipt.id.as_bytes());
            packed.put_u64_le(receipt.epoch);
            packed.put_slice(&print);
            packed.put_u32_le(out.get(&(receipt.id, receipt.epoch)).map_or(0, |out| out.size));
            packed.put_u32_le(u32::try_from(value.len()).ok()?);
            packed.put_slice(&value);
        }
        Some(packed)
    }

    /// As `settle.lua` takes it, and how many follow-ups are in it, or why one cannot be published.
    async fn settle_arguments(&self, settlement: &Settlement) -> Result<(Vec<Vec<u8>>, usize), SettleOutcome> {
        let (code, after, value) = written(&settlement.disposition);
        let receipt = settlement.receipt;
        let size = self.out().get(&(receipt.id, receipt.epoch)).map_or(0, |out| out.size);
        let mut head = Vec::with_capacity(29 + value.len());
        head.put_u64_le(settlement.receipt.epoch);
        head.put_u8(code);
        head.put_slice(&print(code, after, &value, &settlement.disposition));
        record::put_six(&mut head, after);
        let mut queues = Vec::with_capacity(settlement.then.len());
        for (index, follow_up) in settlement.then.iter().enumerate() {
            let not_settled = |error| SettleOutcome::NotSettled { then_index: Some(index), error };
            let known = self.shared.known(&follow_up.queue).await.map_err(not_settled)?;
            let (limit, actual) = (known.spec.max_encoded_len, follow_up.envelope.encoded_len());
            if actual > limit {
                return Err(not_settled(Rejection::TooLarge { limit, actual }.into()));
            }
            let named = known.spec.check_partition(follow_up.envelope.partition().as_deref());
            named.map_err(|error| not_settled(error.by(SCHEME)))?;
            queues.push(known.shard_of(&follow_up.envelope).clone());
        }
        let ahead = self.send_ahead(settlement, &queues).await?;
        let with = ahead.iter().filter(|sent| !**sent).count();
        head.put_u16_le(u16::try_from(with).unwrap_or(u16::MAX));
        head.put_u32_le(size);
        head.put_slice(&value);
        let mut arguments = vec![receipt.id.as_bytes().to_vec(), head];
        for ((follow_up, known), sent) in settlement.then.iter().zip(queues).zip(ahead) {
            if !sent {
                let (head, body) = record::to_publish(&follow_up.envelope);
                arguments.extend([known.base.into_bytes(), known.born.as_bytes().to_vec(), head, body]);
            }
        }
        Ok((arguments, with))
    }

    async fn beat_part(&self, shard: &Known, part: &[Beat]) -> Vec<BeatOutcome> {
        let asked = Instant::now();
        let mut arguments: Vec<Bytes> = Vec::with_capacity(2 * part.len());
        for beat in part {
            let mut head = Vec::with_capacity(40);
            head.put_slice(beat.receipt.id.as_bytes());
            head.put_u64_le(beat.receipt.epoch);
            let progress = u8::from(beat.progress.is_some());
            head.put_u8(u8::from(beat.started) | u8::from(beat.extend.is_some()) << 1 | progress << 2);
            record::put_six(&mut head, beat.extend.map_or(0, record::millis));
            // The older of too many would be dropped there.
            let lines = &beat.logs[beat.logs.len().saturating_sub(JobRecord::MAX_LOGS)..];
            head.put_u16_le(u16::try_from(lines.len()).unwrap_or(0));
            arguments.extend([head.into(), beat.progress.clone().unwrap_or_default()]);
            arguments.extend(lines.iter().map(|line| line.slice(..line.len().min(JobRecord::MAX_LOG_LINE))));
        }
        let answer = self.shared.link.run(&scripts::BEAT, &shard.base, &arguments).await;
        let answers = match answer {
            Ok(answer) => link::items(answer).unwrap_or_default(),
            Err(error) => {
                let error = fault::of(&error, "heartbeat").on(&self.known.spec.name);
                return part.iter().map(|_| BeatOutcome::Unknown(error.clone())).collect();
            }
        };
        let mut answers = answers.into_iter();
        let outcome = |beat: &Beat| {
            let (left, cancel) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
            self.beaten(beat.receipt, &left, cancel, asked)
        };
        part.iter().map(outcome).collect()
    }

    fn beaten(&self, receipt: Receipt, left: &Value, cancel: Value, asked: Instant) -> BeatOutcome {
        let Value::Int(left) = left else {
            return BeatOutcome::Unknown(fault::broken("an answer is missing", "heartbeat"));
        };
        let Ok(left) = u64::try_from(*left) else {
            self.ended(receipt);
            return BeatOutcome::Lost;
        };
        let remaining = Duration::from_millis(left);
        if let Some(out) = self.out().get_mut(&(receipt.id, receipt.epoch)) {
            out.end = asked + remaining;
        }
        let cancel = link::bytes(cancel).ok().filter(|cancel| !cancel.is_empty());
        let cancel = cancel.and_then(|cancel| record::read_cancel(cancel).ok());
        BeatOutcome::Held(Lease { remaining: Some(remaining), cancel })
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let give_up = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.closed.load(Ordering::Acquire) || max == 0 {
                return Ok(Vec::new());
            }
            self.shared.open("fetch").map_err(|error| error.on(&self.known.spec.name))?;
            let left = give_up.saturating_duration_since(Instant::now());
            let room = self.room(max);
            if room == 0 {
                if left.is_zero() {
                    return Ok(Vec::new());
                }
                // What was lost without a word frees its room by time alone.
                tokio::select! {
                    biased;
                    () = &mut changed => {}
                    () = tokio::time::sleep(left.min(Duration::from_millis(500))) => {}
                }
                continue;
            }
            let due = match self.looked.stands() {
                Some(due) if !left.is_zero() => due,
                _ => match self.look(room, left).await? {
                    Claimed::Jobs(jobs) => return Ok(jobs),
                    Claimed::Nothing { .. } if left.is_zero() => return Ok(Vec::new()),
                    Claimed::Nothing { next } => next.map(|next| Instant::now() + next),
                },
            };
            match self.doze(room, due, give_up).await? {
                Some(Claimed::Jobs(jobs)) => return Ok(jobs),
                Some(Claimed::Nothing { .. }) if Instant::now() >= give_up => return Ok(Vec::new()),
                _ => {}
            }
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        if self.known.count() > 1 {
            let missing = || SettleOutcome::Unknown(fault::broken("an answer is missing", "settle"));
            let run = async |shard, items: Vec<Settlement>| self.settle_all(shard, &items).await;
            return shards::in_order(&self.known, batch.to_vec(), |one| one.receipt.slot as u16, run, missing).await;
        }
        self.settle_all(&self.known, batch).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        if self.known.count() > 1 {
            let missing = || BeatOutcome::Unknown(fault::broken("an answer is missing", "heartbeat"));
            let run = async |shard, items: Vec<Beat>| self.beat_all(shard, &items).await;
            return shards::in_order(&self.known, beats.to_vec(), |one| one.receipt.slot as u16, run, missing).await;
        }
        self.beat_all(&self.known, beats).await
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.demand.store(outstanding, Ordering::Release);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
        let give_up = Instant::now() + deadline.min(LONGEST_WAIT);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let still_open = self.outstanding();
            let left = give_up.saturating_duration_since(Instant::now());
            if still_open == 0 || left.is_zero() {
                return CloseReport { returned: 0, still_open };
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = tokio::time::sleep(left.min(Duration::from_millis(100))) => {}
            }
        }
    }
}
