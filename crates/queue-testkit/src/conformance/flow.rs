//! Holding back: full queues, pause, purge.

use std::{sync::Arc, time::Duration};

use queue_core::{
    JobError, JobId, QueueName,
    provider::{
        DeadFilter, Disposition, FollowUp, OnFull, PublishOptions, PublishOutcome, Redrive, Rejection, ReleaseReason,
        SettleOutcome, Settlement,
    },
};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::texts,
};

cases! { "flow";
    full_queue_rejects_what_has_no_room [MaxLen]
    running_jobs_take_no_room [MaxLen]
    scheduled_and_retrying_jobs_take_room [MaxLen, Delay, Retry]
    full_queue_lets_the_publisher_wait [MaxLen]
    waiting_for_room_ends_at_the_deadline [MaxLen]
    each_item_waits_for_itself [MaxLen]
    retries_and_releases_find_room [MaxLen, Retry]
    redrives_and_follow_ups_find_room [MaxLen, DeadLetters]
    known_id_needs_no_room [MaxLen, DedupById]
    pause_holds_back_and_resumes [Pause]
    pause_reaches_a_waiting_fetch [Pause]
    pause_leaves_running_jobs_alone [Pause]
    pause_is_the_queues_own [Pause]
    purge_removes_what_waits [Purge]
    purge_removes_scheduled_and_retrying [Purge, Delay, Retry, ScheduledInReach]
    purge_leaves_the_dead [Purge, DeadLetters]
    purge_frees_unique_keys [Purge, UniqueKeys]
    purge_makes_room [Purge, MaxLen]
}

async fn small(ctx: &Ctx, max_len: u64) -> Outcome<QueueName> {
    ctx.declared("full", |spec| spec.max_len = Some(max_len)).await
}

fn words(outcomes: &[PublishOutcome]) -> Vec<&'static str> {
    let word = |outcome: &PublishOutcome| match outcome {
        PublishOutcome::Accepted { .. } => "accepted",
        PublishOutcome::Rejected(Rejection::Full) => "full",
        _ => "other",
    };
    outcomes.iter().map(word).collect()
}

async fn full_queue_rejects_what_has_no_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 3).await?;
    ctx.publish_texts(&queue, &["a"]).await?;
    let batch = ["b", "c", "d", "e"].iter().map(|name| ctx.job(name).seal()).collect();
    let outcomes = ctx.offer(&queue, batch).await?;
    check_eq!(words(&outcomes), ["accepted", "accepted", "full", "full"], "four more into a queue of three");
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 3).await?;
    ctx.nothing(&consumer, "the rest was rejected").await?;
    ctx.complete_all(&consumer, &got).await?;
    ctx.publish_texts(&queue, &["f", "g", "h"]).await.map(drop)
}

async fn running_jobs_take_no_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 2).await?;
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.publish_texts(&queue, &["c", "d"]).await?;
    let outcome = ctx.offer_one(&queue, ctx.job("e").seal()).await?;
    check_matches!(outcome, PublishOutcome::Rejected(Rejection::Full), "two wait");
    ctx.complete_all(&consumer, &got).await
}

async fn scheduled_and_retrying_jobs_take_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 2).await?;
    ctx.publish_texts(&queue, &["retries"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let after = Duration::from_secs(600);
    ctx.end(&consumer, &delivery, Disposition::Retry { after, error: JobError::custom("TEMP", "again") }).await?;
    ctx.publish(&queue, ctx.delayed("later", after)).await?;
    for job in [ctx.job("now").seal(), ctx.delayed("later still", after)] {
        let outcome = ctx.offer_one(&queue, job).await?;
        check_matches!(outcome, PublishOutcome::Rejected(Rejection::Full), "one is retrying, one scheduled");
    }
    Ok(())
}

fn waiting(deadline: Duration) -> PublishOptions {
    PublishOptions { deadline, on_full: OnFull::Wait, ..PublishOptions::default() }
}

async fn full_queue_lets_the_publisher_wait(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 1).await?;
    ctx.publish_texts(&queue, &["a"]).await?;
    let publishing = {
        let (provider, queue, job) = (Arc::clone(ctx.provider()), queue.clone(), ctx.job("b").seal());
        tokio::spawn(async move {
            let outcomes = provider.publish(&queue, vec![job], &waiting(Duration::from_secs(60))).await;
            (outcomes, Instant::now())
        })
    };
    sleep(Duration::from_millis(600)).await;
    check!(!publishing.is_finished(), "the publisher did not wait for room");
    let consumer = ctx.narrow_consumer(&queue, 5).await?;
    let first = ctx.take_one(&consumer).await?;
    let room = Instant::now();
    let (outcomes, at) = publishing.await.map_err(|error| Failed(format!("the publisher panicked: {error}")))?;
    check_eq!(words(&outcomes), ["accepted"], "when there was room");
    let took = at.saturating_duration_since(room);
    check!(took <= ctx.promptly() + Duration::from_secs(1), "room was found after {took:?}");
    let second = ctx.take_one(&consumer).await?;
    ctx.complete_all(&consumer, &[first, second]).await
}

