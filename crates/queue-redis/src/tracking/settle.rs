//! Ending a claim, with all that follows from it in the same write.
//!
//! What follows in the job's own queue is staged in that write. What follows in another queue, which may be on another node, is laid down
//! in that write beside the job, and given to its own queue afterwards: by who settled, or by the sweep.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use queue_core::{
    QueueName, Result,
    job::JobRef,
    provider::{Disposition, FollowUp, SettleOutcome},
    store::{TrackedOutcome, TrackedSettle},
};
use redis::Value;

use super::{
    Inner,
    numbers::ticket_of,
    parts::{Answers, Part, by_queue},
    scripts, wire,
};
use crate::{
    fault, link,
    print::{print, written},
    record::{Reader, millis, put_six},
};

/// A follow-up that another queue knows of, or is to know.
#[derive(Debug)]
struct Elsewhere {
    /// Which settlement of the batch, and which of its follow-ups.
    item: usize,
    index: usize,
    /// It is laid down beside its parent.
    waits: bool,
}

impl Inner {
    pub(super) async fn settle(&self, batch: &[TrackedSettle], lease: Duration) -> Vec<TrackedOutcome> {
        let unknown = |error| TrackedOutcome::only(SettleOutcome::Unknown(error));
        let queues = match self.queues_of(batch.iter().map(|item| item.fence.epoch), "settle").await {
            Ok(queues) => queues,
            Err(error) => return batch.iter().map(|_| unknown(error.clone())).collect(),
        };
        let mut outcomes = Answers::new(batch.len());
        let mut elsewhere = Vec::new();
        for part in by_queue(queues.iter().map(Option::as_ref)) {
            let arguments = completions(&part, batch, lease).unwrap_or_else(|| settle_arguments(&part, batch, lease));
            let answers = self.promise(&scripts::SETTLE, &part.queue, &arguments, "settle").await;
            match answers {
                Ok(all) if all == [Value::Int(i64::try_from(part.items.len()).unwrap_or(0))] => {
                    let settled = || TrackedOutcome::only(SettleOutcome::Settled);
                    outcomes.put(&part, std::iter::repeat_with(settled));
                }
                Err(error) => outcomes.put(&part, part.items.iter().map(|_| unknown(error.clone()))),
                Ok(answers) => {
                    let mut settled = Vec::with_capacity(part.items.len());
                    for (item, answer) in part.items.iter().zip(answers) {
                        let read = link::bytes(answer).and_then(|answer| outcome(&answer, *item, &mut elsewhere));
                        settled.push(read.unwrap_or_else(|what| unknown(fault::broken(what, "settle"))));
                    }
                    let missing = || unknown(fault::broken("an answer is missing", "settle"));
                    outcomes.put(&part, settled.into_iter().chain(std::iter::repeat_with(missing)));
                }
            }
        }
        // What this store never gave out holds nothing.
        let mut outcomes = outcomes.into_vec(|| TrackedOutcome::only(SettleOutcome::LeaseLost));
        if !elsewhere.is_empty() {
            self.pass_on(batch, &queues, &elsewhere, lease, &mut outcomes).await;
        }
        outcomes
    }

