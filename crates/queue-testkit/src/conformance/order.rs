//! Order with a bound on waiting.

use std::time::Duration;

use queue_core::{QueueName, queue_spec::Order};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq},
    context::{text, texts},
};

cases! { "order";
    aged_low_runs_within_its_bound [AgedOrder, Priority]
    aged_order_is_by_priority_at_first [AgedOrder, ExactPriority]
    aged_flood_of_low_holds_nothing_higher_back [AgedOrder, Priority]
    aged_counts_from_when_a_job_is_ready [AgedOrder, Priority, Delay]
}

const BOUND: Duration = Duration::from_secs(4);
const HIGH: u8 = 15;
const LOW: u8 = 1;

async fn aged(ctx: &Ctx) -> Outcome<QueueName> {
    ctx.declared("aged", |spec| spec.order = Order::Aged { bound: BOUND }).await
}

/// One worker, and always more of the high ones than it can do.
async fn aged_low_runs_within_its_bound(ctx: &Ctx) -> Outcome {
    let queue = aged(ctx).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let begin = Instant::now();
    ctx.publish_all(&queue, (0..3).map(|n| ctx.ranked(format!("low {n}"), LOW)).collect()).await?;
    let (mut low, mut ran) = (0, 0);
    while low < 3 {
        check!(begin.elapsed() < BOUND + ctx.promptly(), "{low} of 3 low ones ran within {:?}", begin.elapsed());
        ctx.publish_all(&queue, (0..2).map(|n| ctx.ranked(format!("high {n}"), HIGH)).collect()).await?;
        let delivery = ctx.take_one(&consumer).await?;
        sleep(Duration::from_millis(50)).await;
        low += u32::from(text(&delivery).starts_with("low"));
        ctx.complete(&consumer, &delivery).await?;
        ran += 1;
    }
    check!(ran > 3 + 10, "of {ran} jobs 3 were low, and the high ones had to wait for them");
    Ok(())
}

async fn aged_order_is_by_priority_at_first(ctx: &Ctx) -> Outcome {
    let queue = aged(ctx).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let jobs = [(LOW, "e"), (5, "c"), (HIGH, "a"), (5, "d"), (9, "b")];
    ctx.publish_all(&queue, jobs.iter().map(|(level, name)| ctx.ranked(name, *level)).collect()).await?;
    sleep(BOUND / 8).await;
    let mut order = Vec::new();
    for _ in jobs {
        let delivery = ctx.take_one(&consumer).await?;
        order.extend(texts(std::slice::from_ref(&delivery)));
        ctx.complete(&consumer, &delivery).await?;
    }
    check_eq!(order, ["a", "b", "c", "d", "e"], "what came while nothing had waited for long");
    Ok(())
}

async fn aged_flood_of_low_holds_nothing_higher_back(ctx: &Ctx) -> Outcome {
    let queue = aged(ctx).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    ctx.publish_all(&queue, (0..40).map(|n| ctx.ranked(format!("low {n}"), LOW)).collect()).await?;
    sleep(BOUND + ctx.promptly()).await;
    ctx.publish_all(&queue, (0..4).map(|n| ctx.ranked(format!("high {n}"), HIGH)).collect()).await?;
    let mut high = 0;
    for _ in 0..12 {
        let delivery = ctx.take_one(&consumer).await?;
        high += u32::from(text(&delivery).starts_with("high"));
        ctx.complete(&consumer, &delivery).await?;
    }
    check_eq!(high, 4, "high ones among the next twelve, with forty overdue ones before them");
    Ok(())
}

async fn aged_counts_from_when_a_job_is_ready(ctx: &Ctx) -> Outcome {
    let queue = aged(ctx).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    ctx.publish(&queue, ctx.delayed("low", BOUND).edit(|job| job.priority = queue_core::Priority::LOW)).await?;
    // Should it come late, it is not before the others either.
    sleep(BOUND + BOUND / 8).await;
    ctx.publish_all(&queue, (0..3).map(|n| ctx.ranked(format!("high {n}"), HIGH)).collect()).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(text(&delivery), "high 0", "what came first, when the delayed low one had been ready for a moment");
    ctx.complete(&consumer, &delivery).await
}