async fn waiting_for_room_ends_at_the_deadline(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 1).await?;
    ctx.publish_texts(&queue, &["a"]).await?;
    let deadline = Duration::from_millis(1_500);
    let before = Instant::now();
    let outcomes = ctx.provider().publish(&queue, vec![ctx.job("b").seal()], &waiting(deadline)).await;
    let took = before.elapsed();
    check_eq!(words(&outcomes), ["full"], "at the deadline");
    check!(took + Duration::from_millis(20) >= deadline, "the publisher gave up after {took:?} of {deadline:?}");
    check!(took <= deadline + ctx.promptly(), "the publisher gave up only after {took:?} of {deadline:?}");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.nothing(&consumer, "the second was answered as full").await?;
    ctx.complete(&consumer, &delivery).await
}

async fn each_item_waits_for_itself(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 2).await?;
    let batch = ["a", "b", "c"].iter().map(|name| ctx.job(name).seal()).collect();
    let outcomes = ctx.provider().publish(&queue, batch, &waiting(Duration::from_millis(500))).await;
    check_eq!(words(&outcomes), ["accepted", "accepted", "full"], "three into a queue of two");
    Ok(())
}

async fn retries_and_releases_find_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 2).await?;
    ctx.publish_texts(&queue, &["retried", "released"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.publish_texts(&queue, &["c", "d"]).await?;
    let error = JobError::custom("TEMP", "again");
    ctx.end(&consumer, &got[0], Disposition::Retry { after: Duration::ZERO, error }).await?;
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    ctx.end(&consumer, &got[1], release).await?;
    consumer.close(Duration::from_secs(1)).await;
    let other = ctx.consumer(&queue).await?;
    let mut found = texts(&ctx.take(&other, 4).await?);
    found.sort_unstable();
    check_eq!(found, ["c", "d", "released", "retried"], "all of them are there");
    Ok(())
}

async fn redrives_and_follow_ups_find_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 2).await?;
    ctx.publish_texts(&queue, &["dead", "done"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    for delivery in ctx.take(&consumer, 2).await? {
        if super::context::text(&delivery) == "dead" {
            let error = JobError::custom("BAD", "no use");
            ctx.end(&consumer, &delivery, Disposition::DeadLetter { error }).await?;
            continue;
        }
        ctx.publish_texts(&queue, &["c", "d"]).await?;
        let id = JobId::derive(delivery.envelope.id.as_bytes(), 0);
        let envelope = ctx.job("follow-up").seal().edit(|job| job.id = id);
        let then = vec![FollowUp { queue: queue.clone(), envelope }];
        let settlement =
            Settlement { receipt: delivery.receipt, disposition: Disposition::Complete { result: None }, then };
        let outcome = ctx.settle_with(&consumer, settlement).await?;
        check_matches!(outcome, SettleOutcome::Settled, "a follow-up into a full queue");
    }
    let waits = ctx.stats(&queue).await.map(|stats| stats.waiting()).unwrap_or(2);
    if waits < 2 {
        ctx.publish_texts(&queue, &["e"]).await?;
    }
    let report = ctx.provider().admin().redrive(&queue, &Redrive::all()).await?;
    check_eq!((report.matched, report.redriven), (1, 1), "a redrive into a full queue");
    consumer.close(Duration::from_secs(1)).await;
    let other = ctx.consumer(&queue).await?;
    let found = texts(&ctx.take(&other, 4).await?);
    for name in ["c", "d", "dead", "follow-up"] {
        check!(found.iter().any(|other| other == name), "{name} is missing among {found:?}");
    }
    Ok(())
}

async fn known_id_needs_no_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 1).await?;
    let job = ctx.job("a").seal();
    ctx.publish(&queue, job.clone()).await?;
    ctx.publish(&queue, job).await.map(drop)
}

// Pause.

async fn pause(ctx: &Ctx, queue: &QueueName, paused: bool) -> Outcome {
    ctx.provider().admin().pause(queue, paused).await?;
    Ok(())
}

/// A pause is obeyed within a second.
const OBEYED: Duration = Duration::from_millis(1_100);

