//! Not before its time, and soon after.

use std::time::Duration;

use queue_core::{
    Timestamp,
    provider::{PublishOutcome, Rejection},
};
use tokio::time::Instant;

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::{text, texts},
};

cases! { "delay";
    never_early_and_soon_after [Delay]
    in_the_order_of_their_times [Delay]
    holds_nobody_else_up [Delay]
    past_time_is_no_delay [Delay]
    too_long_is_refused [Delay]
    endless_is_no_overflow [Delay]
    due_jobs_keep_their_priority [Delay, Priority, StrictPriority]
    two_leaders_promote_once [Delay]
}

async fn never_early_and_soon_after(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("delay");
    let consumer = ctx.consumer(&queue).await?;
    for delay in [Duration::from_secs(3), Duration::from_millis(450)] {
        let job = ctx.delayed("later", delay);
        let due = job.not_before.unwrap_or(Timestamp::MAX);
        let before = Instant::now();
        ctx.publish(&queue, job).await?;
        let delivery = ctx.take_one(&consumer).await?;
        let now = ctx.now();
        check!(now >= due, "delivered {:?} early", now.until(due));
        let took = before.elapsed();
        check!(took <= delay + ctx.lateness(delay), "a delay of {delay:?} took {took:?}");
        check_eq!(delivery.attempt, 1, "the attempt");
        ctx.complete(&consumer, &delivery).await?;
    }
    Ok(())
}

async fn in_the_order_of_their_times(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("delay");
    let apart = ctx.by_then(Duration::from_secs(1));
    let jobs = [("c", 3), ("a", 1), ("b", 2)];
    ctx.publish_all(&queue, jobs.iter().map(|(name, n)| ctx.delayed(name, apart * *n)).collect()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let mut order = Vec::new();
    for _ in 0..3 {
        let delivery = ctx.take_one(&consumer).await?;
        order.push(text(&delivery));
        ctx.complete(&consumer, &delivery).await?;
    }
    check_eq!(order, ["a", "b", "c"], "the order of their times");
    Ok(())
}

async fn holds_nobody_else_up(ctx: &Ctx) -> Outcome {
    // Whoever makes the queue first has no delay left.
    let queue = ctx.declared("delay", |_| {}).await?;
    let consumer = ctx.consumer(&queue).await?;
    let mut first = String::new();
    for delay in ctx.stretched(Duration::from_secs(2)) {
        let before = Instant::now();
        ctx.publish_all(&queue, vec![ctx.delayed("later", delay), ctx.job("now").seal()]).await?;
        let published = Instant::now();
        let got = ctx.take_one(&consumer).await?;
        check!(published.elapsed() <= ctx.promptly(), "the job without a delay took {:?}", published.elapsed());
        let in_time = before.elapsed() < delay;
        ctx.complete(&consumer, &got).await?;
        let second = ctx.take_one(&consumer).await?;
        ctx.complete(&consumer, &second).await?;
        first = text(&got);
        if in_time {
            break;
        }
    }
    check_eq!(first, "now", "what came first");
    Ok(())
}

async fn past_time_is_no_delay(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("delay");
    ctx.publish(&queue, ctx.job("a").seal().edit(|job| job.not_before = Some(Timestamp::from_millis(1)))).await?;
    let consumer = ctx.consumer(&queue).await?;
    let before = Instant::now();
    let delivery = ctx.take_one(&consumer).await?;
    check!(before.elapsed() <= ctx.promptly(), "a time that is past delayed it by {:?}", before.elapsed());
    ctx.complete(&consumer, &delivery).await
}

async fn too_long_is_refused(ctx: &Ctx) -> Outcome {
    let Some(max) = ctx.caps().delay_max else { return Ok(()) };
    let queue = ctx.queue("delay");
    let batch = vec![ctx.job("fine").seal(), ctx.delayed("too long", max + Duration::from_secs(60))];
    let outcomes = ctx.offer(&queue, batch).await?;
    check_matches!(outcomes[0], PublishOutcome::Accepted { .. }, "the neighbour");
    check_matches!(outcomes[1], PublishOutcome::Rejected(Rejection::DelayTooLong { .. }), "a delay beyond the longest");
    Ok(())
}

async fn endless_is_no_overflow(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("delay");
    let job = ctx.job("never").seal().edit(|job| job.not_before = Some(Timestamp::MAX));
    let outcome = ctx.offer_one(&queue, job).await?;
    let fits =
        matches!(outcome, PublishOutcome::Accepted { .. } | PublishOutcome::Rejected(Rejection::DelayTooLong { .. }));
    check!(fits, "a delay to the end of time was answered {outcome:?}");
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "the end of time has not come").await
}

async fn due_jobs_keep_their_priority(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("delay");
    let delay = Duration::from_secs(1);
    let due = Some(ctx.now() + delay);
    let jobs = [("low", 1), ("high", 15), ("middle", 8)];
    let batch = jobs.iter().map(|(name, level)| ctx.ranked(name, *level).edit(|job| job.not_before = due)).collect();
    ctx.publish_all(&queue, batch).await?;
    tokio::time::sleep(ctx.by_then(delay)).await;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let mut order = Vec::new();
    for _ in 0..3 {
        let delivery = ctx.take_one(&consumer).await?;
        order.push(text(&delivery));
        ctx.complete(&consumer, &delivery).await?;
    }
    check_eq!(order, ["high", "middle", "low"], "due jobs by priority");
    Ok(())
}

async fn two_leaders_promote_once(ctx: &Ctx) -> Outcome {
    // Each connection of a case runs maintenance as a leader does; a promotion must happen once all the same.
    let other = ctx.connect().await?;
    let queue = ctx.queue("delay");
    ctx.publish_all(&queue, (0..20).map(|n| ctx.delayed(n.to_string(), Duration::from_secs(1))).collect()).await?;
    let consumers = [ctx.consumer(&queue).await?, ctx.consumer_on(&other, &queue, 100, ctx.long_lease()).await?];
    let mut got = Vec::new();
    let end = Instant::now() + ctx.by_then(Duration::from_secs(1)) + ctx.quiet_time();
    while Instant::now() < end {
        for consumer in &consumers {
            got.extend(consumer.fetch(7, Duration::from_millis(100)).await?);
        }
    }
    let mut ids: Vec<_> = got.iter().map(|delivery| delivery.envelope.id).collect();
    ids.sort_unstable();
    ids.dedup();
    check_eq!((got.len(), ids.len()), (20, 20), "deliveries, and different jobs among them: {:?}", texts(&got));
    Ok(())
}
