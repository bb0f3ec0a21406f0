//! Who may run a copy, and for how long.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use queue_core::{
    QueueName,
    provider::{Beat, BeatOutcome, Lease},
    store::{Claim, Fence, JobRecord, Verdict},
};
use redis::Value;

use super::{
    Inner,
    numbers::{epoch_of, ticket_of},
    parts::{Answers, Part, by_queue},
    scripts, wire,
};
use crate::{
    fault, link,
    record::{self, Reader, millis, put_short, put_six},
};

impl Inner {
    /// A job that the store knows needs no copy of it, so the first question goes without; those that are asked for go with the second.
    pub(super) async fn claim(&self, claims: &[Claim]) -> Vec<Verdict> {
        let mut answers = Answers::new(claims.len());
        let parts = by_queue(claims.iter().map(|claim| Some(&claim.job.queue)));
        for part in parts.into_iter().flat_map(|part| by_claimant(part, claims)) {
            let mut again = Part { queue: part.queue.clone(), items: Vec::new() };
            match self.judge(&part, claims, false).await {
                Err(error) => answers.put(&part, vec![Verdict::Unknown(error); part.items.len()]),
                Ok(verdicts) => {
                    for (item, verdict) in part.items.iter().zip(verdicts) {
                        match verdict {
                            Some(verdict) => {
                                answers.put(&Part { queue: part.queue.clone(), items: vec![*item] }, [verdict]);
                            }
                            None => again.items.push(*item),
                        }
                    }
                }
            }
            if !again.items.is_empty() {
                match self.judge(&again, claims, true).await {
                    Err(error) => answers.put(&again, vec![Verdict::Unknown(error); again.items.len()]),
                    Ok(verdicts) => {
                        answers.put(&again, verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(unknown)))
                    }
                }
            }
        }
        answers.into_vec(unknown)
    }

    /// The verdicts; `None` where the copy is needed.
    async fn judge(
        &self,
        part: &Part,
        claims: &[Claim],
        with_copies: bool,
    ) -> queue_core::Result<Vec<Option<Verdict>>> {
        let number = self.number(&part.queue, "claim").await?;
        let of_part = || part.items.iter().map(|item| &claims[*item]);
        let (lease, copies) = (of_part().next().map_or(Duration::ZERO, |claim| claim.lease), part.items.len());
        let mut heads = Vec::with_capacity(wire::HEAD * copies);
        of_part().for_each(|claim| wire::put_head(&mut heads, &claim.job, &claim.envelope));
        let mut arguments = vec![of_part().next().map(claimant).unwrap_or_default(), heads];
        if with_copies {
            arguments.extend(of_part().map(|claim| wire::record(&claim.envelope)));
        }
        let answer = self.run(&scripts::CLAIM, &part.queue, &arguments, "claim").await?;
        let broken = |what| Verdict::Unknown(fault::broken(what, "claim").on(&part.queue));
        let ids = of_part().map(|claim| claim.job.id);
        if let [Value::BulkString(all)] = &answer[..]
            && let Some((b'P', all)) = all.split_first()
        {
            let mut all = Reader(Bytes::copy_from_slice(all));
            let mut ticket = all.u64().map_err(|what| fault::broken(what, "claim").on(&part.queue))?;
            let verdicts = ids.map(|id| {
                let verdict = run(&mut all, id, epoch_of(number, ticket), lease);
                ticket += 1;
                Some(verdict.unwrap_or_else(broken))
            });
            return Ok(verdicts.collect());
        }
        let verdicts = answer.into_iter().zip(ids).map(|(answer, id)| {
            let read = link::bytes(answer).and_then(|answer| verdict(answer, id, number, lease));
            read.unwrap_or_else(|what| Some(broken(what)))
        });
        Ok(verdicts.collect())
    }

    pub(super) async fn heartbeat(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        let mut answers = Answers::new(beats.len());
        let queues = match self.queues_of(beats.iter().map(|(fence, _)| fence.epoch), "heartbeat").await {
            Ok(queues) => queues,
            Err(error) => return beats.iter().map(|_| BeatOutcome::Unknown(error.clone())).collect(),
        };
        for part in by_queue(queues.iter().map(Option::as_ref)) {
            let mut arguments: Vec<Bytes> = Vec::with_capacity(2 * part.items.len());
            for (fence, beat) in part.items.iter().map(|item| &beats[*item]) {
                write_beat(*fence, beat, &mut arguments);
            }
            match self.run(&scripts::BEAT, &part.queue, &arguments, "heartbeat").await {
                Err(error) => answers.put(&part, vec![BeatOutcome::Unknown(error); part.items.len()]),
                Ok(found) => {
                    let mut found = found.into_iter();
                    let pairs = std::iter::from_fn(|| Some((found.next()?, found.next()?)));
                    let lost = || BeatOutcome::Unknown(fault::broken("an answer is missing", "heartbeat"));
                    let found = pairs.map(|(left, cancel)| beaten(&left, cancel));
                    answers.put(&part, found.chain(std::iter::repeat_with(lost)));
                }
            }
        }
        // What this store never gave out is nobody's.
        answers.into_vec(|| BeatOutcome::Lost)
    }

    /// The queues of fences; `None` for one that was never given out.
    pub(super) async fn queues_of(
        &self,
        epochs: impl Iterator<Item = u64>,
        operation: &'static str,
    ) -> queue_core::Result<Vec<Option<QueueName>>> {
        let mut queues = Vec::with_capacity(epochs.size_hint().0);
        for epoch in epochs {
            queues.push(self.queue_of(epoch, operation).await?);
        }
        Ok(queues)
    }
}

