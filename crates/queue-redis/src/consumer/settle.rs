//! How claims end.

use bytes::BufMut;
use queue_core::{
    Result,
    provider::{Disposition, Durability, Receipt, Rejection, SettleOutcome, Settlement},
    queue_spec::Tracking,
};
use redis::Value;

use super::RedisConsumer;
use crate::{
    SCHEME, fault, link,
    print::{print, written},
    provider::BATCH,
    record, scripts,
    specs::Known,
};

/// Settlements of jobs that were claimed together, or of any that were not.
#[derive(Debug, Default)]
struct Group {
    /// Where each stands among all.
    indexes: Vec<usize>,
    places: Vec<u8>,
    /// Id, epoch and print of each.
    notes: Vec<u8>,
    /// Size and result of each.
    extras: Vec<u8>,
}

/// A settlement as the script takes it.
struct Said {
    arguments: Vec<Vec<u8>>,
    /// How many are in it.
    follow_ups: usize,
    /// What the queues of these ask for.
    durability: Option<Durability>,
}

impl RedisConsumer {
    pub(super) async fn settle_all(&self, shard: &Known, batch: &[Settlement]) -> Vec<SettleOutcome> {
        // Sent one behind the other: the server has the next while the answer of one is on its way.
        let parts = batch.chunks(BATCH).map(|part| self.settle_part(shard, part));
        futures_util::future::join_all(parts).await.concat()
    }

    pub(super) async fn settle_part(&self, shard: &Known, part: &[Settlement]) -> Vec<SettleOutcome> {
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
        let mut durability = self.known.spec.durability;
        let mut sent = Vec::with_capacity(part.len());
        let all_completed = self.completed_arguments(part);
        let is_usual = all_completed.is_some();
        for (together, group) in all_completed.into_iter().flatten() {
            let key = if together == 0 { String::new() } else { together.to_string() };
            arguments.extend([key.into_bytes(), group.places, group.notes, group.extras]);
            sent.extend(group.indexes);
        }
        let others = if is_usual { &[][..] } else { part };
        for (index, settlement) in others.iter().enumerate() {
            match self.settle_arguments(settlement).await {
                Ok(said) => {
                    arguments.extend(said.arguments);
                    follow_ups += said.follow_ups;
                    durability = link::stronger(durability, said.durability);
                    sent.push(index);
                }
                Err(refusal) => outcomes[index] = Some(refusal),
            }
        }
        if !sent.is_empty() {
            if !is_usual {
                arguments[1] = follow_ups.to_string().into_bytes();
            }
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

    /// As `settle.lua` takes them where all are completed without follow-ups, each group of one claim; nothing where one is not.
    fn completed_arguments(&self, part: &[Settlement]) -> Option<Vec<(u64, Group)>> {
        let is_usual =
            |one: &Settlement| one.then.is_empty() && matches!(one.disposition, Disposition::Complete { .. });
        if !part.iter().all(is_usual) {
            return None;
        }
        let is_tracked = self.known.spec.tracking == Tracking::Full;
        let mut groups: Vec<(u64, Group)> = Vec::new();
        let mut without_result = None;
        let out = self.out();
        for (index, Settlement { receipt, disposition, .. }) in part.iter().enumerate() {
            let (code, after, value) = written(disposition);
            let print = match value.is_empty() {
                true => *without_result.get_or_insert_with(|| print(code, after, &value, disposition)),
                false => print(code, after, &value, disposition),
            };
            let (mut together, size) =
                out.get(&(receipt.id, receipt.epoch)).map_or((0, 0), |out| (out.together, out.size));
            let place = u8::try_from(receipt.epoch.saturating_sub(together)).unwrap_or(0);
            if place == 0 {
                together = 0;
            }
            let at = groups.iter().rposition(|(epoch, _)| *epoch == together).unwrap_or_else(|| {
                groups.push((together, Group::default()));
                groups.len() - 1
            });
            let (_, group) = groups.get_mut(at)?;
            group.indexes.push(index);
            group.places.push(place);
            group.notes.put_slice(receipt.id.as_bytes());
            group.notes.put_u64_le(receipt.epoch);
            group.notes.put_slice(&print);
            if is_tracked {
                group.extras.put_u32_le(size);
                group.extras.put_u32_le(u32::try_from(value.len()).ok()?);
                group.extras.put_slice(&value);
            }
        }
        Some(groups)
    }

    /// As `settle.lua` takes it, or why a follow-up cannot be published.
    async fn settle_arguments(&self, settlement: &Settlement) -> Result<Said, SettleOutcome> {
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
        let mut durability = None;
        for ((follow_up, known), sent) in settlement.then.iter().zip(queues).zip(ahead) {
            if !sent {
                durability = link::stronger(durability, known.spec.durability);
                let (head, body) = record::to_publish(&follow_up.envelope);
                arguments.extend([known.base.into_bytes(), known.born.as_bytes().to_vec(), head, body]);
            }
        }
        Ok(Said { arguments, follow_ups: with, durability })
    }
}