    /// Gives follow-ups to their queues. Where that fails they stay where they were laid down, and the sweep does it.
    async fn pass_on(
        &self,
        batch: &[TrackedSettle],
        queues: &[Option<QueueName>],
        elsewhere: &[Elsewhere],
        lease: Duration,
        outcomes: &mut [TrackedOutcome],
    ) {
        let follow_up = |place: &Elsewhere| &batch[place.item].settlement.then[place.index];
        for part in by_queue(elsewhere.iter().map(|place| Some(&follow_up(place).queue))) {
            let mut arguments = vec![millis(lease).to_string().into_bytes()];
            let mut delivered = Vec::new();
            for place in part.items.iter().map(|item| &elsewhere[*item]) {
                let (head, mut record) = copy_of(follow_up(place));
                let mut provider = Vec::new();
                match (place.waits, queues.get(place.item)) {
                    (true, Some(Some(parent))) => {
                        let laid = self.laid_down(parent, follow_up(place)).await.ok().flatten();
                        // Gone: the sweep was quicker.
                        let Some(laid) = laid.and_then(|laid| read_laid(laid).ok()) else {
                            arguments.extend([Vec::new(), head, Vec::new()]);
                            continue;
                        };
                        provider.extend_from_slice(&laid.provider);
                        delivered.push((parent.clone(), follow_up(place).clone()));
                    }
                    _ => record.clear(),
                }
                arguments.extend([provider, head, record]);
            }
            let Ok(staged) = self.follow(&part.queue, &arguments).await else { continue };
            for (place, staged) in part.items.iter().map(|item| &elsewhere[*item]).zip(staged) {
                if staged && let Some(outcome) = outcomes.get_mut(place.item) {
                    outcome.then.push(place.index);
                    outcome.then.sort_unstable();
                }
            }
            for (parent, follow_up) in delivered {
                self.take_up(&parent, &outbox_field(&follow_up)).await;
            }
        }
    }

    /// Takes follow-ups in; answers which of them are to be published.
    async fn follow(&self, queue: &QueueName, arguments: &[Vec<u8>]) -> Result<Vec<bool>> {
        self.number(queue, "settle").await?;
        let answers = self.promise(&scripts::FOLLOW, queue, arguments, "settle").await?;
        Ok(answers.into_iter().map(|answer| answer == Value::Int(1)).collect())
    }

    async fn laid_down(&self, parent: &QueueName, follow_up: &FollowUp) -> Result<Option<Bytes>> {
        let ask = redis::cmd("HGET").arg(format!("{}y", self.base(parent))).arg(outbox_field(follow_up)).take();
        let found = self.shared.link.ask(&ask).await.map_err(|error| fault::of(&error, "settle").on(parent))?;
        Ok(link::bytes(found).ok())
    }

    /// Its own queue has it. Should this fail, it is given there again, and known.
    async fn take_up(&self, parent: &QueueName, field: &[u8]) {
        let take = redis::cmd("HDEL").arg(format!("{}y", self.base(parent))).arg(field).take();
        let _ = self.shared.link.ask(&take).await;
    }

    /// Gives to their queues what was laid down beside jobs of this one, a part of it.
    pub(super) async fn sweep_follow_ups(&self, parent: &QueueName, lease: Duration) -> Result<()> {
        let fail = |error: redis::RedisError| fault::of(&error, "due").on(parent);
        let broken = |what| fault::broken(what, "due").on(parent);
        let key = format!("{}y", self.base(parent));
        let scan = redis::cmd("HRANDFIELD").arg(key).arg(50).arg("WITHVALUES").take();
        let found = link::items(self.shared.link.ask(&scan).await.map_err(fail)?).map_err(broken)?;
        // A pair is a list of its own, or not, by the protocol.
        let mut flat = found.into_iter().flat_map(|value| match value {
            Value::Array(pair) => pair,
            other => vec![other],
        });
        while let (Some(field), Some(value)) = (flat.next(), flat.next()) {
            let field = link::bytes(field).map_err(broken)?;
            let queue = field.get(16..).and_then(|name| std::str::from_utf8(name).ok());
            let queue = queue.and_then(|name| QueueName::new(name).ok()).ok_or_else(|| broken("a queue's name"))?;
            let laid = link::bytes(value).and_then(read_laid).map_err(broken)?;
            let arguments = vec![
                millis(lease).to_string().into_bytes(),
                laid.provider.to_vec(),
                laid.head.to_vec(),
                laid.record.to_vec(),
            ];
            self.follow(&queue, &arguments).await?;
            self.take_up(parent, &field).await;
        }
        Ok(())
    }
}

