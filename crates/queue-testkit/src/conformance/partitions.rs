//! Parts of a queue: shares by weight, and concurrency of their own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue_core::{
    Envelope, ErrorCode, JobError, QueueName,
    job::{Headers, LimitKeys, RawHeaders},
    provider::{Delivery, Disposition, FollowUp, PublishOutcome, Rejection, ReleaseReason, SettleOutcome, Settlement},
    queue_spec::Partition,
};
use tokio::time::Instant;

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq},
    context::{text, texts},
};

cases! { "partitions";
    claims_are_shared_by_weight [Partitions]
    nothing_is_saved_up_while_idle [Partitions]
    order_holds_within_a_partition [Partitions, ExactPriority]
    concurrency_is_exact_and_blocks_nobody_else [Partitions]
    a_freed_place_wakes_who_waits [Partitions]
    a_lost_lease_frees_its_place [Partitions, Theft]
    a_retried_job_stays_in_its_partition [Partitions, Retry]
    unknown_partition_is_refused []
    unknown_partition_of_a_follow_up_is_refused [Partitions]
}

fn part(weight: u32) -> Partition {
    Partition { weight, ..Partition::default() }
}

fn tight() -> Partition {
    Partition { max_concurrency: Some(1), ..Partition::default() }
}

async fn parted(ctx: &Ctx, partitions: &[(&str, Partition)]) -> Outcome<QueueName> {
    let partitions: BTreeMap<Arc<str>, Partition> =
        partitions.iter().map(|(name, partition)| (Arc::from(*name), *partition)).collect();
    ctx.declared("parted", |spec| spec.partitions = partitions).await
}

/// A job of that partition, whose text is the partition's name.
fn of(ctx: &Ctx, partition: &str) -> Outcome<Envelope> {
    let keys = LimitKeys { partition: Some(partition.into()), ..LimitKeys::default() };
    let mut job = ctx.job(partition);
    job.headers = RawHeaders::encode(&Headers { keys, ..Headers::default() })?;
    Ok(job.seal())
}

async fn fill(ctx: &Ctx, queue: &QueueName, partition: &str, n: usize) -> Outcome {
    let jobs: Outcome<Vec<Envelope>> = (0..n).map(|_| of(ctx, partition)).collect();
    ctx.publish_all(queue, jobs?).await?;
    Ok(())
}

fn count(deliveries: &[Delivery], partition: &str) -> usize {
    deliveries.iter().filter(|delivery| text(delivery) == partition).count()
}

/// Three to one, within 5 %, singly and in batches.
async fn claims_are_shared_by_weight(ctx: &Ctx) -> Outcome {
    for batch in [1, 4, 40] {
        let queue = parted(ctx, &[("heavy", part(3)), ("light", part(1))]).await?;
        fill(ctx, &queue, "light", 200).await?;
        fill(ctx, &queue, "heavy", 200).await?;
        let consumer = ctx.consumer(&queue).await?;
        let mut heavy = 0;
        for _ in 0..200 / batch {
            let got = ctx.take(&consumer, batch).await?;
            heavy += count(&got, "heavy");
            ctx.complete_all(&consumer, &got).await?;
        }
        check!((143..=157).contains(&heavy), "with weights 3:1, {heavy} of 200 were heavy in batches of {batch}");
    }
    Ok(())
}

async fn nothing_is_saved_up_while_idle(ctx: &Ctx) -> Outcome {
    let queue = parted(ctx, &[("busy", part(1)), ("idle", part(1))]).await?;
    let consumer = ctx.consumer(&queue).await?;
    fill(ctx, &queue, "busy", 150).await?;
    let got = ctx.take(&consumer, 100).await?;
    ctx.complete_all(&consumer, &got).await?;
    fill(ctx, &queue, "idle", 50).await?;
    let got = ctx.take(&consumer, 40).await?;
    let busy = count(&got, "busy");
    check!((17..=23).contains(&busy), "the busy one had {busy} of 40 when the idle one came back");
    Ok(())
}

async fn order_holds_within_a_partition(ctx: &Ctx) -> Outcome {
    let queue = parted(ctx, &[("a", part(1))]).await?;
    let mut jobs = Vec::new();
    for (name, level) in [("3", 5), ("4", 5), ("1", 15), ("2", 9)] {
        jobs.push(of(ctx, "a")?.edit(|job| job.payload = name.into()));
        jobs.push(ctx.ranked(format!("default {name}"), level));
        if let Some(job) = jobs.len().checked_sub(2).and_then(|at| jobs.get_mut(at)) {
            let level = queue_core::Priority::new(level)?;
            *job = job.edit(|job| job.priority = level);
        }
    }
    ctx.publish_all(&queue, jobs).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = texts(&ctx.take(&consumer, 8).await?);
    for prefix in ["default ", ""] {
        let own: Vec<&str> =
            got.iter().filter_map(|text| text.strip_prefix(prefix)).filter(|text| text.len() == 1).collect();
        check_eq!(own, ["1", "2", "3", "4"], "by priority, then first in, first out, in each partition");
    }
    Ok(())
}