async fn pause_holds_back_and_resumes(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("pause");
    let consumer = ctx.consumer(&queue).await?;
    pause(ctx, &queue, true).await?;
    pause(ctx, &queue, true).await?;
    sleep(OBEYED).await;
    ctx.publish_texts(&queue, &["held"]).await?;
    ctx.nothing(&consumer, "the queue is paused").await?;
    check!(ctx.stats(&queue).await?.paused, "the statistics do not say that it is paused");
    let waiting = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { (consumer.fetch(1, Duration::from_secs(60)).await, Instant::now()) })
    };
    sleep(Duration::from_millis(200)).await;
    let resumed = Instant::now();
    pause(ctx, &queue, false).await?;
    let (got, at) = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))?;
    let got = got?;
    check_eq!(texts(&got), ["held"], "what was held back");
    let took = at.saturating_duration_since(resumed);
    check!(took <= OBEYED + ctx.promptly(), "the queue went on after {took:?}");
    check_eq!(got[0].attempt, 1, "a pause spends no attempt");
    check!(!ctx.stats(&queue).await?.paused, "the statistics still say that it is paused");
    ctx.complete_all(&consumer, &got).await
}

async fn pause_reaches_a_waiting_fetch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("pause");
    let consumer = ctx.consumer(&queue).await?;
    let waiting = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { consumer.fetch(1, Duration::from_secs(4)).await })
    };
    sleep(Duration::from_millis(200)).await;
    pause(ctx, &queue, true).await?;
    sleep(OBEYED).await;
    ctx.publish_texts(&queue, &["held"]).await?;
    let got = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))??;
    check!(got.is_empty(), "the queue is paused: {:?} came", texts(&got));
    pause(ctx, &queue, false).await?;
    ctx.take_one(&consumer).await.map(drop)
}

async fn pause_leaves_running_jobs_alone(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("pause");
    ctx.publish_texts(&queue, &["running", "held"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let running = ctx.take_one(&consumer).await?;
    pause(ctx, &queue, true).await?;
    sleep(OBEYED).await;
    ctx.complete(&consumer, &running).await?;
    ctx.nothing(&consumer, "the queue is paused").await?;
    pause(ctx, &queue, false).await?;
    ctx.take_one(&consumer).await.map(drop)
}

async fn pause_is_the_queues_own(ctx: &Ctx) -> Outcome {
    let (paused, other) = (ctx.declared("pause", |_| {}).await?, ctx.queue("pause"));
    pause(ctx, &paused, true).await?;
    sleep(OBEYED).await;
    ctx.publish_texts(&other, &["free"]).await?;
    let consumer = ctx.consumer(&other).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

// Purge.

async fn purge(ctx: &Ctx, queue: &QueueName) -> Outcome<u64> {
    Ok(ctx.provider().admin().purge(queue).await?)
}

async fn purge_removes_what_waits(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("purge");
    ctx.publish_texts(&queue, &["a", "b", "c", "d"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let running = ctx.take_one(&consumer).await?;
    check_eq!(purge(ctx, &queue).await?, 3, "how many were removed");
    ctx.complete(&consumer, &running).await?;
    ctx.nothing(&consumer, "the rest was purged").await?;
    check_eq!(purge(ctx, &queue).await?, 0, "how many were removed again");
    ctx.publish_texts(&queue, &["e"]).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn purge_removes_scheduled_and_retrying(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("purge");
    ctx.publish_texts(&queue, &["retries"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let after = Duration::from_secs(2);
    ctx.end(&consumer, &delivery, Disposition::Retry { after, error: JobError::custom("TEMP", "again") }).await?;
    ctx.publish(&queue, ctx.delayed("later", after)).await?;
    check_eq!(purge(ctx, &queue).await?, 2, "how many were removed");
    sleep(after).await;
    ctx.nothing(&consumer, "what was to come later was purged").await
}

async fn purge_leaves_the_dead(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("purge");
    ctx.publish_texts(&queue, &["dead"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }).await?;
    consumer.demand(0).await?;
    ctx.publish_texts(&queue, &["waiting"]).await?;
    check_eq!(purge(ctx, &queue).await?, 1, "how many were removed");
    let dead = ctx.provider().admin().dead(&queue, &DeadFilter::default(), None, 10).await?;
    check_eq!(dead.items.len(), 1, "the dead after a purge");
    Ok(())
}

async fn purge_frees_unique_keys(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("purge");
    ctx.publish(&queue, ctx.unique("a", "key", None)).await?;
    purge(ctx, &queue).await?;
    ctx.publish(&queue, ctx.unique("b", "key", None)).await.map(drop)
}

async fn purge_makes_room(ctx: &Ctx) -> Outcome {
    let queue = small(ctx, 2).await?;
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    purge(ctx, &queue).await?;
    ctx.publish_texts(&queue, &["c", "d"]).await.map(drop)
}
