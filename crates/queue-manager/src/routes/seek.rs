//! Finding jobs of which several providers may know: each is asked for all that may be at it, in one call.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::{BoxFuture, join_all};
use queue_core::{
    Error, ErrorCode, JobRef, JobScheduler, JobStore, Result,
    provider::Cancel,
    store::{CancelOutcome, Lookup},
};

/// What is known of each job. `places` says for each where it may be, in the order in which it is looked for.
pub(crate) async fn look_up(
    schedulers: &[&JobScheduler],
    jobs: &[JobRef],
    places: Vec<Result<Vec<usize>>>,
) -> Vec<Result<Lookup>> {
    seek(
        schedulers,
        jobs,
        places,
        |store, jobs| Box::pin(async move { store.get(&jobs).await }),
        |found| match found {
            Lookup::Found(_) => Certainty::Here,
            Lookup::Unknown => Certainty::Perhaps,
            Lookup::Gone => Certainty::Formerly,
            Lookup::NotFound => Certainty::Not,
        },
    )
    .await
}

/// What each request to cancel came to.
pub(crate) async fn cancel(
    schedulers: &[&JobScheduler],
    jobs: &[JobRef],
    places: Vec<Result<Vec<usize>>>,
    cancel: &Cancel,
) -> Vec<Result<CancelOutcome>> {
    seek(
        schedulers,
        jobs,
        places,
        |store, jobs| Box::pin(async move { store.cancel(&jobs, cancel).await }),
        |outcome| match outcome {
            CancelOutcome::Cancelled | CancelOutcome::Requested => Certainty::Here,
            // Also the answer for an id so old that its record would be gone, wherever the job was.
            CancelOutcome::AlreadyTerminal => Certainty::Formerly,
            CancelOutcome::NotFound => Certainty::Not,
        },
    )
    .await
}

/// What an answer says of where the job is, from nothing to all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    Not,
    Formerly,
    /// It cannot be looked up there, or not now: so it cannot be said that it is nowhere.
    Perhaps,
    Here,
}

type Call<'a, A> = BoxFuture<'a, Vec<Result<A>>>;

async fn seek<'c, A: Send + 'c>(
    schedulers: &[&JobScheduler],
    jobs: &[JobRef],
    places: Vec<Result<Vec<usize>>>,
    call: impl Fn(Arc<dyn JobStore>, Vec<JobRef>) -> Call<'c, A> + Sync,
    certainty: impl Fn(&A) -> Certainty + Sync,
) -> Vec<Result<A>> {
    let rank = |answer: &Result<A>| answer.as_ref().map_or(Certainty::Perhaps, &certainty);
    let mut best: Vec<Option<Result<A>>> = jobs.iter().map(|_| None).collect();
    let mut ways: Vec<std::vec::IntoIter<usize>> = Vec::with_capacity(jobs.len());
    for (index, places) in places.into_iter().enumerate() {
        ways.push(
            places
                .unwrap_or_else(|error| {
                    best[index] = Some(Err(error));
                    Vec::new()
                })
                .into_iter(),
        );
    }
    loop {
        let mut round: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, way) in ways.iter_mut().enumerate() {
            let found = best[index].as_ref().is_some_and(|answer| rank(answer) == Certainty::Here);
            if let Some(place) = way.next().filter(|_| !found) {
                round.entry(place).or_default().push(index);
            }
        }
        if round.is_empty() {
            return best.into_iter().map(|answer| answer.unwrap_or_else(|| Err(no_answer()))).collect();
        }
        let calls = round.into_iter().map(|(place, indices)| {
            let wanted: Vec<JobRef> = indices.iter().map(|index| jobs[*index].clone()).collect();
            let call = &call;
            async move {
                let mut answers = match schedulers[place].store() {
                    Ok(store) => call(Arc::clone(store), wanted).await,
                    Err(error) => wanted.iter().map(|_| Err(error.clone())).collect(),
                };
                answers.resize_with(indices.len(), || Err(no_answer()));
                indices.into_iter().zip(answers)
            }
        });
        for (index, answer) in join_all(calls).await.into_iter().flatten() {
            if best[index].as_ref().is_none_or(|former| rank(&answer) > rank(former)) {
                best[index] = Some(answer);
            }
        }
    }
}

fn no_answer() -> Error {
    Error::new(ErrorCode::Internal, "the provider answered for fewer jobs than it was asked about")
}
