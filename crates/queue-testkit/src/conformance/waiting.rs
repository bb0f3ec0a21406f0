//! What people ask of jobs that wait: how many are before it, and which keys hold jobs.

use std::time::Duration;

use queue_core::{
    ErrorCode, JobError, JobRef, QueueName,
    provider::{Cancel, Disposition, ParkKey},
};
use tokio::time::sleep;

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq},
    refusal::typed,
};

cases! { "waiting";
    position_counts_who_is_before []
    position_of_what_does_not_wait_is_none [Retry]
    parked_keys_are_listed_by_how_many [Park]
}

/// The position, where the provider can tell; a refusal names itself.
async fn position(ctx: &Ctx, job: &JobRef) -> Outcome<Option<Option<u64>>> {
    match ctx.provider().admin().position(job).await {
        Ok(position) => Ok(Some(position)),
        Err(error) if error.code() == ErrorCode::Unsupported => typed(ctx, "position", &error).map(|()| None),
        Err(error) => Err(error.into()),
    }
}

/// Bands and shards make an estimate of it; on one priority of a quiet queue it is a number.
async fn position_counts_who_is_before(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("position");
    let jobs = ctx.publish_texts(&queue, &["a", "b", "c", "d"]).await?;
    for (ahead, job) in (0..).zip(&jobs) {
        let Some(position) = position(ctx, job).await? else { return Ok(()) };
        check_eq!(position, Some(ahead), "how many are before {job}");
    }
    let high = ctx.publish(&queue, ctx.ranked("high", 15)).await?;
    check_eq!(position(ctx, &high).await?, Some(Some(0)), "how many are before one of the highest priority");
    check_eq!(
        position(ctx, &jobs[1]).await?,
        Some(Some(2)),
        "how many are before the second, after one came before all"
    );
    if ctx.caps().cancel_pending.is_supported() {
        ctx.store()?.cancel(&jobs[..1], &Cancel::by("suite")).await;
        check_eq!(position(ctx, &jobs[1]).await?, Some(Some(1)), "how many are before the second, without the first");
    }
    Ok(())
}

async fn position_of_what_does_not_wait_is_none(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("position");
    let nobody = JobRef::new(queue.clone(), ctx.id());
    let Some(unknown) = position(ctx, &nobody).await? else { return Ok(()) };
    check_eq!(unknown, None, "the position of a job that is not there");
    let jobs = ctx.publish_texts(&queue, &["a", "b", "c", "d"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let held = ctx.take(&consumer, 3).await?;
    ctx.complete(&consumer, &held[0]).await?;
    let error = JobError::custom("TEMP", "again");
    ctx.end(&consumer, &held[1], Disposition::Retry { after: Duration::from_secs(600), error }).await?;
    let mut expected = vec![None, None, None, Some(0)];
    if ctx.caps().park.is_supported() {
        let park = Disposition::Park { key: ParkKey("limit".into()), at_most: Duration::from_secs(600) };
        ctx.end(&consumer, &ctx.take_one(&consumer).await?, park).await?;
        expected[3] = None;
    }
    for (expected, job) in expected.into_iter().zip(&jobs) {
        check_eq!(
            position(ctx, job).await?,
            Some(expected),
            "the position of {job}: completed, retrying, running, parked"
        );
    }
    Ok(())
}

async fn listed(ctx: &Ctx, queue: &QueueName, limit: usize) -> Outcome<Option<Vec<(String, u64)>>> {
    match ctx.provider().admin().parked(queue, limit).await {
        Ok(keys) => Ok(Some(keys.into_iter().map(|(key, jobs)| (key.0.to_string(), jobs)).collect())),
        Err(error) if error.code() == ErrorCode::Unsupported => typed(ctx, "parked", &error).map(|()| None),
        Err(error) => Err(error.into()),
    }
}

async fn parked_keys_are_listed_by_how_many(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("parked");
    ctx.publish_texts(&queue, &["a", "b", "c", "d", "e"]).await?;
    let Some(none) = listed(ctx, &queue, 10).await? else { return Ok(()) };
    check_eq!(none, [], "where nothing is parked");
    let consumer = ctx.consumer(&queue).await?;
    let held = ctx.take(&consumer, 5).await?;
    let keys = [("breaker:ü", 600), ("tenant:a", 600), ("tenant:a", 600), ("rate:x", 2)];
    for (delivery, (key, seconds)) in held.iter().zip(keys) {
        let at_most = Duration::from_secs(seconds);
        ctx.end(&consumer, delivery, Disposition::Park { key: ParkKey(key.into()), at_most }).await?;
    }
    let entry = |key: &str, jobs| (key.to_owned(), jobs);
    let mut found = listed(ctx, &queue, 10).await?.unwrap_or_default();
    check_eq!(found.first(), Some(&entry("tenant:a", 2)), "the key with the most, first");
    found.sort();
    check_eq!(
        found,
        [entry("breaker:ü", 1), entry("rate:x", 1), entry("tenant:a", 2)],
        "keys, and how many wait for each"
    );
    check_eq!(listed(ctx, &queue, 1).await?, Some(vec![entry("tenant:a", 2)]), "one key at most");
    ctx.provider().unpark(&queue, &ParkKey("tenant:a".into()), 1).await?;
    sleep(ctx.by_then(Duration::from_secs(2))).await;
    let mut found = listed(ctx, &queue, 10).await?.unwrap_or_default();
    found.sort();
    check_eq!(found, [entry("breaker:ü", 1), entry("tenant:a", 1)], "after one was let go, and one came back by time");
    Ok(())
}
