//! Publishing: calls of a script, and what became of each job.

use std::time::Duration;

use futures_util::{FutureExt as _, future::BoxFuture};
use queue_core::{
    Error, ErrorCode, QueueName,
    job::{Envelope, JobRef},
    provider::{Durability, OnFull, PublishOptions, PublishOutcome, Rejection},
};
use redis::Value;
use tokio::time::Instant;

use super::{BATCH, Shared, shared::closed};
use crate::{
    SCHEME,
    coalesce::CALL_BYTES,
    fault,
    layout::Layout,
    link::{self, Link},
    record, scripts, shards,
    specs::{Known, Specs},
};

/// How often a publisher that waits for room looks again.
const ROOM: Duration = Duration::from_millis(50);
/// A deadline beyond it is as good as none, and cannot overflow the clock.
const LONGEST_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Cuts into one call's worth each, by number and by bytes.
fn parts<'a>(batch: &[Envelope], indexes: &'a [usize]) -> Vec<&'a [usize]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, index) in indexes.iter().enumerate() {
        let len = batch[*index].encoded_len();
        if at > start && (at - start == BATCH || bytes + len > CALL_BYTES) {
            parts.push(&indexes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += len;
    }
    if start < indexes.len() {
        parts.push(&indexes[start..]);
    }
    parts
}

/// What the calls of publishers that ride together have in common.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) known: Known,
    /// Room in a full queue, for what was promised already.
    pub(crate) exceeds: bool,
    pub(crate) durability: Option<Durability>,
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        let this = (&self.known.base, &self.known.born, self.exceeds, self.durability);
        this == (&other.known.base, &other.known.born, other.exceeds, other.durability)
    }
}

impl Eq for Line {}

impl std::hash::Hash for Line {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.known.base, self.exceeds).hash(state);
    }
}

/// How often a queue that is dropped and declared anew all the time is looked at for one call.
const LOOKS: usize = 3;

/// One script call's worth of jobs, and what became of each. A queue that was dropped since it was known is what it is now.
pub(crate) async fn publish_once(
    link: &Link,
    layout: &Layout,
    specs: &Specs,
    line: Line,
    batch: &[Envelope],
) -> Vec<PublishOutcome> {
    publish_looking(link, layout, specs, line, batch, LOOKS).await
}

/// To the shards that the queue has now.
fn publish_anew<'a>(
    link: &'a Link,
    layout: &'a Layout,
    specs: &'a Specs,
    line: Line,
    batch: &'a [Envelope],
    left: usize,
) -> BoxFuture<'a, Vec<PublishOutcome>> {
    async move {
        let missing = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
        let run = async |shard: &Known, jobs: Vec<Envelope>| {
            let line = Line { known: shard.clone(), ..line.clone() };
            publish_looking(link, layout, specs, line, &jobs, left).await
        };
        let place = |job: &Envelope| line.known.shard_of(job).place;
        shards::in_order(&line.known, batch.to_vec(), place, run, missing).await
    }
    .boxed()
}

async fn publish_looking(
    link: &Link,
    layout: &Layout,
    specs: &Specs,
    mut line: Line,
    batch: &[Envelope],
    mut left: usize,
) -> Vec<PublishOutcome> {
    let mut limit = usize::MAX;
    loop {
        let too_large = |job: &Envelope| job.encoded_len() > limit;
        let done = match batch.iter().any(too_large) {
            false => publish_to(link, &line, batch).await,
            true => {
                let fits: Vec<Envelope> = batch.iter().filter(|job| !too_large(job)).cloned().collect();
                publish_to(link, &line, &fits).await.map(|done| {
                    let mut done = done.into_iter();
                    let refuse = |actual| PublishOutcome::Rejected(Rejection::TooLarge { limit, actual });
                    let missing = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
                    let outcome = |job: &Envelope| match too_large(job) {
                        true => refuse(job.encoded_len()),
                        false => done.next().unwrap_or_else(missing),
                    };
                    batch.iter().map(outcome).collect()
                })
            }
        };
        if let Some(outcomes) = done {
            return outcomes;
        }
        left -= 1;
        let known = match specs.anew(link, layout, &line.known).await {
            Ok(known) if left > 0 => known,
            Ok(_) => {
                let again = Error::new(ErrorCode::Unavailable, "the queue is dropped and declared anew all the time");
                let again = again.at("publish").by(SCHEME).on(&line.known.spec.name);
                return vec![PublishOutcome::Rejected(Rejection::Unavailable(again)); batch.len()];
            }
            Err(error) => return vec![PublishOutcome::Rejected(Rejection::Unavailable(error)); batch.len()],
        };
        limit = known.spec.max_encoded_len;
        line.durability = line.durability.or(known.spec.durability);
        if known.spec.shards != line.known.spec.shards {
            line.known = known;
            return publish_anew(link, layout, specs, line, batch, left).await;
        }
        line.known = known.part(line.known.place).clone();
    }
}

