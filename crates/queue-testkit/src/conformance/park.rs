//! Waiting for a key.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Consumer, QueueName,
    provider::{Disposition, ParkKey},
};
use tokio::time::Instant;

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq},
    context::texts,
};

cases! { "park";
    parked_until_unparked [Park, Store]
    unparks_as_many_as_asked [Park, Store]
    other_keys_stay [Park, Store]
    comes_back_after_at_most [Park, Store]
    unpark_of_nothing_is_nothing [Park, Store]
    unpark_is_idempotent [Park, Store]
    counted_as_parked [Park, Store, ExactDepth]
    keys_are_the_queues_own [Park, Store]
    unparked_come_before_fresher_ones [Park, Store, UnparkToHead]
    without_a_store_it_looks_again [Park, NoStore]
}

fn park(key: &str, at_most: Duration) -> Disposition {
    Disposition::Park { key: ParkKey(key.into()), at_most }
}

const LONG: Duration = Duration::from_secs(3_000);

async fn parked(ctx: &Ctx, names: &[&str], key: &str) -> Outcome<(QueueName, Arc<dyn Consumer>)> {
    let queue = ctx.queue("park");
    ctx.publish_texts(&queue, names).await?;
    let consumer = ctx.consumer(&queue).await?;
    for delivery in ctx.take(&consumer, names.len()).await? {
        ctx.end(&consumer, &delivery, park(key, LONG)).await?;
    }
    Ok((queue, consumer))
}

async fn unpark(ctx: &Ctx, queue: &QueueName, key: &str, n: usize) -> Outcome<usize> {
    Ok(ctx.provider().unpark(queue, &ParkKey(key.into()), n).await?)
}

async fn parked_until_unparked(ctx: &Ctx) -> Outcome {
    let (queue, consumer) = parked(ctx, &["a"], "limit:ü {x}").await?;
    ctx.nothing(&consumer, "it is parked").await?;
    check_eq!(unpark(ctx, &queue, "limit:ü {x}", 5).await?, 1, "how many were unparked");
    let before = Instant::now();
    let delivery = ctx.take_one(&consumer).await?;
    check!(before.elapsed() <= ctx.promptly() + ctx.lateness(Duration::ZERO), "it came after {:?}", before.elapsed());
    check_eq!(delivery.attempt, 1, "parking spends no attempt");
    check!(!delivery.redelivered, "it was settled before, so this is no redelivery");
    ctx.complete(&consumer, &delivery).await
}

async fn unparks_as_many_as_asked(ctx: &Ctx) -> Outcome {
    let (queue, consumer) = parked(ctx, &["a", "b", "c"], "limit").await?;
    check_eq!(unpark(ctx, &queue, "limit", 2).await?, 2, "how many were unparked");
    let got = ctx.take(&consumer, 2).await?;
    ctx.nothing(&consumer, "two were unparked").await?;
    ctx.complete_all(&consumer, &got).await?;
    check_eq!(unpark(ctx, &queue, "limit", 2).await?, 1, "how many were left to unpark");
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn other_keys_stay(ctx: &Ctx) -> Outcome {
    let (queue, consumer) = parked(ctx, &["a"], "limit").await?;
    for other in ["limi", "limit2", "LIMIT", "*"] {
        check_eq!(unpark(ctx, &queue, other, 5).await?, 0, "unparked under the key {other:?}");
    }
    ctx.nothing(&consumer, "its own key was not unparked").await
}

async fn comes_back_after_at_most(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("park");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let at_most = Duration::from_secs(2);
    let before = Instant::now();
    ctx.end(&consumer, &delivery, park("limit", at_most)).await?;
    let again = ctx.take_one(&consumer).await?;
    let took = before.elapsed();
    check!(took + Duration::from_millis(1) >= at_most, "parked for {at_most:?}, it came after {took:?}");
    check!(took <= at_most + ctx.lateness(at_most), "parked for {at_most:?} at most, it came after {took:?}");
    check_eq!(again.attempt, 1, "parking spends no attempt");
    ctx.complete(&consumer, &again).await?;
    check_eq!(unpark(ctx, &queue, "limit", 5).await?, 0, "unparked after it came back by itself");
    Ok(())
}

async fn unpark_of_nothing_is_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("park");
    ctx.publish_texts(&queue, &["waiting"]).await?;
    check_eq!(unpark(ctx, &queue, "limit", 5).await?, 0, "unparked where nothing is parked");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(unpark(ctx, &queue, "limit", 5).await?, 0, "unparked where a job runs");
    ctx.complete(&consumer, &delivery).await
}

