//! Follow-ups into queues that another server of a cluster may have.
//!
//! One script changes one slot. What follows into another is published before the settlement: the ids are the job's own
//! choice, so that a job that runs again, because its worker died in between, publishes the same ones.

use bytes::BufMut;
use queue_core::provider::{PublishOutcome, SettleOutcome, Settlement};

use crate::{
    client::slot_of,
    consumer::RedisConsumer,
    fault,
    link::{items, number, stronger},
    provider::{Line, publish_once},
    record, scripts,
    specs::Known,
};

impl RedisConsumer {
    /// Publishes those follow-ups that the settlement's script cannot; which they are.
    pub(crate) async fn send_ahead(
        &self,
        settlement: &Settlement,
        queues: &[Known],
    ) -> Result<Vec<bool>, SettleOutcome> {
        let own = slot_of(self.shard(settlement).base.as_bytes());
        let is_apart = |known: &Known| self.shared().link.is_cluster() && slot_of(known.base.as_bytes()) != own;
        let apart: Vec<bool> = queues.iter().map(is_apart).collect();
        // A worker whose lease is over publishes nothing; what its settlement is, the script says.
        if !apart.contains(&true) || !self.holds(settlement).await? {
            return Ok(apart);
        }
        for (index, known) in queues.iter().enumerate().filter(|(index, _)| apart[*index]) {
            let shared = self.shared();
            let durability = stronger(known.spec.durability, self.known().spec.durability);
            let line = Line { known: known.clone(), exceeds: true, durability };
            let batch = [settlement.then[index].envelope.clone()];
            let published = publish_once(&shared.link, &shared.layout, &shared.specs, line, &batch);
            let error = match Box::pin(published).await.pop() {
                Some(PublishOutcome::Accepted { .. } | PublishOutcome::Duplicate { .. }) => continue,
                Some(PublishOutcome::Rejected(rejection)) => rejection.into(),
                Some(PublishOutcome::Unknown(error)) => error,
                None => fault::broken("an answer is missing", "settle"),
            };
            return Err(SettleOutcome::NotSettled { then_index: Some(index), error });
        }
        Ok(apart)
    }

    /// Where the job is.
    fn shard(&self, settlement: &Settlement) -> &Known {
        self.known().part(settlement.receipt.slot as u16)
    }

    /// Whether the lease stands: a beat that changes nothing.
    async fn holds(&self, settlement: &Settlement) -> Result<bool, SettleOutcome> {
        let mut head = Vec::with_capacity(40);
        head.put_slice(settlement.receipt.id.as_bytes());
        head.put_u64_le(settlement.receipt.epoch);
        head.put_u8(0);
        record::put_six(&mut head, 0);
        head.put_u16_le(0);
        let unknown = |error| SettleOutcome::NotSettled { then_index: None, error };
        let answer = self.shared().link.run(&scripts::BEAT, &self.shard(settlement).base, &[head, Vec::new()]).await;
        let answer = answer.map_err(|error| unknown(fault::of(&error, "settle").on(&self.known().spec.name)))?;
        let broken = |what| unknown(fault::broken(what, "settle"));
        let left = items(answer).map_err(broken)?.into_iter().next().unwrap_or_default();
        Ok(number(&left).map_err(broken)? >= 0)
    }
}