/// Nothing where the queue is not the one that is known.
async fn publish_to(link: &Link, line: &Line, batch: &[Envelope]) -> Option<Vec<PublishOutcome>> {
    let known = &line.known;
    let mut arguments = Vec::with_capacity(3 + 2 * batch.len());
    let room = if line.exceeds { u64::from(u32::MAX) } else { known.max_len() };
    arguments.push(room.to_string().into_bytes());
    let mut jobs: Vec<_> = batch.iter().map(record::to_publish).collect();
    // What they share is said once, and spares the script a look at each.
    let shared = record::shared_head(&jobs);
    if !shared.is_empty() {
        jobs.iter_mut().for_each(|(head, _)| head.truncate(record::ID));
    }
    arguments.push(shared);
    arguments.extend(jobs.into_iter().flat_map(|(head, body)| [head, body]));
    arguments.push(known.born.as_bytes().to_vec());
    let answers = match link.run_assured(&scripts::PUBLISH, &known.base, &arguments, line.durability).await {
        Ok(Value::Int(_)) => return Some(vec![PublishOutcome::Accepted { place: known.place }; batch.len()]),
        Ok(answer) => link::items(answer).unwrap_or_default(),
        Err(error) if fault::is_stale(&error) => return None,
        Err(error) => {
            let refused = fault::is_refusal(&error);
            let error = fault::of(&error, "publish").on(&known.spec.name);
            let outcome = match refused {
                true => PublishOutcome::Rejected(Rejection::Unavailable(error)),
                false => PublishOutcome::Unknown(error),
            };
            return Some(vec![outcome; batch.len()]);
        }
    };
    Some(answers.into_iter().map(|answer| outcome(answer, known)).collect())
}

fn outcome(answer: Value, known: &Known) -> PublishOutcome {
    let (queue, place) = (&known.spec.name, known.place);
    let unknown = |what| PublishOutcome::Unknown(fault::broken(what, "publish").on(queue));
    match link::bytes(answer) {
        Err(what) => unknown(what),
        Ok(answer) => match answer.split_first() {
            Some((b'A', _)) => PublishOutcome::Accepted { place },
            Some((b'F', _)) => PublishOutcome::Rejected(Rejection::Full),
            Some((b'D', id)) => match record::read_id(id) {
                Ok(id) => PublishOutcome::Duplicate { existing: JobRef { queue: queue.clone(), id, place } },
                Err(what) => unknown(what),
            },
            _ => unknown("an unknown answer"),
        },
    }
}

impl Shared {
    /// Tells Redis, and nobody else.
    pub(crate) async fn publish(
        &self,
        queue: &QueueName,
        batch: Vec<Envelope>,
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let refuse = |rejection: Rejection| vec![PublishOutcome::Rejected(rejection); batch.len()];
        if let Err(error) = self.open("publish") {
            return refuse(Rejection::Unavailable(error));
        }
        match self.assure(options.durability, "publish").await {
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::Unsupported => return refuse(Rejection::Denied(error)),
            Err(error) => return refuse(Rejection::Unavailable(error)),
        }
        let known = match self.known(queue).await {
            Ok(known) => known,
            Err(error) => return refuse(Rejection::Unavailable(error)),
        };
        let unknown = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
        let run = |shard, jobs| self.publish_all(shard, jobs, options);
        shards::in_order(&known, batch, |job| known.shard_of(job).place, run, unknown).await
    }

    async fn publish_all(&self, known: &Known, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let limit = known.spec.max_encoded_len;
        let check = |envelope: &Envelope| -> Option<PublishOutcome> {
            let actual = envelope.encoded_len();
            if actual > limit {
                return Some(PublishOutcome::Rejected(Rejection::TooLarge { limit, actual }));
            }
            let named = known.spec.check_partition(envelope.partition().as_deref());
            named.err().map(|error| PublishOutcome::Rejected(Rejection::Denied(error.by(SCHEME))))
        };
        let mut outcomes: Vec<Option<PublishOutcome>> = batch.iter().map(check).collect();
        let mut waiting: Vec<usize> = (0..batch.len()).filter(|index| outcomes[*index].is_none()).collect();
        let deadline = Instant::now() + options.deadline.min(LONGEST_DEADLINE);
        let late = || {
            let late = Error::new(ErrorCode::Timeout, "Redis did not answer before the deadline");
            PublishOutcome::Unknown(late.at("publish").by(SCHEME).on(&known.spec.name))
        };
        let durability = options.durability.or(known.spec.durability);
        let line = Line { known: known.clone(), exceeds: options.on_full == OnFull::Exceed, durability };
        let unknown = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
        loop {
            let begun = Instant::now();
            let mut full = Vec::new();
            for part in parts(&batch, &waiting) {
                let jobs: Vec<Envelope> = part.iter().map(|index| batch[*index].clone()).collect();
                let published = tokio::time::timeout_at(deadline, self.lines.send(&line, jobs)).await;
                let mut published = match published {
                    Ok(Some(published)) => published,
                    Ok(None) => vec![PublishOutcome::Rejected(Rejection::Unavailable(closed("publish"))); part.len()],
                    Err(_) => vec![late(); part.len()],
                };
                published.resize_with(part.len(), unknown);
                for (index, outcome) in part.iter().zip(published) {
                    if matches!(outcome, PublishOutcome::Rejected(Rejection::Full)) {
                        full.push(*index);
                    }
                    outcomes[*index] = Some(outcome);
                }
            }
            if full.is_empty() || options.on_full != OnFull::Wait {
                break;
            }
            waiting = full;
            let asking = begun.elapsed();
            tokio::time::sleep(ROOM.min(deadline.saturating_duration_since(Instant::now()))).await;
            if !self.is_answered_in_time(known, asking, deadline).await {
                break;
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect()
    }

    /// Another try that is not answered in time would make a plain refusal an unknown one. Where the last answer took too long for one more
    /// like it, questions that change nothing tell when the server is quick again. `false`: it was not before the deadline.
    async fn is_answered_in_time(&self, known: &Known, mut asking: Duration, deadline: Instant) -> bool {
        let left = || deadline.saturating_duration_since(Instant::now());
        while left() <= 2 * asking {
            let begun = Instant::now();
            let question = redis::cmd("HGET").arg(format!("{}n", known.base)).arg("p").take();
            if let Ok(Ok(_)) = tokio::time::timeout_at(deadline, self.link.ask(&question)).await {
                asking = begun.elapsed();
            }
            tokio::time::sleep(ROOM.min(left())).await;
            if left().is_zero() {
                return false;
            }
        }
        true
    }
}