/// As one argument, where all are completed without follow-ups; nothing where one is not.
fn completions(part: &Part, batch: &[TrackedSettle], lease: Duration) -> Option<Vec<Vec<u8>>> {
    let mut all = Vec::with_capacity(48 * part.items.len());
    for TrackedSettle { fence, settlement, successor } in part.items.iter().map(|item| &batch[*item]) {
        let disposition = &settlement.disposition;
        if !matches!(disposition, Disposition::Complete { .. }) || successor.is_some() || !settlement.then.is_empty() {
            return None;
        }
        let (code, after, value) = written(disposition);
        all.put_slice(fence.id.as_bytes());
        all.put_u64_le(ticket_of(fence.epoch));
        all.put_u32_le(fence.generation);
        all.put_slice(&print(code, after, &value, disposition));
        all.put_u32_le(u32::try_from(value.len()).ok()?);
        all.put_slice(&value);
    }
    Some(vec![millis(lease).to_string().into_bytes(), all])
}

fn settle_arguments(part: &Part, batch: &[TrackedSettle], lease: Duration) -> Vec<Vec<u8>> {
    let mut arguments = vec![millis(lease).to_string().into_bytes()];
    for TrackedSettle { fence, settlement, successor } in part.items.iter().map(|item| &batch[*item]) {
        let (code, after, value) = written(&settlement.disposition);
        let mut head = Vec::with_capacity(48);
        head.put_slice(fence.id.as_bytes());
        head.put_u64_le(ticket_of(fence.epoch));
        head.put_u32_le(fence.generation);
        head.put_u8(code);
        head.put_slice(&print(code, after, &value, &settlement.disposition));
        put_six(&mut head, after);
        head.put_u8(u8::from(successor.is_some()));
        head.put_u16_le(u16::try_from(settlement.then.len()).unwrap_or(u16::MAX));
        arguments.extend([head, value]);
        if let Some(successor) = successor {
            let job = JobRef::new(part.queue.clone(), successor.id);
            arguments.extend([wire::head(&job, successor), wire::record(successor)]);
        }
        for follow_up in &settlement.then {
            let (head, record) = copy_of(follow_up);
            let queue = if follow_up.queue == part.queue { "" } else { follow_up.queue.as_str() };
            arguments.extend([queue.as_bytes().to_vec(), head, record]);
        }
    }
    arguments
}

fn copy_of(FollowUp { queue, envelope }: &FollowUp) -> (Vec<u8>, Vec<u8>) {
    (wire::head(&JobRef::new(queue.clone(), envelope.id), envelope), wire::record(envelope))
}

fn outbox_field(FollowUp { queue, envelope }: &FollowUp) -> Vec<u8> {
    [envelope.id.as_bytes(), queue.as_str().as_bytes()].concat()
}

/// A follow-up as it is laid down beside its parent.
struct Laid {
    provider: Bytes,
    head: Bytes,
    record: Bytes,
}

fn read_laid(laid: Bytes) -> Result<Laid, fault::Broken> {
    let mut laid = Reader(laid);
    let head = usize::from(laid.u16()?);
    let provider = usize::from(laid.u8()?);
    Ok(Laid { provider: laid.bytes(provider)?, head: laid.bytes(head)?, record: laid.0 })
}

/// What a script answered of a settlement; what other queues know of it is added to `elsewhere`.
fn outcome(answer: &[u8], item: usize, elsewhere: &mut Vec<Elsewhere>) -> Result<TrackedOutcome, fault::Broken> {
    let (outcome, marks) = match answer.split_first().ok_or("an empty answer")? {
        (b'S', marks) => (SettleOutcome::Settled, marks),
        (b'A', marks) => (SettleOutcome::AlreadySettled, marks),
        (b'C', _) => return Ok(TrackedOutcome::only(SettleOutcome::Conflict)),
        (b'L', _) => return Ok(TrackedOutcome::only(SettleOutcome::LeaseLost)),
        _ => return Err("an unknown answer"),
    };
    let (successor, follow_ups) = marks.split_first().ok_or("an answer is missing")?;
    let mut then = Vec::new();
    for (index, mark) in follow_ups.iter().enumerate() {
        match mark {
            b'1' => then.push(index),
            b'0' => {}
            b'Y' | b'?' => elsewhere.push(Elsewhere { item, index, waits: *mark == b'Y' }),
            _ => return Err("an unknown answer"),
        }
    }
    Ok(TrackedOutcome { outcome, successor: *successor == b'1', then })
}
