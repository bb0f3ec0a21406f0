//! Which shard a job is in, and batches cut by it.

use futures_util::future::join_all;
use queue_core::job::{Envelope, JobId};

use crate::specs::Known;

/// Never to be changed, or jobs that wait are not found any more: CRC16 as slots are counted, modulo the number of shards.
fn place(bytes: &[u8], count: usize) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(bytes) % u16::try_from(count.max(1)).unwrap_or(u16::MAX)
}

impl Known {
    /// The shard of a job that is new: that of its unique key, so that whoever has the same one meets it there, else of its id.
    pub(crate) fn shard_of(&self, envelope: &Envelope) -> &Self {
        let key = envelope.unique.as_ref().map(|unique| unique.key.as_str().as_bytes());
        self.part(place(key.unwrap_or(envelope.id.as_bytes()), self.count()))
    }

    /// Where to look first for a job of which only this is known. A place of zero may also mean that nobody knew it.
    pub(crate) fn guess(&self, id: JobId, at: u16) -> u16 {
        let count = self.count();
        if at == 0 || usize::from(at) >= count { place(id.as_bytes(), count) } else { at }
    }
}

/// Has each shard do its part of a batch, all at once; answers in the order of the batch. What goes to one shard stays in its order.
pub(crate) async fn in_order<'a, T, O, F: Future<Output = Vec<O>>>(
    known: &'a Known,
    batch: Vec<T>,
    place: impl Fn(&T) -> u16,
    run: impl Fn(&'a Known, Vec<T>) -> F,
    missing: impl Fn() -> O,
) -> Vec<O> {
    if known.shards.is_empty() {
        return run(known, batch).await;
    }
    let mut outcomes: Vec<Option<O>> = batch.iter().map(|_| None).collect();
    let mut parts: Vec<(Vec<usize>, Vec<T>)> = known.shards.iter().map(|_| (Vec::new(), Vec::new())).collect();
    for (index, item) in batch.into_iter().enumerate() {
        let (indexes, items) = &mut parts[usize::from(known.part(place(&item)).place)];
        indexes.push(index);
        items.push(item);
    }
    let parts = known.shards.iter().zip(parts).filter(|(_, (indexes, _))| !indexes.is_empty());
    let calls = parts.map(|(shard, (indexes, items))| {
        let done = run(shard, items);
        async move { (indexes, done.await) }
    });
    for (indexes, done) in join_all(calls).await {
        for (index, outcome) in indexes.into_iter().zip(done) {
            outcomes[index] = Some(outcome);
        }
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(&missing)).collect()
}