async fn concurrency_is_exact_and_blocks_nobody_else(ctx: &Ctx) -> Outcome {
    let two = Partition { max_concurrency: Some(2), ..Partition::default() };
    let queue = parted(ctx, &[("tight", two)]).await?;
    fill(ctx, &queue, "tight", 6).await?;
    fill(ctx, &queue, "default", 6).await?;
    let (first, second) = (ctx.consumer(&queue).await?, ctx.consumer(&queue).await?);
    let mut held = ctx.take(&first, 3).await?;
    let more = ctx.collect(&second, 10, ctx.quiet_time()).await?;
    check_eq!(count(&held, "tight") + count(&more, "tight"), 2, "of the tight partition, in both consumers");
    check_eq!(held.len() + more.len(), 8, "with all of the other partition, in both consumers");
    held.retain(|delivery| text(delivery) == "tight");
    ctx.complete_all(&first, &held).await?;
    let again = ctx.collect(&second, 10, ctx.quiet_time()).await?;
    check_eq!(again.len(), held.len(), "how many came for those that ended");
    Ok(())
}

async fn a_freed_place_wakes_who_waits(ctx: &Ctx) -> Outcome {
    let ends = [
        Disposition::Complete { result: None },
        Disposition::Cancelled,
        Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown },
    ];
    for end in ends {
        let queue = parted(ctx, &[("tight", tight())]).await?;
        fill(ctx, &queue, "tight", 2).await?;
        let (first, second) = (ctx.consumer(&queue).await?, ctx.consumer(&queue).await?);
        let held = ctx.take_one(&first).await?;
        let task =
            tokio::spawn(
                async move { second.fetch(5, Duration::from_secs(30)).await.map(|got| (got, Instant::now())) },
            );
        tokio::time::sleep(ctx.quiet_time()).await;
        let freed = Instant::now();
        ctx.end(&first, &held, end.clone()).await?;
        let (got, at) = task.await.map_err(|error| Failed(error.to_string()))??;
        check_eq!(got.len(), 1, "how many came when one ended with {end:?}");
        check!(at - freed <= ctx.promptly(), "after {end:?} the next came in {:?}", at - freed);
    }
    Ok(())
}

async fn a_lost_lease_frees_its_place(ctx: &Ctx) -> Outcome {
    let queue = parted(ctx, &[("tight", tight())]).await?;
    fill(ctx, &queue, "tight", 2).await?;
    let silent = ctx.connect().await?;
    let first = ctx.consumer_on(&silent, &queue, 5, ctx.facts().lease).await?;
    ctx.take_one(&first).await?;
    let second = ctx.consumer(&queue).await?;
    if ctx.facts().crash {
        ctx.crash(silent).await;
    }
    let next = ctx.take_one(&second).await?;
    ctx.nothing(&second, "it has the only place").await?;
    ctx.complete(&second, &next).await
}

async fn a_retried_job_stays_in_its_partition(ctx: &Ctx) -> Outcome {
    let queue = parted(ctx, &[("tight", tight())]).await?;
    fill(ctx, &queue, "tight", 2).await?;
    let consumer = ctx.consumer(&queue).await?;
    for after in [Duration::ZERO, Duration::from_millis(200)] {
        let delivery = ctx.take_one(&consumer).await?;
        let error = JobError::custom("TEMP", "again");
        ctx.end(&consumer, &delivery, Disposition::Retry { after, error }).await?;
        tokio::time::sleep(ctx.by_then(after)).await;
        let got = ctx.collect(&consumer, 5, ctx.quiet_time()).await?;
        check_eq!(got.len(), 1, "of two jobs of a partition that runs one at a time, of which one was retried");
        let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
        ctx.end(&consumer, &got[0], release).await?;
    }
    Ok(())
}

/// Never silently ignored, not even by who has no partitions at all.
async fn unknown_partition_is_refused(ctx: &Ctx) -> Outcome {
    let plain = ctx.declared("plain", |_| {}).await?;
    refuses(ctx, &plain, &["default"]).await?;
    if ctx.caps().partitions.is_supported() {
        let queue = parted(ctx, &[("bulk", part(1))]).await?;
        refuses(ctx, &queue, &["default", "bulk"]).await?;
    }
    Ok(())
}

async fn refuses(ctx: &Ctx, queue: &QueueName, exist: &[&str]) -> Outcome {
    let batch = vec![of(ctx, "default")?, of(ctx, "nowhere")?, ctx.job("default").seal()];
    let outcomes = ctx.offer(queue, batch).await?;
    let (PublishOutcome::Rejected(Rejection::Denied(error)), true, true) =
        (&outcomes[1], outcomes[0].is_accepted(), outcomes[2].is_accepted())
    else {
        return Err(Failed(format!("a partition that is not there, between two that are: {outcomes:?}")));
    };
    check_eq!(error.code(), ErrorCode::Validation, "{error}");
    let named = exist.iter().chain(&["nowhere"]).all(|name| error.message().contains(name));
    check!(named, "the refusal does not name the partition and those that exist: {error}");
    let consumer = ctx.consumer(queue).await?;
    let got = ctx.collect(&consumer, 5, ctx.quiet_time()).await?;
    check_eq!(texts(&got), ["default", "default"], "what was accepted");
    ctx.complete_all(&consumer, &got).await
}

async fn unknown_partition_of_a_follow_up_is_refused(ctx: &Ctx) -> Outcome {
    let queue = parted(ctx, &[("bulk", part(1))]).await?;
    fill(ctx, &queue, "bulk", 1).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let mut settlement = Settlement::new(delivery.receipt, Disposition::Complete { result: None });
    settlement.then.push(FollowUp { queue: queue.clone(), envelope: of(ctx, "nowhere")? });
    match ctx.settle_with(&consumer, settlement).await? {
        SettleOutcome::NotSettled { then_index: Some(0), error } => {
            check_eq!(error.code(), ErrorCode::Validation, "{error}");
        }
        other => return Err(Failed(format!("a follow-up into a partition that is not there was answered {other:?}"))),
    }
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "the follow-up was refused").await
}