fn unknown() -> Verdict {
    Verdict::Unknown(fault::broken("an answer is missing", "claim"))
}

fn verdict(
    answer: Bytes,
    id: queue_core::JobId,
    number: u64,
    lease: Duration,
) -> Result<Option<Verdict>, fault::Broken> {
    let mut answer = Reader(answer);
    Ok(match answer.u8()? {
        b'N' => None,
        b'D' => Some(Verdict::Drop),
        b'B' => Some(Verdict::Busy { remaining: Duration::from_millis(answer.six()?) }),
        b'R' => {
            let epoch = epoch_of(number, answer.u64()?);
            Some(run(&mut answer, id, epoch, lease)?)
        }
        _ => return Err("an unknown answer"),
    })
}

/// The rest of a packed claim.
fn run(claim: &mut Reader, id: queue_core::JobId, epoch: u64, lease: Duration) -> Result<Verdict, fault::Broken> {
    let fence = Fence { id, epoch, generation: claim.u32()? };
    let lease = Lease { remaining: Some(lease), cancel: None };
    let (attempt, started_before) = (claim.u32()?, claim.u32()?);
    Ok(Verdict::Run { fence, lease, attempt, started_before, redelivered: claim.u8()? == 1 })
}

/// Who asks, and for how long.
fn claimant(claim: &Claim) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_six(&mut out, millis(claim.lease).max(1));
    put_short(&mut out, wire::short(&claim.worker));
    put_short(&mut out, wire::short(&claim.provider));
    out
}

/// A script is told of one claimant; most often there is one.
fn by_claimant(part: Part, claims: &[Claim]) -> Vec<Part> {
    let said = |item: usize| (claims[item].lease, &claims[item].worker, &claims[item].provider);
    let mut parts: Vec<Part> = Vec::with_capacity(1);
    for item in part.items {
        match parts.last_mut().filter(|last| last.items.first().is_some_and(|first| said(*first) == said(item))) {
            Some(last) => last.items.push(item),
            None => parts.push(Part { queue: part.queue.clone(), items: vec![item] }),
        }
    }
    parts
}

fn write_beat(fence: Fence, beat: &Beat, arguments: &mut Vec<Bytes>) {
    let mut head = Vec::with_capacity(40);
    head.put_slice(fence.id.as_bytes());
    head.put_u64_le(ticket_of(fence.epoch));
    head.put_u32_le(fence.generation);
    let progress = u8::from(beat.progress.is_some());
    head.put_u8(u8::from(beat.started) | u8::from(beat.extend.is_some()) << 1 | progress << 2);
    put_six(&mut head, beat.extend.map_or(0, millis));
    // The older of too many would be dropped there.
    let lines = &beat.logs[beat.logs.len().saturating_sub(JobRecord::MAX_LOGS)..];
    head.put_u16_le(u16::try_from(lines.len()).unwrap_or(0));
    arguments.extend([head.into(), beat.progress.clone().unwrap_or_default()]);
    arguments.extend(lines.iter().map(|line| line.slice(..line.len().min(JobRecord::MAX_LOG_LINE))));
}

fn beaten(left: &Value, cancel: Value) -> BeatOutcome {
    let Value::Int(left) = left else {
        return BeatOutcome::Unknown(fault::broken("an answer is missing", "heartbeat"));
    };
    let Ok(left) = u64::try_from(*left) else { return BeatOutcome::Lost };
    let cancel = link::bytes(cancel).ok().filter(|cancel| !cancel.is_empty());
    let cancel = cancel.and_then(|cancel| record::read_cancel(cancel).ok());
    BeatOutcome::Held(Lease { remaining: Some(Duration::from_millis(left)), cancel })
}
