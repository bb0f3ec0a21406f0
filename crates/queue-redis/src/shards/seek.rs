//! Finding a job by its id, wherever it is: the id tells the shard of a job without a unique key, a reference that was given out tells it of any.

use futures_util::future::join_all;
use queue_core::{Result, job::JobId};

use super::in_order;
use crate::{fault, provider::Shared, specs::Known, store::Seen};

/// A job, in the shard where it was found, or where it would be.
pub(crate) struct Found {
    pub(crate) place: u16,
    pub(crate) seen: Seen,
}

impl Shared {
    /// What is kept of these jobs, each an id and the place that is known of it. One call where they are where they are looked for first, else
    /// one more to each of the other shards.
    pub(crate) async fn seek(&self, known: &Known, jobs: &[(JobId, u16)]) -> Vec<Result<Found>> {
        let guesses: Vec<(JobId, u16)> = jobs.iter().map(|(id, at)| (*id, known.guess(*id, *at))).collect();
        let look = async |shard: &Known, asked: Vec<(JobId, u16)>| -> Vec<Result<Found>> {
            let ids: Vec<JobId> = asked.iter().map(|(id, _)| *id).collect();
            match self.look(&shard.base, &ids).await {
                Ok((_, seen)) => seen.into_iter().map(|seen| Ok(Found { place: shard.place, seen })).collect(),
                Err(error) => ids.iter().map(|_| Err(error.clone())).collect(),
            }
        };
        let missing = || Err(fault::broken("an answer is missing", "get"));
        let mut found = in_order(known, guesses.clone(), |(_, guess)| *guess, &look, missing).await;
        let is_found = |found: &Result<Found>| found.as_ref().is_ok_and(|found| matches!(found.seen, Seen::Kept(_)));
        let lost: Vec<usize> = (0..jobs.len()).filter(|index| !is_found(&found[*index])).collect();
        if known.shards.is_empty() || lost.is_empty() {
            return found;
        }
        let rest = known.shards.iter().map(|shard| {
            let here: Vec<usize> = lost.iter().copied().filter(|index| guesses[*index].1 != shard.place).collect();
            let ids = here.iter().map(|index| guesses[*index]).collect::<Vec<_>>();
            let looked = look(shard, ids.clone());
            async move { if ids.is_empty() { Vec::new() } else { here.into_iter().zip(looked.await).collect() } }
        });
        for (index, other) in join_all(rest).await.into_iter().flatten() {
            if weight(&other) > weight(&found[index]) {
                found[index] = other;
            }
        }
        found
    }
}

/// What tells more about a job: that it is there, that it was, that it may be where nobody answers, that it is not.
fn weight(found: &Result<Found>) -> u8 {
    match found {
        Ok(Found { seen: Seen::Kept(_), .. }) => 3,
        Ok(Found { seen: Seen::Gone, .. }) => 2,
        Err(_) => 1,
        Ok(Found { seen: Seen::Nothing, .. }) => 0,
    }
}