async fn unpark_is_idempotent(ctx: &Ctx) -> Outcome {
    let (queue, consumer) = parked(ctx, &["a", "b"], "limit").await?;
    unpark(ctx, &queue, "limit", 5).await?;
    let got = ctx.take(&consumer, 2).await?;
    check_eq!(unpark(ctx, &queue, "limit", 5).await?, 0, "unparked once they run");
    ctx.nothing(&consumer, "each was unparked once").await?;
    ctx.complete_all(&consumer, &got).await
}

async fn counted_as_parked(ctx: &Ctx) -> Outcome {
    let (queue, consumer) = parked(ctx, &["a", "b"], "limit").await?;
    let stats = ctx.stats(&queue).await?;
    check_eq!((stats.pending, stats.parked, stats.running), (2, 2, 0), "pending, of these parked, and running");
    unpark(ctx, &queue, "limit", 1).await?;
    let stats = ctx.stats(&queue).await?;
    check_eq!((stats.pending, stats.parked), (2, 1), "pending, and of these parked");
    let got = ctx.take(&consumer, 1).await?;
    let stats = ctx.stats(&queue).await?;
    check_eq!((stats.pending, stats.parked, stats.running), (1, 1, 1), "pending, of these parked, and running");
    check_eq!(texts(&got).len(), 1, "what came");
    Ok(())
}

async fn keys_are_the_queues_own(ctx: &Ctx) -> Outcome {
    let (_one, first) = parked(ctx, &["a"], "limit").await?;
    let (two, second) = parked(ctx, &["b"], "limit").await?;
    check_eq!(unpark(ctx, &two, "limit", 5).await?, 1, "unparked in the second queue");
    let delivery = ctx.take_one(&second).await?;
    ctx.complete(&second, &delivery).await?;
    ctx.nothing(&first, "the first queue's stays parked").await
}

/// They were there already: whoever was held is not punished for it.
async fn unparked_come_before_fresher_ones(ctx: &Ctx) -> Outcome {
    let (queue, consumer) = parked(ctx, &["a", "b", "c"], "limit").await?;
    ctx.publish_texts(&queue, &["fresh"]).await?;
    check_eq!(unpark(ctx, &queue, "limit", 2).await?, 2, "how many were unparked");
    let got = ctx.take(&consumer, 3).await?;
    check_eq!(texts(&got), ["a", "b", "fresh"], "the oldest of those that were unparked, then what came meanwhile");
    ctx.complete_all(&consumer, &got).await
}

/// Nobody remembers the key, so the job comes to look: not at once, and not later than it may wait.
async fn without_a_store_it_looks_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("park");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let at_most = Duration::from_secs(5);
    let before = Instant::now();
    ctx.end(&consumer, &delivery, park("limit", at_most)).await?;
    let again = ctx.take_one(&consumer).await?;
    let took = before.elapsed();
    check!(took >= Duration::from_millis(100), "a parked job that comes again after {took:?} makes its worker spin");
    check!(took <= at_most + ctx.lateness(at_most), "parked for {at_most:?} at most, it came after {took:?}");
    check_eq!(again.attempt, 1, "parking spends no attempt");
    let refused = ctx.provider().unpark(&queue, &ParkKey("limit".into()), 1).await.err();
    check_eq!(refused.map(|error| error.code()), Some(queue_core::ErrorCode::Unsupported), "unpark without a store");
    ctx.complete(&consumer, &again).await
}
